"""The report of a training job: tables, plots, and one page that shows them all and needs nothing else.

Labels, paths and messages come from strangers' folders: whatever they hold is text on the page and in the tables.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from base.paths import path_to_text
from model_store.manifest import PrecisionProof
from vision.images.decode import ImageLimits
from vision.training import metrics
from vision.training.calibration import cross_entropy, softmax
from vision.training.dataset import ClassInfo, LabelledImage
from worker.train.page import figure, page, plot, printable, section, table, text

if TYPE_CHECKING:  # it pulls in MindSpore, which a report does not need
    from vision.training.fit import Epoch

MISTAKES_SHOWN = 24
PAIRS_SHOWN = 15
LEAKS_SHOWN = 6
SKIPPED_SHOWN = 50
ROWS_UNSCROLLED = 60

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


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
    leaks: Sequence[tuple[Path, Path]]  # (training, validation) near copies
    skipped: Sequence[str]  # a line for each unreadable image
    fingerprint: str  # of the dataset
    seconds: Mapping[str, float]  # by phase
    precisions: Mapping[str, PrecisionProof] = field(default_factory=dict)  # by "engine/precision"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """What the logits say. ``probabilities`` are calibrated: those that the published model gives."""

    targets: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    matrix: NDArray[np.int64]
    scores: metrics.ClassScores
    before: metrics.Reliability
    after: metrics.Reliability


def plotted(report: TrainingReport) -> dict[str, Any]:
    """Return what the plots of the report show, as the plain JSON that `worker.train.plots.draw` takes.

    Raises:
        ValueError: the logits are not a row an image and a column a class.
    """
    measured = _measure(report)
    return {
        "history": [{name: float(figure) for name, figure in asdict(epoch).items()} for epoch in report.history],
        "best": report.best.epoch,
        "classes": [{"folder": info.folder, "label": info.label} for info in report.classes],
        "matrix": measured.matrix.tolist(),
        "before": _columns(measured.before),
        "after": _columns(measured.after),
        "temperature": report.temperature,
    }


def report_files(report: TrainingReport, plots: Mapping[str, bytes], limits: ImageLimits) -> dict[str, bytes]:
    """Return the files of the report by name; the same report gives the same bytes on the same machine.

    An image that can't be read any more gets a placeholder in the page.

    Args:
        plots: those of what is `plotted` of the same report, by the name of their file.

    Raises:
        ValueError: the logits are not a row an image and a column a class.
    """
    measured = _measure(report)
    return {
        "results.csv": history_csv(report.history),
        "confusion_matrix.csv": _confusion_csv(report, measured),
        "per_class.csv": _per_class_csv(report, measured),
        **plots,
        "report.html": _Page(report, measured, plots, limits).render().encode(),
    }


def history_csv(history: Iterable[Epoch]) -> bytes:
    """Return results.csv: the figures of each epoch."""
    rows: list[list[str]] = [["epoch", "train_loss", "val_loss", "val_top1", "val_top5", "lr"]]
    for epoch in history:
        figures = (epoch.train_loss, epoch.val_loss, epoch.val_top1, epoch.val_top5, epoch.lr)
        rows.append([str(epoch.epoch), *(f"{figure:.6g}" for figure in figures)])
    return _csv(rows)


def safe_cell(plain: str) -> str:
    """Return ``plain`` so that no spreadsheet runs it as a formula: a ``'`` goes before = + - @ tab and return.

    The rule of report.csv in producer/reports/csv.py, which the worker can't import.
    """
    return "'" + plain if plain.startswith(_FORMULA_STARTS) else plain


def _columns(measured: metrics.Reliability) -> dict[str, list[float]]:
    return {column.name: getattr(measured, column.name).tolist() for column in fields(measured)}


def _measure(report: TrainingReport) -> _Measured:
    if report.logits.shape != (len(report.images), len(report.classes)):
        raise ValueError(
            f"logits of shape {report.logits.shape} for {len(report.images)} images of {len(report.classes)} classes"
        )
    targets = np.array([image.class_index for image in report.images], np.int64)
    predicted = report.logits.argmax(axis=1)
    probabilities = softmax(report.logits, report.temperature)
    matrix = metrics.confusion_matrix(targets, predicted, len(report.classes))
    return _Measured(
        targets=targets,
        predicted=predicted,
        probabilities=probabilities,
        matrix=matrix,
        scores=metrics.class_scores(matrix),
        before=metrics.reliability(softmax(report.logits), targets),
        after=metrics.reliability(probabilities, targets),
    )


def _confusion_csv(report: TrainingReport, measured: _Measured) -> bytes:
    labels = [_cell(info.label) for info in report.classes]
    rows = [[label, *map(str, row)] for label, row in zip(labels, measured.matrix.tolist(), strict=True)]
    return _csv([["true \\ predicted", *labels], *rows])


def _per_class_csv(report: TrainingReport, measured: _Measured) -> bytes:
    scores = measured.scores
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


class _Page:
    """report.html. Labels are HTML already; every other text that is not ours goes through `text`."""

    def __init__(
        self, report: TrainingReport, measured: _Measured, plots: Mapping[str, bytes], limits: ImageLimits
    ) -> None:
        self.report, self.measured, self.plots, self.limits = report, measured, plots, limits
        self.labels = [text(info.label) for info in report.classes]
        self.grouped = any(info.group is not None for info in report.classes)

    def render(self) -> str:
        plots = self.plots
        seconds = ((text(phase), f"{value:,.1f}") for phase, value in self.report.seconds.items())
        sections = {
            "Training": plot(plots["results.png"], "Loss, accuracy and learning rate by epoch", css="plot wide"),
            "Classes, the weakest first": self._classes(),
            "Confusion matrix": plot(plots["confusion_matrix.png"], "True and predicted classes", css="plot wide"),
            "Most confused": self._pairs(),
            "Confidence": plot(plots["reliability.png"], "Accuracy by confidence, before and after the temperature"),
            "Precision": self._precisions(),
            "Most confident mistakes": self._mistakes(),
            "Data": self._data(),
            "Time": table(("phase", "seconds"), seconds),
            "Recipe": table(("setting", "value"), _flat(self.report.recipe), numbers_from=2),
        }
        return page(self.report.title, self._headline() + "".join(section(*part) for part in sections.items()))

    def _headline(self) -> str:
        report, measured, targets = self.report, self.measured, self.measured.targets
        top1 = metrics.top_k_accuracy(report.logits, targets, 1)
        cards = [self._accuracy("Top-1 accuracy", top1)]
        if len(report.classes) > 5:  # else it is 100 %
            cards.append(self._accuracy("Top-5 accuracy", metrics.top_k_accuracy(report.logits, targets, 5)))
        if self.grouped:
            groups = [info.group for info in report.classes]
            cards.append(self._accuracy("Right group", metrics.group_accuracy(measured.matrix, groups)))
        loss, calibrated = (cross_entropy(report.logits, targets, t) for t in (1.0, report.temperature))
        cards += [
            _card("Loss", f"{loss:.3f} → {calibrated:.3f}", "cross-entropy in nats, before and after the temperature"),
            _card(
                "Calibration error",
                f"{measured.before.expected_error:.3f} → {measured.after.expected_error:.3f}",
                f"ECE before and after the temperature of {report.temperature:.3g}",
            ),
        ]
        error = 100 * math.sqrt(top1 * (1 - top1) / len(targets))
        return (
            f"<p>{len(targets):,} validation images, {len(report.classes):,} classes. Of {len(report.history)} epochs "
            f"number {report.best.epoch} was the best, and its weights are kept.</p>"
            f'<div class="cards">{"".join(cards)}</div>'
            f'<p class="note">The top-1 accuracy has a standard error of {error:.1f} points: a difference between two '
            "models that is not several times as large may well be chance.</p>\n"
        )

    def _accuracy(self, name: str, rate: float) -> str:
        images = len(self.measured.targets)
        low, high = metrics.accuracy_interval(rate, images)
        note = (
            f"{round(rate * images):,} of {images:,} images; 95\u00a0% interval {100 * low:.1f}–{100 * high:.1f}\u00a0%"
        )
        return _card(name, f"{100 * rate:.1f}\u00a0%", note)

    def _classes(self) -> str:
        scores = self.measured.scores
        head = ("class", *("group",) * self.grouped, "images", "precision", "recall", "F1")

        def row(index: int) -> Sequence[str]:
            group = (text(self.report.classes[index].group or ""),) * self.grouped
            figures = (scores.precision[index], scores.recall[index], scores.f1[index])
            rates = ("–" if math.isnan(figure) else f"{100 * figure:.0f}\u00a0%" for figure in figures)
            return self.labels[index], *group, str(scores.support[index]), *rates

        order = np.argsort(scores.f1, kind="stable").tolist()  # nan comes last: of such a class nothing is known
        css = "scroll tall" if len(order) > ROWS_UNSCROLLED else "scroll"
        note = '<p class="note">A dash: never predicted (precision), or no validation images (recall).</p>'
        return table(head, map(row, order), numbers_from=1 + self.grouped, css=css) + note

    def _pairs(self) -> str:
        pairs = metrics.confused_pairs(self.measured.matrix, PAIRS_SHOWN)
        if not pairs:
            return "<p>No validation image was taken for another class.</p>"
        support = self.measured.scores.support
        rows = (
            (self.labels[pair.true], self.labels[pair.predicted], f"{pair.images} of {support[pair.true]}")
            for pair in pairs
        )
        return table(("true class", "taken for", "images"), rows, numbers_from=2)

    def _precisions(self) -> str:
        proofs = self.report.precisions
        if not proofs:
            return (
                "<p>The host of this job computes in f32 only, so workers take f32 unless they are told otherwise.</p>"
            )

        def row(name: str, proof: PrecisionProof) -> Sequence[str]:
            parts = (proof.equal, proof.accuracy, proof.f32_accuracy)
            rates = (f"{100 * part:.1f}\u00a0%" for part in parts)
            return text(name), f"{proof.images:,}", *rates, "yes" if proof.passed else "no"

        head = ("engine/precision", "images", "answers as f32", "accuracy", "accuracy of f32", "served by auto")
        return table(head, (row(name, proof) for name, proof in proofs.items()))

    def _mistakes(self) -> str:
        measured = self.measured
        wrong = np.flatnonzero(measured.predicted != measured.targets)
        if not len(wrong):
            return "<p>None.</p>"
        confidence = measured.probabilities.max(axis=1)
        worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES_SHOWN].tolist()
        figures = "".join(
            self._figure(
                self.report.images[index].path,
                f"<b>{self.labels[measured.predicted[index]]}</b> {100 * confidence[index]:.0f}\u00a0%<br>"
                f'is <span class="label">{self.labels[measured.targets[index]]}</span>',
            )
            for index in worst
        )
        return (
            f"<p>{_shown(len(wrong), MISTAKES_SHOWN, 'mistakes')} Above, what the model takes it for and how sure it "
            f'is; below, what it is labelled as, which may be the mistake.</p><div class="images">{figures}</div>'
        )

    def _data(self) -> str:
        report = self.report
        counts = table(("images", "count"), ((text(name), f"{count:,}") for name, count in report.counts.items()))
        fingerprint = f"<p>Fingerprint of the dataset: <code>{text(report.fingerprint)}</code></p>"
        return f"<p>{text(report.split)}</p>{counts}{fingerprint}{self._leaks()}{self._skipped()}"

    def _leaks(self) -> str:
        leaks = self.report.leaks
        if not leaks:
            return "<h3>Near copies</h3><p>No validation image was found to have a near copy in training.</p>"
        copied = len({validation for _, validation in leaks})
        pairs = "".join(
            f'<div class="pair">{self._figure(training, "training")}{self._figure(validation, "validation")}</div>'
            for training, validation in leaks[:LEAKS_SHOWN]
        )
        return (
            f"<h3>Near copies</h3><p>Validation images with a near copy in training: {copied:,}. They make the figures "
            f"above look better than they are. {_shown(len(leaks), LEAKS_SHOWN, 'pairs')}</p>"
            f'<div class="images">{pairs}</div>'
        )

    def _skipped(self) -> str:
        skipped = self.report.skipped
        if not skipped:
            return "<h3>Skipped images</h3><p>None: all could be read.</p>"
        lines = "".join(f"<li>{text(line)}</li>" for line in skipped[:SKIPPED_SHOWN])
        return f"<h3>Skipped images</h3><p>{_shown(len(skipped), SKIPPED_SHOWN, 'images')}</p><ul>{lines}</ul>"

    def _figure(self, path: Path, caption: str) -> str:
        root = self.report.root
        name = text(path_to_text(str(path.relative_to(root) if path.is_relative_to(root) else path)))
        return figure(path, self.limits, f'{caption}<br><span class="path">{name}</span>')


def _card(name: str, value: str, note: str) -> str:
    return f'<div class="card"><h3>{name}</h3><p class="value">{value}</p><p class="note">{note}</p></div>'


def _shown(count: int, limit: int, what: str) -> str:
    return f"All {count:,} {what}." if count <= limit else f"The first {limit} of {count:,} {what}."


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and value of nested settings as HTML, the names of inner ones behind their section and a dot."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield text(prefix + name), text(shown)
