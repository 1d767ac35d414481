"""How right a run was, where the folder of each image says what it shows."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from base.intervals import wilson_interval
from base.paths import path_to_text, text_to_path
from producer.errors import UsageError
from producer.reports.layout import Layout
from producer.runfile import RunFile
from producer.sources.table import truths_by_path

PATHS_AT_ONCE = 1000
MOST_LISTED = 20  # names in a message


class FolderTruth:
    """Finds the class that an image's parent folder is named after: by its label, its folder in training, its name.

    Where the run is of a table of labelled images, what the table calls an image stands for the name of its folder.

    Folders 0, 1, 2 may be called 1, 2, 3: then a name means one class as a label and another as a folder. Such names
    are all read in the one way that fits all folders of the run; as labels where both fit.

    Args:
        is_asked_for: whether somebody wants an evaluation, who must know when both fit.

    Raises:
        UsageError: neither way fits, or both of one that was asked for.
    """

    def __init__(self, run: RunFile, layout: Layout, *, is_asked_for: bool = False) -> None:
        self._run = run
        self._base = run.plan.base
        self.table = Path(run.plan.truth_table).name
        self._labels = truths_by_path(Path(run.plan.truth_table)) if self.table else {}
        by_name, by_folder, by_label = (
            dict(zip(map(_composed, known), layout.names, strict=False))
            for known in (layout.names, run.plan.folders, run.plan.labels)
        )
        self._names = by_name | by_folder | by_label
        doubtful = {name for name in by_folder.keys() & by_label.keys() if by_folder[name] != by_label[name]}
        if doubtful and (found := self.folders()) & doubtful:
            known = found & (by_folder.keys() | by_label.keys())
            fitting = [names for names in (by_label, by_folder) if known <= names.keys()]
            if not fitting or (is_asked_for and len(fitting) > 1):
                raise UsageError(
                    f"the folders' names are ambiguous: {listed(found & doubtful)} are labels of {run.plan.model}, and "
                    "folders that it was trained on under other labels. Put images of all classes into folders "
                    f"that are named after the labels: {listed(run.plan.labels)}"
                )
            self._names |= fitting[0]

    def folders(self) -> set[str]:
        """Return the names of the folders that images of the run lie in, in their normal form."""
        paths = (
            path for first in range(0, self._run.total, PATHS_AT_ONCE) for path in self._run.paths(first, PATHS_AT_ONCE)
        )
        return {_composed(text_to_path(self.folder(path))) for path in paths}

    def check(self) -> None:
        """Raise UsageError when no image lies in a folder that is named after a class."""
        found = self.folders()
        if not found & self._names.keys():
            plan = self._run.plan
            if self.table:
                raise UsageError(
                    f"no image of {self.table} has a label of {plan.model}: it has {listed(found)}; the labels of "
                    f"{plan.model} are {listed(plan.labels)}"
                )
            raise UsageError(
                f"no image lies in a folder that is named after a class: the folders are {listed(found)}; the labels "
                f"of {plan.model} are {listed(plan.labels)}"
            )

    def folder(self, path: str) -> str:
        """Return the name of the folder that an input lies in, or what a table calls it, as printable text."""
        inside = os.path.join(self._base, text_to_path(path))  # noqa: PTH118 - a million times
        if self.table:
            return self._labels.get(os.path.normpath(path_to_text(inside)), "")
        return path_to_text(os.path.basename(os.path.dirname(inside)))  # noqa: PTH119, PTH120

    def name(self, path: str) -> str | None:
        """Return the name of the class in reports, or None when the folder is none."""
        return self._names.get(_composed(text_to_path(self.folder(path))))


def listed(names: Iterable[str]) -> str:
    """Return names as a message lists them."""
    found = [path_to_text(name) or "(none)" for name in sorted(names)]
    more = f" and {len(found) - MOST_LISTED} more" if len(found) > MOST_LISTED else ""
    return ", ".join(found[:MOST_LISTED]) + more


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


@dataclass(frozen=True, slots=True)
class Score:
    """A share of images, with the interval that holds the true share in 95 of 100 such samples (Wilson 1927)."""

    right: int
    images: int

    @property
    def share(self) -> float:
        """From 0 to 1; 0 without images."""
        return self.right / self.images if self.images else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end, within [0, 1]."""
        return wilson_interval(self.share, self.images)


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class: its images, how many answers named it, how many of both."""

    name: str
    images: int
    answers: int
    right: int

    @property
    def recall(self) -> Score:
        """Of the images of this class, those that were labelled so."""
        return Score(self.right, self.images)

    @property
    def precision(self) -> Score:
        """Of the images labelled so, those that are of this class."""
        return Score(self.right, self.answers)

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return 2 * self.right / (self.images + self.answers) if self.images + self.answers else 0.0


@dataclass(slots=True)
class Evaluation:
    """Counts of labelled images whose folder is a label. ``pairs`` counts (truth, label)."""

    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    in_five: int = 0
    group_pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    unreadable: int = 0  # the folder is a label, but the image could not be labelled
    other_folders: Counter[str] = field(default_factory=Counter)  # images whose folder is no label
    accepted_images: int = 0
    accepted_right: int = 0
    table: str = ""  # whose labels stand for the names of folders

    @property
    def images(self) -> int:
        return sum(self.pairs.values())

    @property
    def top1(self) -> Score:
        """Images whose most probable label is their folder's."""
        return Score(sum(count for (truth, name), count in self.pairs.items() if truth == name), self.images)

    @property
    def top5(self) -> Score:
        """Images with their folder's label among the first five."""
        return Score(self.in_five, self.images)

    @property
    def accepted(self) -> Score | None:
        """Of the accepted images, the right ones; None without any."""
        return Score(self.accepted_right, self.accepted_images) if self.accepted_images else None

    @property
    def groups(self) -> Score | None:
        """Images in the right group; None where the model has no groups."""
        images = sum(self.group_pairs.values())
        right = sum(count for (truth, name), count in self.group_pairs.items() if truth == name)
        return Score(right, images) if images else None

    def classes(self) -> list[ClassScore]:
        """Return each class that is true or was answered, in the order of names."""
        images: Counter[str] = Counter()
        answers: Counter[str] = Counter()
        for (truth, name), count in self.pairs.items():
            images[truth] += count
            answers[name] += count
        return [
            ClassScore(name, images[name], answers[name], self.pairs[name, name])
            for name in sorted(images.keys() | answers.keys())
        ]

    def group_classes(self) -> list[ClassScore]:
        return Evaluation(pairs=self.group_pairs).classes()

    def confusions(self) -> list[tuple[str, str, int]]:
        """Return (truth, label, images) of what was taken for something else, the most frequent first."""
        wrong = [(truth, name, count) for (truth, name), count in self.pairs.items() if truth != name]
        return sorted(wrong, key=lambda item: (-item[2], item[0], item[1]))
