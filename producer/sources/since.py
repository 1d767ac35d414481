"""Which files are new or changed since an earlier run: by path, size and time of the last change, never by content.

Every run keeps the state that its files had before the first of them was labelled, so a file that changes meanwhile
counts as changed the next time. What an earlier run left out as unchanged is known to the run after it as well.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from base.pages import page_numbers
from base.paths import path_to_text
from base.urls import is_url

CACHE_KIB = 16_384  # of the database of earlier files: what a million of them may have in memory


class FileState(NamedTuple):
    """Size in bytes, and time of the last change in nanoseconds, as the file system has them."""

    size: int
    modified_ns: int


class Input(NamedTuple):
    """One image of a run: its path as text, its state where the producer can look at it, and its number in the file.

    ``page`` is 0 where a file counts as one image, whatever it holds.
    """

    text: str
    state: FileState | None = None
    page: int = 0


def state_of(path: str) -> FileState | None:
    """Return the state of a file, links followed; None when it is no regular file or can't be looked at from here."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a million times
    except (OSError, ValueError):  # ValueError: a NUL byte
        return None
    is_known = stat.S_ISREG(found.st_mode) and abs(found.st_mtime_ns) < 2**63  # what a run file can hold
    return FileState(found.st_size, found.st_mtime_ns) if is_known else None


class EarlierFiles:
    """The files that an earlier run has labelled. On disk, so that a million of them leave memory flat."""

    def __init__(self, files: Iterable[tuple[str, int, int]] = ()) -> None:
        """Take over ``files``, each as absolute path, size and time of the last change."""
        self._db = sqlite3.connect("", isolation_level=None)  # SQLite deletes the file of a database without a name
        self._db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        self._db.execute(
            "CREATE TABLE files (path TEXT PRIMARY KEY, size INTEGER, modified_ns INTEGER, kept INTEGER DEFAULT 0)"
            " WITHOUT ROWID"
        )
        # For good: nothing of this outlives the process, and a commit a file would take minutes.
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO files (path, size, modified_ns) VALUES (?, ?, ?)", files)

    def close(self) -> None:
        self._db.close()

    def begin(self) -> None:
        """Forget which files were found unchanged."""
        self._db.execute("UPDATE files SET kept = 0 WHERE kept")

    def is_unchanged(self, path: str, state: FileState) -> bool:
        """Return whether the file at ``path`` (absolute, as text) was labelled in this state, and remember it."""
        found = self._db.execute(
            "UPDATE files SET kept = 1 WHERE path = ? AND size = ? AND modified_ns = ?", (path, *state)
        )
        return found.rowcount == 1

    def unchanged(self) -> Iterator[tuple[str, int, int]]:
        """Yield path, size and time of the files that were found unchanged."""
        yield from self._db.execute("SELECT path, size, modified_ns FROM files WHERE kept ORDER BY path")


class InputFilter:
    """Paths -> inputs with their states, without those that are unchanged since an earlier run.

    Attributes:
        unchanged: how many files were left out; counted while ``inputs`` runs.

    Args:
        pages: whether each picture of a file is an input.
        merged: whether unchanged files are inputs, too, only counted.
    """

    def __init__(
        self, base: str, earlier: EarlierFiles | None = None, *, pages: bool = False, merged: bool = False
    ) -> None:
        self._base = base
        self._merged = merged
        self._pages = pages
        self.earlier = earlier
        self.unchanged = 0

    def inputs(self, paths: Iterable[str]) -> Iterator[Input]:
        self.unchanged = 0
        if self.earlier is not None:
            self.earlier.begin()
        base = path_to_text(self._base)
        is_local = bool(self._base) and not is_url(self._base)
        for path in paths:
            text = path_to_text(path)
            state = state_of(os.path.join(self._base, path)) if is_local else None  # noqa: PTH118
            if (
                self.earlier is not None
                and state is not None
                and self.earlier.is_unchanged(os.path.join(base, text), state)  # noqa: PTH118
            ):
                self.unchanged += 1
                if not self._merged:
                    continue
            if self._pages:
                numbers = page_numbers(os.path.join(self._base, path)) if state is not None else [1]  # noqa: PTH118
                yield from (Input(text, state, number) for number in numbers)
            else:
                yield Input(text, state)
