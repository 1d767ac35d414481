"""What all steps of one training job need: the job itself, where its files lie, and what is reported of it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from configs import Recipe
from jobs import Finding, JobEvent, TrainModel
from vision.training import Augmentation, Epoch
from worker.errors import JobCancelled
from worker.runtime import Runtime
from worker.train.leftovers import checkpoints_of, scratch_of

STEPS_EVERY_S = 5.0  # within an epoch
LONG_S = 20.0  # a training that takes longer says so after the first step that could be timed

Report = Callable[[JobEvent], None]


class Progress:
    """The events of one job. Each is also a moment at which a cancelled job ends.

    Attributes:
        cancelled: whether somebody asked to stop the job.
        seconds: of each phase that is done, by name.
    """

    def __init__(self, job: str, send: Report, cancelled: Callable[[], bool]) -> None:
        self._job, self._send, self.cancelled = job, send, cancelled
        self.seconds: dict[str, float] = {}

    def report(self, text: str, epoch: Epoch | None = None) -> None:
        """Send an event; JobCancelled when the job was cancelled."""
        figures = {name: float(value) for name, value in asdict(epoch).items()} if epoch else None
        self._report(JobEvent(job=self._job, state="progress", text=text, epoch=figures))

    def report_findings(self, text: str, findings: Sequence[Finding], embeddings: Sequence[str]) -> None:
        """Send some findings of an audit."""
        found, made = tuple(findings), tuple(embeddings)
        self._report(JobEvent(job=self._job, state="progress", text=text, findings=found, embeddings=made))

    def check(self, text: str) -> None:
        """Raise JobCancelled, with ``text``, when the job was cancelled."""
        if self.cancelled():
            raise JobCancelled(text)

    def _report(self, event: JobEvent) -> None:
        self.check(event.text)
        self._send(event)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note the seconds of the block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - started, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A job under way."""

    job: TrainModel
    recipe: Recipe
    runtime: Runtime
    progress: Progress

    @property
    def freeze(self) -> str:
        """Which part of the network is frozen; without a backbone, none is."""
        return self.recipe.freeze if self.job.backbones else "none"

    @property
    def augmentation(self) -> Augmentation:
        """How training images are changed."""
        return Augmentation(**self.recipe.augmentation.model_dump(exclude={"repeat"}))

    @property
    def checkpoints(self) -> Path:
        """Folder of the job's checkpoints, which outlive a process that dies."""
        return checkpoints_of(self.runtime.settings.home, self.job.job)

    @property
    def scratch(self) -> Path:
        """Folder of what only this attempt needs."""
        return scratch_of(self.runtime.settings.home, self.job.job)

    def scratch_file(self, prefix: str) -> Path:
        """Return a new empty file in the scratch folder."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.scratch, prefix=f"{prefix}-", delete=False) as file:
            return Path(file.name)

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints: the job, or a fold of it, is done."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)


class Pace:
    """Reports epochs, and steps while an epoch is long; and as soon as a step was timed, how long all will take."""

    def __init__(self, progress: Progress, epochs: int, prefix: str = "", *, is_measured: bool = True) -> None:
        self._progress, self._epochs, self._prefix, self._is_measured = progress, epochs, prefix, is_measured
        self._steps: list[float] = []
        self._started = self._reported = time.monotonic()
        self._first: int | None = None  # epoch of this process: a checkpoint may have spared the ones before
        self._is_estimated = False

    def epoch(self, epoch: Epoch) -> None:
        self._first = epoch.epoch if self._first is None else self._first
        self._reported = time.monotonic()
        epoch_s = (self._reported - self._started) / (epoch.epoch - self._first + 1)
        val = f"val {epoch.val_top1:.1%}, " if self._is_measured else ""
        self._progress.report(
            f"{self._prefix}epoch {epoch.epoch}/{self._epochs}, loss {epoch.train_loss:.3f}, {val}"
            f"eta {epoch_s * (self._epochs - epoch.epoch):.0f} s",
            epoch if self._is_measured else None,
        )

    def step(self, step: int, steps: int, step_s: float) -> None:
        """Note that ``step`` of ``steps`` is done and took ``step_s``; report it if it is time."""
        self._steps.append(step_s)
        is_long = not self._is_estimated and (steps - step) * step_s > LONG_S
        self._is_estimated = True
        if not is_long and time.monotonic() - self._reported < STEPS_EVERY_S:
            return
        self._reported = time.monotonic()
        recent = sorted(self._steps)[len(self._steps) // 2]
        self._steps.clear()
        self._progress.report(
            f"{self._prefix}step {step}/{steps}, {recent * 1000:.0f} ms each, eta {(steps - step) * recent:.0f} s"
        )
