"""What a label worker does with a chunk: its rows go onto the stream of the run."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager

from configs import Settings
from jobs import AWAY, ChunkResult, LabelChunk, SchemaMismatch
from storage import open_folder
from worker.errors import JobRefused
from worker.handler import Handler
from worker.label.chunk import label_chunk
from worker.label.isolated import label_isolated
from worker.label.watchdog import watchdog
from worker.runtime import ATTEMPTS, Runtime

log = logging.getLogger("sortline.worker")


class LabelHandler(Handler[LabelChunk, ChunkResult]):
    """One delivery of one chunk."""

    message = LabelChunk
    in_processes = True
    # Parallelism is inside a chunk; one chunk is at risk, and one engine owns the device.
    pool = {"pool": "threads", "concurrency": 1}  # noqa: RUF012 - never changed

    @classmethod
    def check_host(cls, settings: Settings) -> None:
        if isinstance(settings.data_root, str):
            open_folder(settings.data_root)

    @classmethod
    def description(cls, settings: Settings) -> dict[str, object]:
        return {"engine": settings.engine, "device": settings.device, "precision": settings.precision}

    @classmethod
    def refuse_mismatch(cls, runtime: Runtime, error: SchemaMismatch, worker: str) -> None:
        refusal = ChunkResult(run=error.job, first=error.first, refused=str(error), worker=worker)
        runtime.publish(error.job, refusal)

    def unwanted(self) -> str | None:
        if self.runtime.board.is_wanted(self.job.run):
            return None
        self.runtime.forget_attempts(self.job.run)
        return "cancelled, or done"

    def attempt(self) -> AbstractContextManager[int]:
        return self.runtime.attempt(self.job)

    def work(self, attempt: int) -> ChunkResult:
        job, runtime, worker = self.job, self.runtime, self.delivery.worker
        if attempt > ATTEMPTS:
            log.error(
                "%d workers died on chunk run=%s first=%d: now image by image, in a process of its own",
                attempt - 1, job.run, job.first,
            )  # fmt: skip
            runtime.unload()  # the other process needs the device's memory
            return label_isolated(job, runtime.settings, worker)
        with watchdog(runtime.settings.stuck_s, f"chunk {job.first} of run {job.run}"):
            return label_chunk(job, runtime.classifier(job.model), runtime.data_root, runtime.limits, worker)

    def may_pass(self, error: Exception) -> bool:
        # Whatever it is, but for a refusal: the surroundings are away, or the engine of this worker failed.
        return not isinstance(error, JobRefused)

    def wait(self, error: Exception, pause_s: float) -> None:
        log.warning("chunk run=%s first=%d waits %g s: %s", self.job.run, self.job.first, pause_s, error)

    def refuse(self, error: Exception) -> None:
        if isinstance(error, AWAY):
            return  # Redis can't take an answer; the producer sends again what has no rows
        why = str(error) if isinstance(error, JobRefused) else f"{type(error).__name__}: {error}"
        self.publish(ChunkResult(run=self.job.run, first=self.job.first, refused=why, worker=self.delivery.worker))

    def overtaken(self) -> str | None:
        # Its rows would lie in Redis for nobody.
        return None if self.runtime.board.is_wanted(self.job.run) else "cancelled, or done by another"

    def publish(self, result: ChunkResult) -> None:
        self.runtime.publish(self.job.run, result)

    def conclude(self, result: ChunkResult) -> str:
        self.runtime.metrics.note_chunk(self.job, result)
        self.runtime.end_if_large()
        failed = sum(row.error is not None for row in result.rows)
        rate = len(result.rows) / max(result.seconds.get("chunk_s", 0.0), 1e-9)
        return f"{len(result.rows)} images, {failed} failed, {rate:.0f} img/s, {self.job.model}"
