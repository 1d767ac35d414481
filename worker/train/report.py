"""What the report of a training job shows, and what is measured for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store import PrecisionProof
from vision.training import (
    ClassInfo,
    ClassScores,
    Epoch,
    LabelledImage,
    Reliability,
    class_scores,
    confusion_matrix,
    reliability,
    softmax,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """Everything the report of a job shows."""

    title: str  # model name and job
    classes: Sequence[ClassInfo]
    images: Sequence[LabelledImage]  # of validation, at least one
    root: Path  # of the dataset; names of images are shown below it
    logits: NDArray[np.float64]  # (N, classes) of ``images``, finite, before the temperature
    temperature: float
    history: Sequence[Epoch]
    best: Epoch
    recipe: Mapping[str, Any]  # nested, plain JSON values
    counts: Mapping[str, int]  # of images: "training", "validation", "skipped"
    split: str  # how the validation images were chosen, a sentence
    leaks: Sequence[tuple[Path, Path]]  # (training, validation) near-duplicates
    skipped: Sequence[str]  # a line for each unreadable image
    fingerprint: str  # of the dataset
    seconds: Mapping[str, float]  # by phase
    precisions: Mapping[str, PrecisionProof] = field(default_factory=dict)  # by "engine/precision"

    @property
    def is_grouped(self) -> bool:
        """Whether any class is in a group."""
        return any(info.group is not None for info in self.classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the logits say. ``probabilities`` are calibrated: those that the published model gives."""

    targets: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    matrix: NDArray[np.int64]
    scores: ClassScores
    before: Reliability
    after: Reliability


def plotted(report: TrainingReport) -> dict[str, Any]:
    """Return what the plots of the report show, as the plain JSON that `worker.train.plots.draw` takes.

    Raises:
        ValueError: the logits are not a row an image and a column a class.
    """
    measured = measure(report)
    return {
        "history": [{name: float(figure) for name, figure in asdict(epoch).items()} for epoch in report.history],
        "best": report.best.epoch,
        "classes": [{"folder": info.folder, "label": info.label} for info in report.classes],
        "matrix": measured.matrix.tolist(),
        "before": _columns(measured.before),
        "after": _columns(measured.after),
        "temperature": report.temperature,
    }


def _columns(measured: Reliability) -> dict[str, list[float]]:
    return {column.name: getattr(measured, column.name).tolist() for column in fields(measured)}


def measure(report: TrainingReport) -> Measured:
    if report.logits.shape != (len(report.images), len(report.classes)):
        raise ValueError(
            f"logits of shape {report.logits.shape} for {len(report.images)} images of {len(report.classes)} classes"
        )
    targets = np.array([image.class_index for image in report.images], np.int64)
    predicted = report.logits.argmax(axis=1)
    probabilities = softmax(report.logits, report.temperature)
    matrix = confusion_matrix(targets, predicted, len(report.classes))
    return Measured(
        targets=targets,
        predicted=predicted,
        probabilities=probabilities,
        matrix=matrix,
        scores=class_scores(matrix),
        before=reliability(softmax(report.logits), targets),
        after=reliability(probabilities, targets),
    )
