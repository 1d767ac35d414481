"""The files of a training report: tables, plots, and one page that shows them all and needs nothing else."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence

from base.text import printable, safe_cell
from vision.images import ImageLimits
from vision.training import Epoch
from worker.train.page import render_page
from worker.train.report import Measured, TrainingReport, measure


def report_files(report: TrainingReport, plots: Mapping[str, bytes], limits: ImageLimits) -> dict[str, bytes]:
    """Return the files of the report by name; the same report gives the same bytes on the same machine.

    An image that can't be read any more gets a placeholder in the page.

    Args:
        plots: those of what is `plotted` of the same report, by the name of their file.

    Raises:
        ValueError: the logits are not a row an image and a column a class.
    """
    measured = measure(report)
    return {
        "results.csv": history_csv(report.history),
        "confusion_matrix.csv": _confusion_csv(report, measured),
        "per_class.csv": _per_class_csv(report, measured),
        **plots,
        "report.html": render_page(report, measured, plots, limits),
    }


def history_csv(history: Iterable[Epoch]) -> bytes:
    """Return results.csv: the figures of each epoch."""
    rows: list[list[str]] = [["epoch", "train_loss", "val_loss", "val_top1", "val_top5", "lr"]]
    for epoch in history:
        figures = (epoch.train_loss, epoch.val_loss, epoch.val_top1, epoch.val_top5, epoch.lr)
        rows.append([str(epoch.epoch), *(f"{figure:.6g}" for figure in figures)])
    return _csv(rows)


def _confusion_csv(report: TrainingReport, measured: Measured) -> bytes:
    labels = [_cell(info.label) for info in report.classes]
    rows = [[label, *map(str, row)] for label, row in zip(labels, measured.matrix.tolist(), strict=True)]
    return _csv([["true \\ predicted", *labels], *rows])


def _per_class_csv(report: TrainingReport, measured: Measured) -> bytes:
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
