"""The report of a training job: tables, plots, and one page that shows them all and needs nothing else.

The template of the page is ``training.html`` of `pages`; `worker.train.plots` draws.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from base.errors import ImageError
from base.files import read_file
from base.intervals import wilson_interval
from base.paths import path_to_text
from base.text import printable, safe_cell
from model_store import PrecisionProof
from pages import accuracy_card, card, data_uri, template
from vision.images import ImageLimits, decode_within, to_srgb
from vision.training import (
    ClassInfo,
    ClassScores,
    Epoch,
    LabelledImage,
    Reliability,
    class_scores,
    confused_pairs,
    confusion_matrix,
    cross_entropy,
    group_accuracy,
    reliability,
    softmax,
    top_k_accuracy,
)

THUMBNAIL_PX = 160
TINY_PX = 64  # images of at most this size are enlarged pixel by pixel
MISTAKES_SHOWN = 24
PAIRS_SHOWN = 15
LEAKS_SHOWN = 6
SKIPPED_SHOWN = 50


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """Everything the report of a job shows.

    Raises:
        ValueError: the logits are not a row an image and a column a class.
    """

    title: str  # model name and job
    classes: Sequence[ClassInfo]
    images: Sequence[LabelledImage]  # of validation, at least one
    root: Path  # of the dataset; names of images are shown below it
    logits: NDArray[np.float64]  # (N, classes) of ``images``, finite, before the temperature
    temperature: float
    history: Sequence[Epoch]
    kept: Epoch
    recipe: Mapping[str, Any]  # nested, plain JSON values
    counts: Mapping[str, int]  # of images: "training", "validation", "skipped"
    split: str  # how the validation images were chosen, a sentence
    is_refit: bool  # whether the published weights were then trained on all images
    leaks: Sequence[tuple[Path, Path]]  # (training, validation) near-duplicates
    skipped: Sequence[str]  # a line for each unreadable image
    fingerprint: str  # of the dataset
    seconds: Mapping[str, float]  # by phase
    calibrated: str  # how the temperature came about, a sentence
    precisions: Mapping[str, PrecisionProof] = field(default_factory=dict)  # by "engine/precision"

    def __post_init__(self) -> None:
        images, classes = len(self.images), len(self.classes)
        if self.logits.shape != (images, classes):
            raise ValueError(f"logits of shape {self.logits.shape} for {images} images of {classes} classes")

    @property
    def is_grouped(self) -> bool:
        return any(info.group is not None for info in self.classes)

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        return np.array([image.class_index for image in self.images], np.int64)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        return self.logits.argmax(axis=1)

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """Calibrated: those that the published model gives."""
        return softmax(self.logits, self.temperature)

    @cached_property
    def matrix(self) -> NDArray[np.int64]:
        return confusion_matrix(self.targets, self.predicted, len(self.classes))

    @cached_property
    def scores(self) -> ClassScores:
        return class_scores(self.matrix)

    @cached_property
    def before(self) -> Reliability:
        """Reliability before the temperature."""
        return reliability(softmax(self.logits), self.targets)

    @cached_property
    def after(self) -> Reliability:
        """Reliability after it."""
        return reliability(self.probabilities, self.targets)

    def plotted(self) -> dict[str, Any]:
        """Return what the plots show, as the plain JSON that `worker.train.plots.draw` takes."""
        before, after = (
            {column.name: getattr(measured, column.name).tolist() for column in fields(measured)}
            for measured in (self.before, self.after)
        )
        return {
            "history": [{name: float(figure) for name, figure in asdict(epoch).items()} for epoch in self.history],
            "kept": self.kept.epoch,
            "classes": [{"folder": info.folder, "label": info.label} for info in self.classes],
            "matrix": self.matrix.tolist(),
            "before": before,
            "after": after,
            "temperature": self.temperature,
        }


def report_files(report: TrainingReport, plots: Mapping[str, bytes], limits: ImageLimits) -> dict[str, bytes]:
    """Return the files of the report by name; the same report gives the same bytes on the same machine.

    An image that can't be read any more gets a placeholder in the page.

    Args:
        plots: those of what is `plotted` of the same report, by the name of their file.
    """
    return {
        "results.csv": history_csv(report.history),
        "confusion_matrix.csv": _confusion_csv(report),
        "per_class.csv": _per_class_csv(report),
        **plots,
        "report.html": _page(report, plots, limits),
    }


def history_csv(history: Iterable[Epoch]) -> bytes:
    """Return results.csv: the figures of each epoch."""
    rows: list[list[str]] = [["epoch", "train_loss", "val_loss", "val_top1", "val_top5", "lr"]]
    for epoch in history:
        figures = (epoch.train_loss, epoch.val_loss, epoch.val_top1, epoch.val_top5, epoch.lr)
        rows.append([str(epoch.epoch), *(f"{figure:.6g}" for figure in figures)])
    return _csv(rows)


def _confusion_csv(report: TrainingReport) -> bytes:
    labels = [_cell(info.label) for info in report.classes]
    rows = [[label, *map(str, row)] for label, row in zip(labels, report.matrix.tolist(), strict=True)]
    return _csv([["true \\ predicted", *labels], *rows])


def _per_class_csv(report: TrainingReport) -> bytes:
    scores = report.scores
    rows = [["label", "group", "images", "precision", "recall", "f1"]]
    for index, info in enumerate(report.classes):
        figures = (scores.precision[index], scores.recall[index], scores.f1[index])
        cells = ["" if math.isnan(figure) else f"{figure:.4f}" for figure in figures]
        rows.append([_cell(info.label), _cell(info.group or ""), str(scores.support[index]), *cells])
    return _csv(rows)


def _csv(rows: Iterable[Sequence[str]]) -> bytes:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue().encode()


def _cell(plain: str) -> str:
    return printable(safe_cell(plain))


def _page(report: TrainingReport, plots: Mapping[str, bytes], limits: ImageLimits) -> bytes:
    wrong = np.flatnonzero(report.predicted != report.targets).tolist()
    page = template("training.html").render(
        title=report.title,
        subtitle=f"{len(report.images):,} validation images, {len(report.classes):,} classes. Of "
        f"{len(report.history)} epochs number {report.kept.epoch} counts"
        + ("." if report.is_refit else ", and its weights are kept."),
        plots={name: data_uri("png", png) for name, png in plots.items()},
        cards=_cards(report),
        chance=_chance(report),
        refit=report.is_refit and report.counts["training"] + report.counts["validation"],
        classes=_classes(report),
        confused=_confused(report),
        precisions=[_precision(name, proof) for name, proof in report.precisions.items()],
        mistakes_count=len(wrong),
        mistakes=_mistakes(report, wrong, limits),
        split=report.split,
        counts=[(name, f"{count:,}") for name, count in report.counts.items()],
        fingerprint=report.fingerprint,
        leaked=len({validation for _, validation in report.leaks}),
        leaks_count=len(report.leaks),
        leaks=[[_picture(report, path, limits) for path in pair] for pair in report.leaks[:LEAKS_SHOWN]],
        skipped_count=len(report.skipped),
        skipped=report.skipped[:SKIPPED_SHOWN],
        seconds=[(phase, f"{value:,.1f}") for phase, value in report.seconds.items()],
        recipe=list(_flat(report.recipe)),
    )
    return page.encode()


def _picture(report: TrainingReport, path: Path, limits: ImageLimits) -> dict[str, Any]:
    """Return what the templates' tiles show of an image: a small copy, or why it can't be read."""
    below = path.relative_to(report.root) if path.is_relative_to(report.root) else path
    shown = {"path": path_to_text(str(below)), "source": "", "tiny": False, "missing": ""}
    try:
        data = read_file(path, limits.max_bytes)
        # A large JPEG is decoded at a fraction: never below the thumbnail, never far above it.
        image = decode_within(data, limits, lambda width, height: max(width, height) / THUMBNAIL_PX / 2)
        small, jpeg = Image.fromarray(to_srgb(image.pixels, image.profile)), io.BytesIO()
    except ImageError as error:
        return {**shown, "missing": f"can't be read: {error.reason}"}
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    small.save(jpeg, "JPEG", quality=80)
    is_tiny = max(image.width_px, image.height_px) <= TINY_PX
    return {**shown, "source": data_uri("jpeg", jpeg.getvalue()), "tiny": is_tiny}


def _cards(report: TrainingReport) -> list[dict[str, str]]:
    images = len(report.targets)

    def accuracy(name: str, rate: float) -> dict[str, str]:
        return accuracy_card(name, round(rate * images), images, wilson_interval(rate, images))

    cards = [accuracy("Top-1 accuracy", top_k_accuracy(report.logits, report.targets, 1))]
    if len(report.classes) > 5:  # else it is 100 %
        cards.append(accuracy("Top-5 accuracy", top_k_accuracy(report.logits, report.targets, 5)))
    if report.is_grouped:
        groups = [info.group for info in report.classes]
        cards.append(accuracy("Right group", group_accuracy(report.matrix, groups)))
    loss, calibrated = (cross_entropy(report.logits, report.targets, t) for t in (1.0, report.temperature))
    before, after = report.before.expected_error, report.after.expected_error
    return [
        *cards,
        card("Loss", f"{loss:.3f} → {calibrated:.3f}", "cross-entropy in nats, before and after the temperature"),
        card(
            "Calibration error",
            f"{before:.3f} → {after:.3f}",
            f"ECE before and after the temperature of {report.temperature:.3g}, of the validation images; "
            + report.calibrated,
        ),
    ]


def _chance(report: TrainingReport) -> str:
    top1 = top_k_accuracy(report.logits, report.targets, 1)
    error = 100 * math.sqrt(top1 * (1 - top1) / len(report.targets))
    return (
        f"The top-1 accuracy has a standard error of {error:.1f} points: a difference between two models that is not "
        "several times as large may well be chance."
    )


def _classes(report: TrainingReport) -> dict[str, Any]:
    scores = report.scores

    def row(index: int) -> Sequence[str]:
        info = report.classes[index]
        group = (info.group or "",) * report.is_grouped
        figures = (scores.precision[index], scores.recall[index], scores.f1[index])
        rates = ("–" if math.isnan(figure) else f"{100 * figure:.0f} %" for figure in figures)
        return info.label, *group, str(scores.support[index]), *rates

    order = np.argsort(scores.f1, kind="stable").tolist()  # nan comes last: of such a class nothing is known
    return {
        "head": ("class", *("group",) * report.is_grouped, "images", "precision", "recall", "F1"),
        "rows": [row(index) for index in order],
        "numbers_from": 1 + report.is_grouped,
    }


def _confused(report: TrainingReport) -> list[tuple[str, str, str]]:
    labels, support = [info.label for info in report.classes], report.scores.support
    return [
        (labels[pair.true], labels[pair.predicted], f"{pair.images} of {support[pair.true]}")
        for pair in confused_pairs(report.matrix, PAIRS_SHOWN)
    ]


def _precision(name: str, proof: PrecisionProof) -> Sequence[str]:
    rates = (f"{100 * part:.1f} %" for part in (proof.equal, proof.accuracy, proof.f32_accuracy))
    return name, f"{proof.images:,}", *rates, "yes" if proof.passed else "no"


def _mistakes(report: TrainingReport, wrong: list[int], limits: ImageLimits) -> list[dict[str, Any]]:
    """Return the tiles of the most confident mistakes, the most confident first."""
    confidence = report.probabilities.max(axis=1)
    return [
        {
            **_picture(report, report.images[index].path, limits),
            "name": report.classes[report.predicted[index]].label,
            "confidence": confidence[index],
            "truth": report.classes[report.targets[index]].label,
            "wrong": True,
        }
        for index in sorted(wrong, key=lambda index: -confidence[index])[:MISTAKES_SHOWN]
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and value of nested settings, the names of inner ones behind their section and a dot."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
