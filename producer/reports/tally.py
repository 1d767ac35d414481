"""One pass over a run, that of its first report: what its summary, its page and the terminal say."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from base.drift import CONFIDENCE_BINS, Expected, confidence_bin, outlier_place
from producer.errors import UsageError
from producer.reports.layout import Layout
from producer.reports.truth import Evaluation, FolderTruth
from producer.runfile import RunFile, StoredRow

BINS = 20  # of the confidence histogram
PER_BIN = CONFIDENCE_BINS // BINS
REVIEWED = 60  # the least sure images, and as many of the worst mistakes

Truth = Literal["auto", "folders", "none"]


@dataclass(slots=True)
class Tally:
    """Counts of a run.

    Attributes:
        classes: images by class index, whatever reports call it.
        confidences: images by confidence, in steps of a hundredth.
        outliers: images by `base.drift.outlier_place`, where that is known.
        wrong_histogram: those of them whose folder says otherwise.
        least_sure, mistakes: indexes of inputs; the least sure, and the most sure that were wrong, come first.
        evaluation: None where folders are no truth.
    """

    images: int = 0
    ok: int = 0
    failed: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    groups: Counter[str] = field(default_factory=Counter)
    classes: Counter[int] = field(default_factory=Counter)
    confidences: list[int] = field(default_factory=lambda: [0] * CONFIDENCE_BINS)
    outliers: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)  # empty where nothing is decided
    confidence_sum: float = 0.0
    wrong_histogram: list[int] = field(default_factory=lambda: [0] * BINS)
    least_sure: list[int] = field(default_factory=list)
    mistakes: list[int] = field(default_factory=list)
    evaluation: Evaluation | None = None

    @property
    def histogram(self) -> list[int]:
        """Images by confidence, in steps of a twentieth."""
        return [sum(self.confidences[start : start + PER_BIN]) for start in range(0, CONFIDENCE_BINS, PER_BIN)]

    def count_answer(self, row: StoredRow, expected: Expected | None) -> None:
        """Count the class, the confidence and the outlier score of a labelled image."""
        best, confidence = row.top[0]
        if row.outlier is not None and expected is not None and expected.outliers:
            self.outliers[outlier_place(expected.outliers, row.outlier)] += 1
        self.ok += 1
        self.classes[best] += 1
        self.confidence_sum += confidence
        self.confidences[confidence_bin(confidence)] += 1

    @property
    def missing(self) -> int:
        """Inputs without a row."""
        return self.images - self.ok - self.failed

    @property
    def to_review(self) -> int:
        """Labelled images that somebody should look at: unknown ones, too."""
        return self.decisions["review"] + self.decisions["unknown"]


def ranked(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return counts, the largest first and equal ones by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def counted(
    run: RunFile, rows: Iterable[StoredRow], layout: Layout, found: Tally, truth: Truth = "auto"
) -> Iterator[StoredRow]:
    """Yield the ``rows`` of ``run``, and count in ``found`` what passes; it is complete when all have.

    Args:
        truth: "auto" evaluates when the folder of every image is a label; "folders" evaluates the images whose folder
            is one and counts the others; "none" never does.
    """
    evaluation = None
    if truth != "none":
        try:
            folders = FolderTruth(run, layout, is_asked_for=truth == "folders")
            evaluation = Evaluation(table=folders.table)
        except UsageError:  # ambiguous names
            if truth == "folders":
                raise
    least_sure: list[tuple[float, int]] = []
    mistakes: list[tuple[float, int]] = []
    for row in rows:
        yield row
        true_name = folders.name(row.path) if evaluation is not None else None
        if evaluation is not None and true_name is None:
            if truth == "auto":
                evaluation = None
                mistakes = []
                found.wrong_histogram = [0] * BINS
            else:
                evaluation.other_folders[folders.folder(row.path)] += 1
        if not row.top:
            found.failed += row.error is not None
            if row.error:
                found.reasons[row.error] += 1
            if evaluation is not None and true_name is not None:
                evaluation.unreadable += 1
            continue
        best, confidence = row.top[0]
        name, group = layout.names[best], layout.groups[best]
        found.count_answer(row, run.plan.expected)
        found.labels[name] += 1
        if group:
            found.groups[group] += 1
        if (decision := layout.decision(row)) is not None:
            found.decisions[decision] += 1
        _offer(least_sure, -confidence, row.input_index)
        if evaluation is not None and true_name is not None:
            _evaluate(evaluation, layout, row, true_name)
            if name != true_name:
                found.wrong_histogram[confidence_bin(confidence) // PER_BIN] += 1
                _offer(mistakes, confidence, row.input_index)
    found.least_sure, found.mistakes = _indexes(least_sure), _indexes(mistakes)
    found.evaluation = evaluation if evaluation is not None and (evaluation.images or truth == "folders") else None


def _evaluate(evaluation: Evaluation, layout: Layout, row: StoredRow, true_name: str) -> None:
    names = [layout.names[index] for index, _ in row.top[:5]]
    evaluation.pairs[true_name, names[0]] += 1
    if layout.decision(row) == "accept":
        evaluation.accepted_images += 1
        evaluation.accepted_right += names[0] == true_name
    evaluation.in_five += true_name in names
    true_group = layout.groups[layout.names.index(true_name)]
    if true_group:
        evaluation.group_pairs[true_group, layout.groups[row.top[0][0]] or ""] += 1


def _offer(heap: list[tuple[float, int]], value: float, index: int) -> None:
    """Keep the indexes of the highest values; of equal ones the earlier."""
    keep = heapq.heappush if len(heap) < REVIEWED else heapq.heappushpop
    keep(heap, (value, -index))


def _indexes(heap: list[tuple[float, int]]) -> list[int]:
    return [-index for _, index in sorted(heap, reverse=True)]
