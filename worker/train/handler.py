"""What a training worker does with a job: its events go onto the stream of the job, and its state onto the board."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from base.errors import UnavailableError
from base.fault import fault
from base.install import pip_install
from configs import Settings, SettingsError, read_recipe
from jobs import EventState, JobEvent, SchemaMismatch, TrainModel
from model_store import StoreUnavailable
from worker.errors import JobCancelled, JobRefused, WorkerError
from worker.handler import Delivery, Handler
from worker.runtime import ATTEMPTS, Runtime


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
        self._has_ended = False

    @classmethod
    def check_host(cls, settings: Settings) -> None:
        if find_spec("mindspore") is None:
            raise WorkerError(f"training needs MindSpore on this machine: {pip_install('sortline[train]')}")
        if isinstance(settings.data_root, str):
            raise SettingsError(f"training reads a folder; the data root {settings.data_root} is none")

    @classmethod
    def description(cls, settings: Settings) -> dict[str, object]:
        return {"engine": f"MindSpore {version('mindspore')}", "device": settings.device}

    @classmethod
    def refuse_mismatch(cls, runtime: Runtime, error: SchemaMismatch, worker: str) -> None:
        _end(runtime, JobEvent(job=error.job, state="failed", text=str(error)))

    @classmethod
    def end_revoked(cls, runtime: Runtime, job: TrainModel, why: str) -> None:
        _end(runtime, JobEvent(job=job.job, state="cancelled", text=why))

    def beat(self) -> None:
        if self._has_ended:
            return
        if self.runtime.board.is_cancelled(self.job.job):
            self._cancelled.set()
        title = f"train {self.job.name} on {Path(self.job.dataset).name}"
        self.runtime.board.keep(self.job.job, kind="train", title=title)

    def unwanted(self) -> str | None:
        known = self.runtime.board.get(self.job.job)
        # Delivered twice: its first worker was only slow to acknowledge it.
        return f"already {known.state}" if known is not None and known.ended else None

    @contextmanager
    def attempt(self) -> Iterator[int]:
        number = self.runtime.board.count_attempt(self.job.job)
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
        self._report(self._event("progress", f"waiting: {error}"))

    def refuse(self, error: Exception) -> None:
        self.publish(self._event("failed", str(error) or type(error).__name__))

    def publish(self, result: JobEvent) -> None:
        self._has_ended = True
        _end(self.runtime, result)

    def conclude(self, result: JobEvent) -> str:
        return result.text

    def _report(self, event: JobEvent) -> None:
        self.runtime.publish(event.job, event)
        self.runtime.board.update(event.job, state="running", text=event.text)
        fault("event")
        self.delivery.show(event.text)

    def _event(self, state: EventState, text: str) -> JobEvent:
        return JobEvent(job=self.job.job, state=state, text=text)


def _end(runtime: Runtime, event: JobEvent) -> None:
    runtime.publish(event.job, event)
    runtime.board.update(event.job, state=event.state, text=event.text, model=str(event.model or ""))
