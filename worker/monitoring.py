"""A worker as people see it: what Flower shows of it, its metrics, and what a revoke does to a job."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import redis
from celery import Celery, bootsteps
from celery.signals import task_revoked
from celery.worker import state as worker_state
from celery.worker.control import control_command

from base.process import DRAINED
from jobs import MessageError, from_json
from worker.handler import Handler
from worker.kinds import BY_QUEUE, BY_TASK
from worker.runtime import Runtime

log = logging.getLogger("sortline.worker")

ATTEND_EVERY_S = 1.0


@control_command()
def drain(state: Any, **_: object) -> dict[str, str]:
    """Finish what is at hand, take no more, and end with a code that tells supervisors to leave it so."""
    log.warning("drained: this worker finishes what it has at hand, and ends")
    worker_state.should_stop = DRAINED
    return {"ok": "drains"}


def show(app: Celery, runtime: Runtime) -> None:
    """Let the worker of ``app`` serve metrics, and tell Flower's page of it what it is and what it holds."""

    class Monitoring(bootsteps.StartStopStep):
        """Celery makes one a worker; what ``info`` returns is on the page's tab Other."""

        def start(self, parent: Any) -> None:
            settings = runtime.settings
            runtime.metrics.note_worker(",".join(parent.app.amqp.queues.consume_from), version("sortline"))
            if settings.metrics_port:
                runtime.metrics.serve(settings.metrics_address, settings.metrics_port)

        def stop(self, parent: Any) -> None:
            """The metrics end with the process."""

        def info(self, parent: Any) -> dict[str, object]:
            return description(runtime, list(parent.app.amqp.queues.consume_from))

    app.steps["worker"].add(Monitoring)

    def revoked(sender: Any = None, request: Any = None, terminated: bool = False, **_: object) -> None:
        if sender.name in BY_TASK and sender.app is app:
            end_revoked(BY_TASK[sender.name], runtime, request.args, terminated=terminated)

    task_revoked.connect(revoked, weak=False)


def attend(app: Celery, runtime: Runtime) -> None:
    """Let the worker of ``app`` do every second what its kinds of jobs ask for."""

    class Attendance(bootsteps.StartStopStep):
        """A thread: the worker's own waits for messages, and with the pool `solo` it works."""

        def start(self, parent: Any) -> None:
            self._ended = threading.Event()
            kinds = [BY_QUEUE[name] for name in parent.app.amqp.queues.consume_from if name in BY_QUEUE]
            self._thread = threading.Thread(target=_attend, args=(kinds, runtime, self._ended), daemon=True)
            self._thread.start()

        def stop(self, parent: Any) -> None:
            self._ended.set()
            self._thread.join(ATTEND_EVERY_S)

    app.steps["worker"].add(Attendance)


def _attend(kinds: list[type[Handler[Any, Any]]], runtime: Runtime, ended: threading.Event) -> None:
    while not ended.wait(ATTEND_EVERY_S):
        for kind in kinds:
            with suppress(redis.RedisError):  # it is away, or has a stranger's key there: tried again in a second
                kind.attend(runtime)


def description(runtime: Runtime, queues: list[str]) -> dict[str, object]:
    """Return what people want to know of a worker, as words by name."""
    settings, held = runtime.settings, runtime.metrics.held
    shown: dict[str, object] = {"sortline": f"{', '.join(queues)} worker, {version('sortline')}"}
    if held:
        _, engine = held[-1]
        shown |= {"engine": engine.name, "device": engine.device, "precision": engine.precision}
    else:
        shown |= BY_QUEUE[queues[0]].description(settings)
    shown["rate"] = runtime.metrics.rate
    shown["models"] = ", ".join(str(pin) for pin, _ in held) or "none loaded yet"
    return shown


def end_revoked(kind: type[Handler[Any, Any]], runtime: Runtime, arguments: Any, *, terminated: bool) -> None:
    """Answer a job that was revoked: Celery drops its message, and somebody may follow the job."""
    try:
        job = from_json(kind.message, arguments[0])
    except (MessageError, IndexError, TypeError, KeyError):
        return
    kind.end_revoked(runtime, job, "terminated while it ran" if terminated else "revoked before it started")
