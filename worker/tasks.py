"""The Celery tasks: one for each kind of job. What a job's life is stands in `worker.runner`."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery, Task
from celery.signals import setup_logging

from base.process import die_with
from configs import Settings
from jobs import QUEUED_AT, make_app
from worker.handler import Delivery, Handler
from worker.intake import guard
from worker.kinds import KINDS
from worker.logs import set_up_logging
from worker.monitoring import attend, show
from worker.runner import PutBack, TryLater, run_job
from worker.runtime import Runtime


class WorkerApp(Celery):
    """The app with its tasks. A spawned child gets the settings and builds its own, since closures don't travel."""

    settings: Settings

    def __reduce__(self) -> Any:
        return worker_app, (self.settings, os.getpid())


def worker_app(settings: Settings, parent_pid: int | None = None) -> WorkerApp:
    """Return the worker's app with its tasks registered; a pool child says whose it is. Loads no model."""
    app = make_app(settings, WorkerApp)
    app.settings = settings
    setup_logging.connect(_keep_our_logging, weak=False)
    runtime = Runtime(settings)
    register(app, runtime)
    show(app, runtime)
    if parent_pid is not None:
        set_up_logging(settings)
        die_with(parent_pid)  # without it nobody would take this process's result
    return app


def _keep_our_logging(**_: object) -> None:
    """A receiver of this signal, whatever it does, keeps Celery from setting up logging of its own."""


def register(app: Celery, runtime: Runtime) -> None:
    """Register a task for each kind of job; which ones a worker does is decided by the queue that it consumes."""
    guard(app, runtime)
    attend(app, runtime)
    for kind in KINDS:
        _register(app, runtime, kind)


def _register(app: Celery, runtime: Runtime, kind: type[Handler[Any, Any]]) -> None:
    # shared=False: a second app in this process (every test) must not inherit these closures.
    @app.task(name=kind.message.task, bind=True, shared=False, max_retries=None)  # run_job counts them
    def job_task(task: Task, payload: object) -> str:
        request = task.request
        # Celery would show the arguments of another try in clear, with every path.
        shown = {name: request.get(name, "") for name in ("argsrepr", "kwargsrepr")}
        delivery = Delivery(
            retries=request.retries,
            worker=request.hostname or "",
            tag=(request.properties or {}).get("delivery_tag"),
            queued_at=(request.headers or {}).get(QUEUED_AT),
            show=lambda text: task.send_event("task-progress", result=text),
        )
        try:
            return run_job(kind, runtime, delivery, payload)
        except PutBack as back:
            # First of all: others may take it while this worker, whose one place for a message it holds, pauses.
            again = task.retry(exc=back.__cause__, countdown=0, throw=False, **shown)
            time.sleep(back.pause_s)
            raise again from back.__cause__
        except TryLater as later:
            raise task.retry(exc=later.__cause__, countdown=later.pause_s, **shown) from later.__cause__
