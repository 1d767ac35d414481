"""What all steps of one training job need."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from configs import Recipe
from jobs import TrainModel
from vision.training import Augmentation
from worker.runtime import Runtime
from worker.train.progress import Progress


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
        return self.recipe.freeze if self.job.backbone is not None else "none"

    @property
    def augmentation(self) -> Augmentation:
        """How training images are changed."""
        return Augmentation(**self.recipe.augmentation.model_dump(exclude={"repeat"}))

    @property
    def checkpoints(self) -> Path:
        """Folder of the job's checkpoints, which outlive a process that dies."""
        return self.runtime.settings.home / "checkpoints" / self.job.job

    @property
    def scratch(self) -> Path:
        """Folder of what only this attempt needs."""
        return self.runtime.settings.home / "scratch" / self.job.job

    def scratch_file(self, prefix: str) -> Path:
        """Return a new empty file in the scratch folder."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.scratch, prefix=f"{prefix}-", delete=False) as file:
            return Path(file.name)

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints: the job, or a fold of it, is done."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
