"""What a training worker does with a job: its events go onto the stream of the job, and its state onto the board."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from base.errors import UnavailableError
from base.fault import fault
from base.install import pip_install
from base.temporary import abandoned_folders
from configs import Settings, SettingsError, read_recipe
from jobs import EventState, JobBoard, JobEvent, JobState, SchemaMismatch, TrainModel
from model_store import StoreUnavailable
from worker.errors import JobCancelled, JobRefused, WorkerError
from worker.handler import Delivery, Handler
from worker.lease import beat_s
from worker.runtime import ATTEMPTS, Runtime
from worker.train.events import Events, ask_redis
from worker.train.leftovers import remove_leftovers

BEATS = 3  # of a lease, within which a worker that is at a job shows on the board


class TrainHandler(Handler[TrainModel, JobEvent]):
    """One delivery of one training job."""

    message = TrainModel
    # A child that may crash, be killed and give its memory back. Spawned: MindSpore hangs in a forked child once the
    # parent ran a network.
    pool = {"pool": "prefork", "concurrency": 1, "pool_start_method": "spawn", "max_tasks_per_child": 1}  # noqa: RUF012
    is_in_child = True

    def __init__(self, runtime: Runtime, job: TrainModel, delivery: Delivery) -> None:
        super().__init__(runtime, job, delivery)
        self._cancelled = threading.Event()
        self._has_begun = self._has_ended = False
        self._events = Events(runtime)

    @classmethod
    def check_host(cls, settings: Settings) -> None:
        if find_spec("mindspore") is None:
            raise WorkerError(f"training needs MindSpore on this machine: {pip_install('sortline[train]')}")
        if isinstance(settings.data_root, str):
            raise SettingsError(f"training reads a folder; the data root {settings.data_root} is none")

    @classmethod
    def tidy(cls, settings: Settings, board: JobBoard) -> None:
        remove_leftovers(settings.home, board)
        for folder in abandoned_folders():
            shutil.rmtree(folder, ignore_errors=True)

    @classmethod
    def description(cls, settings: Settings) -> dict[str, object]:
        return {"engine": f"MindSpore {version('mindspore')}", "device": settings.device}

    @classmethod
    def refuse_mismatch(cls, runtime: Runtime, error: SchemaMismatch, worker: str) -> None:
        Events(runtime).send_surely(JobEvent(job=error.job, state="failed", text=str(error)))
        remove_leftovers(runtime.settings.home, runtime.board, error.job)

    @classmethod
    def end_revoked(cls, runtime: Runtime, job: TrainModel, why: str) -> None:
        Events(runtime).send_surely(JobEvent(job=job.job, state="cancelled", text=why))
        remove_leftovers(runtime.settings.home, runtime.board, job.job)

    def beat(self) -> None:
        if self._has_ended or not self._has_begun:
            return
        self._events.deliver()
        if self.runtime.board.is_cancelled(self.job.job):
            self._cancelled.set()
        title = f"train {self.job.name} on {Path(self.job.dataset).name}"
        self.runtime.board.keep(self.job.job, kind="train", title=title)

    def unwanted(self) -> str | None:
        # A message comes twice when its worker was slow to acknowledge it; or is at it still: Redis was away for longer
        # than a lease. Two at one job would publish twice.
        while (known := self._known()) is not None and not known.ended:
            if known.state != "running" or self.delivery.retries or not self._is_at_work(known):
                return None
        return f"already {known.state}" if known is not None else None

    def _known(self) -> JobState | None:
        return ask_redis(lambda: self.runtime.board.get(self.job.job))

    def _is_at_work(self, seen: JobState) -> bool:
        """Whether another worker gives a sign within a few beats that it is at the job."""
        for _ in range(BEATS * 2):
            time.sleep(beat_s(self.runtime.settings.visibility_timeout_s) / 2)
            if (known := self._known()) is None or known.updated != seen.updated:
                return known is not None
        return False

    @contextmanager
    def attempt(self) -> Iterator[int]:
        number = ask_redis(lambda: self.runtime.board.count_attempt(self.job.job))
        self._has_begun = True
        try:
            yield number
        except Exception:
            self.runtime.board.discount_attempt(self.job.job)
            raise

    def work(self, attempt: int) -> JobEvent:
        if attempt > ATTEMPTS:
            raise JobRefused(f"{ATTEMPTS} training processes died on this job; see the training worker's log")
        from worker.train.job import train_model  # MindSpore: never in a label worker

        try:
            trained = train_model(
                self.job,
                read_recipe(self.job.recipe),
                self.runtime,
                report=self._report,
                cancelled=self._cancelled.is_set,
            )
        except JobCancelled:
            return self._event("cancelled", "cancelled before a version was published")
        return JobEvent(job=self.job.job, state="done", text=trained.text, model=trained.pin, scores=trained.scores)

    def may_pass(self, error: Exception) -> bool:
        return isinstance(error, UnavailableError | StoreUnavailable)

    def wait(self, error: Exception, pause_s: float) -> None:
        # Surely: the message is sent anew after this, which takes a Redis that is there.
        self._events.send_surely(self._event("progress", f"waiting: {error}"))

    def refuse(self, error: Exception) -> None:
        self.publish(self._event("failed", str(error) or type(error).__name__))

    def publish(self, result: JobEvent) -> None:
        self._has_ended = True
        self._events.send_surely(result)
        remove_leftovers(self.runtime.settings.home, self.runtime.board, self.job.job)

    def conclude(self, result: JobEvent) -> str:
        return result.text

    def _report(self, event: JobEvent) -> None:
        is_sent = self._events.send(event)
        fault("event")
        if is_sent:
            self.delivery.show(event.text)

    def _event(self, state: EventState, text: str) -> JobEvent:
        return JobEvent(job=self.job.job, state=state, text=text)
