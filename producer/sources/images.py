"""SOURCE on the command line -> the sorted paths of its images. URLs are in `producer/sources/remote_images.py`."""

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
from base.urls import is_url
from producer.errors import UsageError


@dataclass(slots=True)
class Source:
    """What is to be labelled.

    Attributes:
        name: short name for people: the folder's or the list's.
        base: absolute folder that relative paths start from.
        skipped: how many files of a folder have no image suffix; counted while ``paths`` runs.
    """

    name: str
    base: str
    _origin: Path | None
    _kind: str
    skipped: int = field(default=0)
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
            yield from self._walk(self.base, "")
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

    def _walk(self, folder: str, below: str) -> Iterator[str]:
        # Own walk: os.walk lists files before folders of a level; one sorted order is easier to follow in a report.
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            self.unreadable.append(f"{folder}: {error.strerror}")
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = f"{below}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(entry.path, f"{path}/")
            elif has_image_suffix(entry.name):
                yield path
            else:
                self.skipped += 1


def open_source(argument: str) -> Source:
    """Return the source of ``argument``: a folder, an image, a URL, a ``.txt`` list, or ``-`` for a list on stdin."""
    if is_url(argument):
        from producer.sources.remote_images import open_url

        return open_url(argument)
    if argument == "-":
        return Source("stdin", os.getcwd(), None, "stdin")  # noqa: PTH109
    path = Path(os.path.abspath(argument))  # noqa: PTH100 - links stay as the user wrote them
    if path.is_dir():
        return Source(path_to_text(path.name) or "root", str(path), path, "folder")
    if path.suffix.lower() == ".txt" and path.is_file():
        return of_lines(Source(path_to_text(path.stem), os.getcwd(), path, "list"))  # noqa: PTH109
    if path.exists():
        return Source(path_to_text(path.stem), str(path.parent), path, "file")
    raise UsageError(
        f"no such folder or file: {argument}. SOURCE is a folder, an image, a .txt list of paths, or -; or a URL"
    )


def of_lines(source: Source, listed: list[str] | None = None) -> Source:
    """Return the source of a list: itself, or that of its URLs if it begins with one. ``listed`` are its lines."""
    lines = source.paths if listed is None else lambda: listed
    if not is_url(next(iter(lines()), "")):
        return source
    from producer.sources.remote_images import url_list

    return url_list(source.name, lines)


def _lines(lines: TextIO) -> Iterator[str]:
    for line in lines:
        path = line.rstrip("\r\n")
        if path:
            yield path
