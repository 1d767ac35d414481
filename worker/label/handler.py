"""What a label worker does with a chunk: its rows go onto the stream of the run."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager

from configs import Settings
from jobs import AWAY, ChunkResult, LabelChunk, SchemaMismatch
from storage import Folder, LocalFolder, open_folder
from worker.errors import JobRefused, KeepsAway
from worker.handler import Handler
from worker.label.chunk import label_chunk
from worker.label.data_root import check_sample, opened_root, place_of
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
    def refuse_mismatch(cls, runtime: Runtime, error: SchemaMismatch, worker: str) -> float:
        return _put_back(runtime, ChunkResult(run=error.job, first=error.first, worker=worker), error)

    @classmethod
    def attend(cls, runtime: Runtime) -> None:
        runtime.waiting.release_if_idle()

    def unwanted(self) -> str | None:
        if self.runtime.board.is_wanted(self.job.run):
            return None
        self.runtime.forget_attempts(self.job.run)
        return "cancelled, or done"

    def attempt(self) -> AbstractContextManager[int]:
        return self.runtime.attempt(self.job)

    def work(self, attempt: int) -> ChunkResult:
        job, runtime, worker = self.job, self.runtime, self.delivery.worker
        if runtime.standing.keeps_away(job.run):
            raise KeepsAway
        if attempt > ATTEMPTS:
            log.error(
                "%d workers died on chunk run=%s first=%d: now image by image, in a process of its own",
                attempt - 1, job.run, job.first,
            )  # fmt: skip
            runtime.unload()  # the other process needs the device's memory
            with self._watchdog(), opened_root(runtime.data_root) as root:
                place = self._proven_place(root)
            result = label_isolated(job, runtime.settings, worker)
            with self._watchdog(), opened_root(runtime.data_root) as root:
                self._check_place(root, place, result)
            return result
        with self._watchdog():
            classifier = runtime.classifier(job.model)
            # One folder for the proof and the images: another one that lies there for a moment is never read.
            with opened_root(runtime.data_root) as root:
                place = self._proven_place(root)
                result = label_chunk(job, classifier, root, runtime.limits, worker)
                self._check_place(root, place, result)
        runtime.standing.succeed(job.run, place)
        return result

    def _watchdog(self) -> AbstractContextManager[None]:
        return watchdog(self.runtime.settings.stuck_s, f"chunk {self.job.first} of run {self.job.run}")

    def _proven_place(self, root: LocalFolder | Folder) -> object:
        """Return what is to stay while images are read; UnavailableError when it is not the command's folder."""
        place = place_of(root, self.job.sample)
        if not self.runtime.standing.is_proven(self.job.run, place):
            check_sample(root, self.job.sample)
        return place

    def _check_place(self, root: LocalFolder | Folder, place: object, result: ChunkResult) -> None:
        """Raise UnavailableError when ``result`` may be of another folder: it came meanwhile, or the right one went."""
        is_missing = any(row.error in ("not_found", "unreadable") for row in result.rows)
        if is_missing or place_of(root, self.job.sample) != place:
            check_sample(root, self.job.sample)

    def put_back(self, error: Exception) -> float | None:
        if isinstance(error, AWAY):
            return None  # Redis can't take it
        answer = ChunkResult(run=self.job.run, first=self.job.first, worker=self.delivery.worker)
        return _put_back(self.runtime, answer, error)

    def refuse(self, error: Exception) -> None:
        """Redis can't take an answer; the producer sends again what has no rows."""

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


def _put_back(runtime: Runtime, answer: ChunkResult, error: Exception) -> float:
    """Say why this worker gives the chunk of ``answer`` to others, once each time it has tried; return its pause."""
    if not runtime.standing.keeps_away(answer.run):
        is_final = isinstance(error, JobRefused | SchemaMismatch)
        why = str(error) if is_final else f"{type(error).__name__}: {error}"
        away_s = runtime.standing.fail(answer.run)
        log.warning("keeps away from run=%s for %g s: %s", answer.run, away_s, why)
        runtime.publish(answer.run, answer.model_copy(update={"refused": why, "may_pass": not is_final}))
    return runtime.standing.pause_s()
