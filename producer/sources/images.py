"""A folder, an image or a list of this machine -> the sorted paths of its images."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from base.image_files import has_image_suffix
from base.paths import path_to_text

MOST_SUFFIXES, MAX_SUFFIX = 100, 20  # counted apart; and as long
NO_SUFFIX, OTHER_SUFFIXES = "none", "other"


@dataclass(slots=True)
class Source:
    """What is to be labelled.

    Attributes:
        name: short name for people: the folder's or the list's.
        base: absolute folder that relative paths start from.
        skipped: how many files of a folder have which suffix that is no image's; counted while ``paths`` runs.
    """

    name: str
    base: str
    _origin: Path | None
    _kind: str
    skipped: dict[str, int] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    @property
    def is_folder(self) -> bool:
        """Whether inputs are found by walking, not written by somebody."""
        return self._kind == "folder"

    @property
    def is_read_once(self) -> bool:
        """Whether ``paths`` can't be asked twice."""
        return self._kind == "stdin"

    def paths(self, standard_input: TextIO | None = None) -> Iterator[str]:
        """Yield each path: below ``base`` for a folder, as written for a list. Folders are walked in sorted order."""
        if self._kind == "folder":
            yield from self._walk("")
        elif self._kind == "file":
            assert self._origin is not None  # noqa: S101 - set with the kind
            yield self._origin.name
        elif self._kind == "list":
            assert self._origin is not None  # noqa: S101
            with self._origin.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
                yield from _lines(lines)
        else:
            given = standard_input or sys.stdin
            if isinstance(given, io.TextIOWrapper):  # most locales would refuse names that are not UTF-8
                given.reconfigure(encoding="utf-8", errors="surrogateescape")
            yield from _lines(given)

    def _walk(self, below: str) -> Iterator[str]:
        # Own walk: os.walk lists files before folders of a level; one sorted order is easier to follow in a report.
        for name, is_folder in sorted(self._listed(below)):
            if name.startswith("."):
                continue
            if is_folder:
                yield from self._walk(f"{below}{name}/")
            elif has_image_suffix(name):
                yield below + name
            else:
                self._skip(name)

    def _skip(self, name: str) -> None:
        """Count a file that is passed over, by its suffix; by no more of them than a person would read."""
        suffix = path_to_text(os.path.splitext(name)[1].lower()) or NO_SUFFIX  # noqa: PTH122
        if len(suffix) > MAX_SUFFIX or (suffix not in self.skipped and len(self.skipped) >= MOST_SUFFIXES):
            suffix = OTHER_SUFFIXES
        self.skipped[suffix] = self.skipped.get(suffix, 0) + 1

    def _listed(self, below: str) -> list[tuple[str, bool]]:
        """Return the names in a folder below ``base``, and which are folders; nothing of one that can't be listed."""
        folder = os.path.join(self.base, below).rstrip("/") or "/"  # noqa: PTH118
        try:
            with os.scandir(folder) as entries:
                return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        except OSError as error:
            self.unreadable.append(f"{folder}: {error.strerror}")
            return []


def _lines(lines: TextIO) -> Iterator[str]:
    for line in lines:
        path = line.rstrip("\r\n")
        if path:
            yield path
