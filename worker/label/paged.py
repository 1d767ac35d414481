"""The pictures of a chunk whose files hold several: each file is read once for all of its pictures in the chunk."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from itertools import groupby

from jobs import LabelChunk
from vision.images import Page, PagedFile
from vision.serving import Source
from worker.label.data_root import Read


def paged(sources: Sequence[Read], chunk: LabelChunk) -> Sequence[Source]:
    """Return what gives each picture of ``chunk``; ``sources`` read the file at each of its paths."""
    if not chunk.pages:
        return sources
    found: list[Source] = []
    for _, places in groupby(range(len(chunk.paths)), key=chunk.paths.__getitem__):
        of_file = [*places]
        shared = _Shared(sources[of_file[0]], len(of_file))
        found += [partial(shared.page, chunk.pages[place]) for place in of_file]
    return found


class _Shared:
    """A file that several threads want: the first one reads it, and it is let go once all have it."""

    def __init__(self, read: Read, wanted: int) -> None:
        self._read = read
        self._wanted = wanted
        self._file: PagedFile | None = None
        self._lock = threading.Lock()

    def page(self, number: int) -> Page:
        """Return a picture of the file; ImageError where the file can't be read, for each of them anew."""
        with self._lock:
            self._wanted -= 1
            file = self._file or PagedFile(self._read())
            self._file = file if self._wanted else None
        return Page(file, number)
