"""What Flower and ``sortline jobs list`` show of a run: one task, whose text says how far it is.

Celery knows only the chunks of a run, so its producer sends the events of a task by hand. Each carries the name of the
worker that sent the newest rows: Flower would count any other name as one more worker.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import redis

from base.text import duration
from jobs import LABEL_RUN
from producer.errors import RunCancelled, RunHeld, RunRefused
from producer.local.session import Session
from producer.run.enqueue import NOT_SENT
from producer.runfile import Progress, RunFile

EVERY_S = 1.0
RATE_WINDOW_S = 10.0


def reported(session: Session, run: RunFile, gathering: Iterator[Progress]) -> Iterator[Progress]:
    """Yield the progress of a run, and report it to Flower and the job board."""
    if run.done == run.total:
        yield from gathering
        return
    events = _RunEvents(session, run)
    try:
        for progress in gathering:
            events.show(progress)
            yield progress
    except (GeneratorExit, KeyboardInterrupt):  # Ctrl-C, or an error of whoever looks at the progress
        events.end("task-revoked", "interrupted", terminated=False)
        events.note(state="interrupted", text="")
        raise
    except RunHeld:
        raise  # the events are those of the producer that is at it
    except RunCancelled as error:
        events.end("task-revoked", str(error), terminated=False)
        events.note(state="cancelled", text=str(error))
        raise
    except Exception as error:
        if isinstance(error, RunRefused):
            events.note_worker(error.worker)
        events.end("task-failed", str(error), exception=str(error))
        events.note(state="interrupted", text=str(error))  # the same command goes on
        raise
    events.end("task-succeeded", events.summary())


def announce(session: Session, run: RunFile) -> None:
    """Let Flower know of a run that nobody gathers yet."""
    _RunEvents(session, run)


class _RunEvents:
    """The events of one run. None of them matters to the run: what can't be sent is dropped."""

    def __init__(self, session: Session, run: RunFile) -> None:
        self._session = session
        self._run = run
        self._at_start = run.done
        self._started = self._said = time.monotonic()
        self._seen = deque([(self._started, run.done)])
        self._newest = Progress(run.done, run.failed, run.total)
        self._worker = ""
        self._send("task-sent", **self._what())

    def show(self, progress: Progress) -> None:
        """Say how far the run is, once a second at most."""
        self._newest = progress
        now = time.monotonic()
        if progress.waiting or not progress.worker or now - self._said < EVERY_S:
            return
        self._begin()
        self._said = now
        self._seen.append((now, progress.done))
        while now - self._seen[0][0] > RATE_WINDOW_S:
            self._seen.popleft()
        text = self._text()
        self._send("task-progress", result=text)
        self.note(text=text)

    def note(self, **values: str) -> None:
        """Note on the board of jobs how the run stands."""
        with contextlib.suppress(redis.RedisError):
            self._session.board.update(self._run.plan.run, done=self._run.done, **values)

    def note_worker(self, worker: str) -> None:
        """Take the name of a worker that has sent no rows."""
        self._newest = replace(self._newest, worker=worker)

    def end(self, kind: str, text: str, **fields: object) -> None:
        """Say how the run ended."""
        self._begin()
        if self._worker:
            self._send(kind, result=text, runtime=time.monotonic() - self._started, **fields)
        else:  # nobody has answered: it stays a task that was sent
            self._send("task-sent", result=text, **self._what())

    def summary(self) -> str:
        """Return what the run came to, as a chunk's result says it."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = (self._newest.done - self._at_start) / seconds
        return f"{self._newest.total} images, {self._newest.failed} failed, {rate:.0f} img/s, {self._run.plan.model}"

    def _begin(self) -> None:
        """Take the name of whoever sent the newest rows; at the first, start the task."""
        is_first = not self._worker
        self._worker = self._newest.worker
        if is_first and self._worker:
            if self._at_start:  # picked up again: only a retry leads out of an end
                self._send("task-retried", exception="resumed", traceback="")
            self._send("task-received", **self._what())
            self._send("task-started")

    def _what(self) -> dict[str, object]:
        plan = self._run.plan
        args = f"label {plan.source}, {self._run.total} images"
        return {"name": LABEL_RUN, "args": args, "kwargs": str(plan.model), "retries": 0}

    def _text(self) -> str:
        (since, before), (until, done) = self._seen[0], self._seen[-1]
        rate = (done - before) / max(until - since, 1e-9)
        text = f"{done}/{self._newest.total} images, {rate:.0f} img/s"
        return f"{text}, eta {duration(round((self._newest.total - done) / rate))}" if rate > 0 else text

    def _send(self, kind: str, **fields: object) -> None:
        with (
            contextlib.suppress(*NOT_SENT),
            self._session.app.events.default_dispatcher(hostname=self._worker or None) as dispatcher,
        ):
            dispatcher.send(kind, uuid=self._run.plan.run, **fields)
