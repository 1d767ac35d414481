"""Two versions that labelled the same images: how often they agree, which labels move, which is right more often."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from base.intervals import mcnemar, paired_interval, wilson_interval
from jobs import ModelPin
from producer.errors import UsageError
from producer.reports.csv import write_cells
from producer.reports.layout import Layout, Value
from producer.reports.truth import FolderTruth, Score
from producer.runfile import RunFile, StoredRow

SHOWN = 120  # disagreements on the page
SIGNIFICANCE = 0.05
PATHS_AT_ONCE = 1000
COLUMNS = [
    "path", "status", "label", "confidence", "other_label", "other_confidence", "agree", "truth",
    "error", "error_detail", "model", "other_model",
]  # fmt: skip


class Said(NamedTuple):
    """What one version says of an image."""

    label: str
    confidence: float


class Pair(NamedTuple):
    """An image with what both versions say of it, None where one could not label it; ``truth`` is "" if not known."""

    row: StoredRow
    other: StoredRow
    first: Said | None
    second: Said | None
    truth: str
    first_truth: str | None
    second_truth: str | None

    @property
    def right(self) -> tuple[bool, bool]:
        """Whether each version gives the true label, as its own words have it."""
        first, second = (
            said is not None and said.label == truth
            for said, truth in ((self.first, self.first_truth), (self.second, self.second_truth))
        )
        return first, second


class ClassMoves(NamedTuple):
    """One label: images that have it by the first version, by the second, by both; and where truth is known, how many
    are of it and how many of those each version finds.
    """

    name: str
    first: int
    second: int
    both: int
    images: int
    first_right: int
    second_right: int


@dataclass(slots=True)
class Comparison:
    """Counts of the images that two versions labelled.

    Attributes:
        moves: images by (label of the first version, label of the second).
        won, lost: of those the ones that only the second, and only the first, gets right.
        judged: images of known truth by (truth, whether the first is right, whether the second is).
        unanswered: images that at least one of them could not label.
        disagreements: those of which both are surest, the surest first.
    """

    first: ModelPin
    second: ModelPin
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    won: Counter[tuple[str, str]] = field(default_factory=Counter)
    lost: Counter[tuple[str, str]] = field(default_factory=Counter)
    judged: Counter[tuple[str, bool, bool]] = field(default_factory=Counter)
    confidence_sums: tuple[float, float] = (0.0, 0.0)
    unanswered: int = 0
    disagreements: list[Pair] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Those that both labelled."""
        return self.moves.total()

    @property
    def agreed(self) -> Score:
        """Images with one label by both."""
        return Score(sum(count for (first, second), count in self.moves.items() if first == second), self.images)

    @property
    def right(self) -> tuple[Score, Score]:
        """How right each version is, among the images of known truth."""
        images = self.judged.total()
        found = (sum(count for key, count in self.judged.items() if key[place]) for place in (1, 2))
        first, second = (Score(right, images) for right in found)
        return first, second

    @property
    def chance(self) -> float:
        """How often chance alone would make two equal versions differ as much (McNemar)."""
        return mcnemar(self.won.total(), self.lost.total())

    def classes(self) -> list[ClassMoves]:
        """Return each label that somebody gave or that is true, those first of which most images moved."""
        counts: dict[str, Counter[str]] = {}

        def count(name: str, what: str, images: int) -> None:
            counts.setdefault(name, Counter())[what] += images

        for (first, second), images in self.moves.items():
            count(first, "first", images)
            count(second, "second", images)
            count(first, "both", images * (first == second))
        for (truth, first_right, second_right), images in self.judged.items():
            count(truth, "images", images)
            count(truth, "first_right", images * first_right)
            count(truth, "second_right", images * second_right)
        found = [ClassMoves(name, *(of[what] for what in ClassMoves._fields[1:])) for name, of in counts.items()]
        return sorted(found, key=lambda item: (2 * item.both - item.first - item.second, item.name))

    def moved(self) -> list[tuple[str, str, int]]:
        """Return (label of the first, label of the second, images) where they differ, the most frequent first."""
        found = [(first, second, count) for (first, second), count in self.moves.items() if first != second]
        return sorted(found, key=lambda item: (-item[2], item[:2]))

    def sentence(self) -> str:
        """Return which version is right more often, or where that is not known how often they agree."""
        if not self.images:
            return f"no image was labelled by both {self.first} and {self.second}"
        if not self.judged:
            return f"{self.second} gives {_share(self.agreed)} the label of {self.first}"
        first, second = self.right
        won, lost, images = self.won.total(), self.lost.total(), first.images
        figures = (
            f"{100 * second.share:.1f} % against {100 * first.share:.1f} % of {images:,}, "
            f"{won:,} won and {lost:,} lost (McNemar p = {self.chance:.2g})"
        )
        if self.chance > SIGNIFICANCE:
            return f"which of {self.first} and {self.second} is right more often can't be told: {figures}"
        better, other = (self.second, self.first) if won > lost else (self.first, self.second)
        return f"{better} is right more often than {other}: {self.second} has {figures}"

    def to_json(self) -> dict[str, Any]:
        """Return what a script wants to know."""
        shown = ClassMoves._fields[1 : None if self.judged else 4]
        found: dict[str, Any] = {
            "first": self.first.model_dump(),
            "second": self.second.model_dump(),
            "images": self.images,
            "unanswered": self.unanswered,
            "agreed": _score(self.agreed),
            "mean_confidence": [
                round(total / self.images, 4) if self.images else None for total in self.confidence_sums
            ],
            "moves": [
                {"from": first, "to": second, "images": images}
                | ({"won": self.won[first, second], "lost": self.lost[first, second]} if self.judged else {})
                for first, second, images in self.moved()
            ],
            "classes": {
                item.name: {what: count for what, count in item._asdict().items() if what in shown}
                for item in self.classes()
            },
            "sentence": self.sentence(),
        }
        if self.judged:
            first, second = self.right
            low, high = paired_interval(self.won.total(), self.lost.total(), first.images)
            found["truth"] = {
                "images": first.images,
                "first": _score(first),
                "second": _score(second),
                "won": self.won.total(),
                "lost": self.lost.total(),
                "difference_95": [round(low, 4), round(high, 4)],
                "mcnemar_p": float(f"{self.chance:.4g}"),
            }
        return found


def compared(first: RunFile, second: RunFile, found: Comparison) -> Iterator[Pair]:
    """Yield the images of the second run, which are some of the first's in its order; count in ``found`` what passes.

    ``found`` is complete when all have passed. Truth is known as for an evaluation: by a table, or where each image
    lies in a folder that is named after a class of one of them.
    """
    truths = _truths(first, second)
    heap: list[tuple[float, int, Pair]] = []
    sums = [0.0, 0.0]
    for row, other in _paired(first, second):
        names = [truth.name(row.path) for truth in truths] or [None, None]  # a version may not know the class
        pair = Pair(row, other, _said(first, row), _said(second, other), next(filter(None, names), ""), *names)
        yield pair
        if pair.first is None or pair.second is None:
            found.unanswered += 1
            continue
        move = pair.first.label, pair.second.label
        found.moves[move] += 1
        for place, answer in enumerate((pair.first, pair.second)):
            sums[place] += answer.confidence
        if pair.truth:
            first_right, second_right = pair.right
            found.judged[pair.truth, first_right, second_right] += 1
            found.won[move] += second_right > first_right
            found.lost[move] += first_right > second_right
        if move[0] != move[1]:
            keep = heapq.heappush if len(heap) < SHOWN else heapq.heappushpop
            keep(heap, (pair.first.confidence + pair.second.confidence, -row.input_index, pair))
    found.confidence_sums = sums[0], sums[1]
    found.disagreements = [pair for _, _, pair in sorted(heap, key=lambda item: item[:2], reverse=True)]


def write_table(first: RunFile, pairs: Iterable[Pair], path: Path, models: tuple[ModelPin, ModelPin]) -> None:
    """Write a row an image: the columns of a report for the first version, and what the other one says."""
    names = [str(model) for model in models]
    write_cells(first, path, Layout.of(first.plan), COLUMNS, (_cells(pair, names) for pair in pairs))


def _cells(pair: Pair, models: list[str]) -> list[Value]:
    (label, confidence), (other, other_confidence) = pair.first or (None, None), pair.second or (None, None)
    failed = pair.row if pair.row.error else pair.other
    agree = ("yes" if label == other else "no") if label is not None and other is not None else None
    return [
        pair.row.path, "ok" if pair.first else "error", label, confidence, other, other_confidence, agree,
        pair.truth or None, failed.error, failed.detail or None, *models,
    ]  # fmt: skip


def _paired(first: RunFile, second: RunFile) -> Iterator[tuple[StoredRow, StoredRow]]:
    others = second.rows()
    other = next(others, None)
    for row in first.rows():
        if other is None:
            return
        if (row.path, row.page) == (other.path, other.page):
            yield row, other
            other = next(others, None)


def _truths(first: RunFile, second: RunFile) -> list[FolderTruth]:
    """Return what finds the true label in the words of each version, none where truth is not known."""
    try:
        found = [FolderTruth(run, Layout.of(run.plan)) for run in (first, second)]
    except UsageError:  # ambiguous names
        return []
    if found[0].table:
        return found
    paths = (path for start in range(0, second.total, PATHS_AT_ONCE) for path in second.paths(start, PATHS_AT_ONCE))
    return found if all(any(truth.name(path) is not None for truth in found) for path in paths) else []


def _said(run: RunFile, row: StoredRow) -> Said | None:
    return Said(run.plan.labels[row.top[0][0]], row.top[0][1]) if row.top else None


def _share(score: Score) -> str:
    low, high = wilson_interval(score.share, score.images)
    return (
        f"{score.right:,} of {score.images:,} images ({100 * score.share:.1f} %; "
        f"95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
    )


def _score(score: Score) -> dict[str, Any]:
    low, high = score.interval
    return {"images": score.right, "share": round(score.share, 4), "interval_95": [round(low, 4), round(high, 4)]}
