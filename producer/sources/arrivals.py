"""Which files of a folder are new or changed, and whole.

A file is whole once its size and time of last change have stood still for a while; one that was renamed into place is
seen whole. What can't be read after that may still be half written, by a writer that rests: it gets more time before
its error counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

from base.image_files import has_image_suffix, is_system_folder
from base.paths import path_to_text
from producer.errors import UsageError
from producer.sources.images import Source
from producer.sources.since import FileState, state_of

PATIENCE = 20  # times the time to settle, for a file that can't be read
MOST_WAITING = 10_000  # files in a batch, and in memory; the others are seen when these are labelled
NO_FILE = FileState(-1, -1)  # a broken link, a pipe, a folder that can't be listed: it has a row, whatever it says


@dataclass(slots=True)
class _Seen:
    state: FileState
    since: float  # monotonic seconds
    has_failed: bool = False


class Arrivals:
    """The files of one folder that are waited for.

    Args:
        known: gives the state in which the file at a path (below the folder, as text) was labelled.
        settle_s: how long a file must stand still.
        trusts_clock: whether the file system has this machine's time.
    """

    def __init__(
        self, source: Source, known: Callable[[str], FileState | None], settle_s: float, *, trusts_clock: bool
    ) -> None:
        self._source = source
        self._known = known
        self._settle_s = settle_s
        self._trusts_clock = trusts_clock
        self._waiting: dict[str, _Seen] = {}
        self.skipped: dict[str, int] = {}
        self.is_cut = False  # there are more than MOST_WAITING

    def __len__(self) -> int:
        return len(self._waiting)

    def has(self, path: str) -> bool:
        """Whether the file at this path is waited for."""
        return path in self._waiting

    @property
    def patience_s(self) -> float:
        """How long a file that can't be read must stand still."""
        return PATIENCE * self._settle_s

    def scan(self) -> list[str]:
        """Look at every file; return a sentence for each folder that can't be listed.

        Raises:
            UsageError: this very folder can't be listed.
        """
        self._source.skipped.clear()
        self._source.unreadable.clear()
        room = MOST_WAITING
        for path in self._source.paths():
            if room <= 0:
                self.is_cut = True
                return self._source.unreadable
            self.look(path)
            room = MOST_WAITING - len(self._waiting)
        self.is_cut = False
        self.skipped = dict(self._source.skipped)
        return self._source.unreadable

    def look_at(self, changed: Iterable[str]) -> None:
        """Look at what has changed: absolute paths of files and folders."""
        for path in changed:
            below = os.path.relpath(path, self._source.base)
            folders, name = PurePosixPath(below).parts[:-1], os.path.basename(below)  # noqa: PTH119
            if any(part.startswith(".") for part in (*folders, name)) or any(map(is_system_folder, folders)):
                continue
            if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
                if not is_system_folder(name):
                    with suppress(UsageError):  # it can't be listed: the next scan finds it
                        for inner in Source(name, path).paths():
                            self.look(f"{below}/{inner}")
            elif has_image_suffix(name):
                self.look(below)

    def look(self, path: str) -> None:
        """Look at one file, by its path below the folder: it waits as long as it is neither labelled nor whole."""
        state = self._state(path)
        if state is None or state == self._known(path_to_text(path)):
            self._waiting.pop(path, None)
            return
        seen = self._waiting.get(path)
        if seen is None or seen.state != state:
            self._waiting[path] = _Seen(state, time.monotonic())

    def whole(self) -> list[str]:
        """Return the files that have stood still for long enough, sorted."""
        return sorted(islice(self._whole(), MOST_WAITING))

    def _whole(self) -> Iterator[str]:
        now = time.monotonic()
        for path, seen in list(self._waiting.items()):
            if now - seen.since >= (self.patience_s if seen.has_failed else self._settle_s):
                self.look(path)
                if self._waiting.get(path) is seen:
                    yield path

    def counts(self, path: str, state: FileState) -> bool:
        """Whether an error of the file at ``path`` counts, which was in ``state``: no writer may be at it any more.

        If it doesn't, the file is waited for again, unless it is gone.
        """
        self.look(path)
        seen = self._waiting.get(path)
        if seen is None or seen.state != state:
            return False
        if time.monotonic() - seen.since >= self.patience_s or self._age_s(path) >= self.patience_s:
            return True
        seen.has_failed = True
        return False

    def clear(self) -> None:
        """Forget all: the folder is away."""
        self._waiting.clear()

    def _state(self, path: str) -> FileState | None:
        whole = os.path.join(self._source.base, path)  # noqa: PTH118
        if path.endswith("/"):
            return NO_FILE if os.path.isdir(whole) and not _can_be_listed(whole) else None  # noqa: PTH112
        return state_of(whole) or (NO_FILE if os.path.lexists(whole) else None)

    def _age_s(self, path: str) -> float:
        """Return how long ago the file was written or put in place, where this machine's clock can tell; else 0."""
        try:
            found = os.stat(os.path.join(self._source.base, path))  # noqa: PTH116, PTH118
        except OSError:
            return 0.0
        return time.time() - max(found.st_mtime, found.st_ctime) if self._trusts_clock else 0.0


def _can_be_listed(folder: str) -> bool:
    try:
        with os.scandir(folder):
            return True
    except OSError:
        return False
