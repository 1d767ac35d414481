"""A folder, an image or a list of this machine -> the sorted paths of its images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TextIO

from base.image_files import has_image_suffix, is_system_folder
from base.paths import as_on_disk, is_utf8, path_to_text
from base.text_files import TextError, text_lines
from producer.errors import UsageError

MOST_SUFFIXES, MAX_SUFFIX = 100, 20  # counted apart; and as long
NO_SUFFIX, OTHER_SUFFIXES = "none", "other"


@dataclass(slots=True)
class Source:
    """What is to be labelled.

    Attributes:
        name: short name for people: the folder's or the list's.
        base: absolute folder that relative paths start from.
        lines: gives the paths as somebody wrote them, each time anew; None of a folder, which is walked.
        skipped: how many files of a folder have which suffix that is no image's, and how many folders of which name
            belong to a system; counted while ``paths`` runs.
        truth_table: of labelled images, where the list is one.
        unreadable: a sentence for each folder that can't be listed; it is a path, which ends in a slash.
    """

    name: str
    base: str
    lines: Callable[[], Iterable[str]] | None = None
    skipped: dict[str, int] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    truth_table: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether inputs are found by walking, not written by somebody."""
        return self.lines is None

    def paths(self) -> Iterator[str]:
        """Yield each path: below ``base`` for a folder, in sorted order; as written for a list."""
        yield from self._walk() if self.lines is None else self.lines()

    def _walk(self) -> Iterator[str]:
        # Own walk: os.walk lists files before folders of a level; one sorted order is easier to follow in a report.
        # Without recursion, as folders may lie thousands of levels deep.
        found = self._listed("")
        if found is None:
            raise UsageError(f"{self.base} can't be listed: {self.unreadable[-1]}")
        levels = [("", iter(sorted(found)))]
        while levels:
            below, entries = levels[-1]
            for name, is_folder in entries:
                if name.startswith("."):
                    continue
                if is_folder and not is_system_folder(name):
                    folder = f"{below}{name}/"
                    if (found := self._listed(folder)) is not None:
                        levels.append((folder, iter(sorted(found))))
                        break
                    yield folder  # a worker can't read it either: its row says so
                elif not is_folder and has_image_suffix(name):
                    yield below + name
                else:
                    self._skip(f"{name.lower()}/" if is_folder else skipped_suffix(name))
            else:
                levels.pop()

    def _skip(self, what: str) -> None:
        """Count what is passed over; by no more kinds than a person would read."""
        if what not in self.skipped and len(self.skipped) >= MOST_SUFFIXES:
            what = OTHER_SUFFIXES
        self.skipped[what] = self.skipped.get(what, 0) + 1

    def _listed(self, below: str) -> list[tuple[str, bool]] | None:
        """Return the names in a folder below ``base``, and which are folders; None of one that can't be listed."""
        folder = os.path.join(self.base, below).rstrip("/") or "/"  # noqa: PTH118
        try:
            with os.scandir(folder) as entries:
                return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        except OSError as error:
            self.unreadable.append(f"{path_to_text(folder)}: {error.strerror}")
            return None


class Chosen(Source):
    """Some images of another source, which lie where that one says; ``lines`` gives their paths as it does."""

    def __init__(self, source: Source, lines: Callable[[], Iterable[str]]) -> None:
        super().__init__(source.name, source.base, lines, truth_table=source.truth_table)
        self._is_folder = source.is_folder

    @property
    def is_folder(self) -> bool:
        return self._is_folder


def listed_paths(lines: TextIO, name: str, base: str) -> Iterator[str]:
    """Yield the paths in a list that people know as ``name``; TextError if it is in another encoding than it seems."""
    lost, is_found = "", False
    for line in text_lines(lines, name):
        path = as_on_disk(line, base)
        if not is_utf8(line):
            whole = os.path.join(base, path)  # noqa: PTH118
            if os.path.lexists(whole):
                is_found = True
            elif os.path.isdir(os.path.dirname(whole)):  # noqa: PTH112, PTH120 - no word about a share that is not here
                lost = lost or path
        yield path
    # Names on disk need not be UTF-8. If none of those in the list is there, it is the list that must be another.
    if lost and not is_found:
        raise TextError(f"{name} is not UTF-8, and no file is called {path_to_text(lost)}; save the list as UTF-8")


def skipped_suffix(name: str) -> str:
    """Return what a file that is passed over counts as: its suffix, unless that is none or too long for one."""
    suffix = path_to_text(os.path.splitext(name)[1].lower()) or NO_SUFFIX  # noqa: PTH122
    return suffix if len(suffix) <= MAX_SUFFIX else OTHER_SUFFIXES
