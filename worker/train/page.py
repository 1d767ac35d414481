"""report.html of a training job: what the template ``training.html`` shows."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from base.errors import ImageError
from base.files import read_file
from base.intervals import wilson_interval
from base.paths import path_to_text
from model_store import PrecisionProof
from pages import accuracy_card, card, data_uri, template
from vision.images import ImageLimits, decode_within, to_srgb
from vision.training import confused_pairs, cross_entropy, group_accuracy, top_k_accuracy
from worker.train.report import Measured, TrainingReport

THUMBNAIL_PX = 160
TINY_PX = 64  # images of at most this size are enlarged pixel by pixel
MISTAKES_SHOWN = 24
PAIRS_SHOWN = 15
LEAKS_SHOWN = 6
SKIPPED_SHOWN = 50


def render_page(report: TrainingReport, measured: Measured, plots: Mapping[str, bytes], limits: ImageLimits) -> bytes:
    """Return the page; an image that can't be read any more gets a placeholder."""
    pictures = _Pictures(report.root, limits)
    validation = len(measured.targets)
    wrong = np.flatnonzero(measured.predicted != measured.targets)
    page = template("training.html").render(
        title=report.title,
        subtitle=f"{validation:,} validation images, {len(report.classes):,} classes. Of {len(report.history)} epochs "
        f"number {report.best.epoch} was the best, and its weights are kept.",
        plots={name: data_uri("png", png) for name, png in plots.items()},
        cards=_cards(report, measured),
        chance=_chance(report, measured),
        classes=_classes(report, measured),
        confused=_confused(report, measured),
        precisions=[_precision(name, proof) for name, proof in report.precisions.items()],
        mistakes_count=len(wrong),
        mistakes=_mistakes(report, measured, wrong.tolist(), pictures),
        split=report.split,
        counts=[(name, f"{count:,}") for name, count in report.counts.items()],
        fingerprint=report.fingerprint,
        leaked=len({validation for _, validation in report.leaks}),
        leaks_count=len(report.leaks),
        leaks=[tuple(map(pictures.picture, pair)) for pair in report.leaks[:LEAKS_SHOWN]],
        skipped_count=len(report.skipped),
        skipped=report.skipped[:SKIPPED_SHOWN],
        seconds=[(phase, f"{value:,.1f}") for phase, value in report.seconds.items()],
        recipe=list(_flat(report.recipe)),
    )
    return page.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    """A small copy of an image for the templates' tiles; of one that can't be read, why."""

    path: str
    source: str = ""
    tiny: bool = False
    missing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mistake(_Picture):
    name: str
    confidence: float
    truth: str
    wrong: bool = True


class _Pictures:
    """Makes small copies of images, which are named below the folder of the dataset."""

    def __init__(self, root: Path, limits: ImageLimits) -> None:
        self._root, self._limits = root, limits

    def picture(self, path: Path) -> _Picture:
        return _Picture(**self.fields(path))

    def fields(self, path: Path) -> dict[str, Any]:
        name = path_to_text(str(path.relative_to(self._root) if path.is_relative_to(self._root) else path))
        try:
            jpeg, tiny = self._thumbnail(path)
        except ImageError as error:
            return {"path": name, "missing": f"can't be read: {error.reason}"}
        return {"path": name, "source": data_uri("jpeg", jpeg), "tiny": tiny}

    def _thumbnail(self, path: Path) -> tuple[bytes, bool]:
        data = read_file(path, self._limits.max_bytes)
        # A large JPEG is decoded at a fraction: never below the thumbnail, never far above it.
        image = decode_within(data, self._limits, lambda width, height: max(width, height) / THUMBNAIL_PX / 2)
        small, jpeg = Image.fromarray(to_srgb(image.pixels, image.profile)), io.BytesIO()
        small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        small.save(jpeg, "JPEG", quality=80)
        return jpeg.getvalue(), max(image.width_px, image.height_px) <= TINY_PX


def _cards(report: TrainingReport, measured: Measured) -> list[dict[str, str]]:
    images = len(measured.targets)

    def accuracy(name: str, rate: float) -> dict[str, str]:
        return accuracy_card(name, round(rate * images), images, wilson_interval(rate, images))

    cards = [accuracy("Top-1 accuracy", top_k_accuracy(report.logits, measured.targets, 1))]
    if len(report.classes) > 5:  # else it is 100 %
        cards.append(accuracy("Top-5 accuracy", top_k_accuracy(report.logits, measured.targets, 5)))
    if report.is_grouped:
        groups = [info.group for info in report.classes]
        cards.append(accuracy("Right group", group_accuracy(measured.matrix, groups)))
    loss, calibrated = (cross_entropy(report.logits, measured.targets, t) for t in (1.0, report.temperature))
    before, after = measured.before.expected_error, measured.after.expected_error
    return [
        *cards,
        card("Loss", f"{loss:.3f} → {calibrated:.3f}", "cross-entropy in nats, before and after the temperature"),
        card(
            "Calibration error",
            f"{before:.3f} → {after:.3f}",
            f"ECE before and after the temperature of {report.temperature:.3g}",
        ),
    ]


def _chance(report: TrainingReport, measured: Measured) -> str:
    top1 = top_k_accuracy(report.logits, measured.targets, 1)
    error = 100 * math.sqrt(top1 * (1 - top1) / len(measured.targets))
    return (
        f"The top-1 accuracy has a standard error of {error:.1f} points: a difference between two models that is not "
        "several times as large may well be chance."
    )


def _classes(report: TrainingReport, measured: Measured) -> dict[str, Any]:
    scores = measured.scores

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


def _confused(report: TrainingReport, measured: Measured) -> list[tuple[str, str, str]]:
    support = measured.scores.support
    return [
        (
            report.classes[pair.true].label,
            report.classes[pair.predicted].label,
            f"{pair.images} of {support[pair.true]}",
        )
        for pair in confused_pairs(measured.matrix, PAIRS_SHOWN)
    ]


def _precision(name: str, proof: PrecisionProof) -> Sequence[str]:
    rates = (f"{100 * part:.1f} %" for part in (proof.equal, proof.accuracy, proof.f32_accuracy))
    return name, f"{proof.images:,}", *rates, "yes" if proof.passed else "no"


def _mistakes(report: TrainingReport, measured: Measured, wrong: list[int], pictures: _Pictures) -> list[_Mistake]:
    """Return the most confident mistakes, the most confident first."""
    confidence = measured.probabilities.max(axis=1)
    return [
        _Mistake(
            name=report.classes[measured.predicted[index]].label,
            confidence=confidence[index],
            truth=report.classes[measured.targets[index]].label,
            **pictures.fields(report.images[index].path),
        )
        for index in sorted(wrong, key=lambda index: -confidence[index])[:MISTAKES_SHOWN]
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and value of nested settings, the names of inner ones behind their section and a dot."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
