"""Features on disk: computed once for an image, read by every later job as one memory-mapped array.

A *space* holds the features of one extractor: a folder with ``rows.bin``, rows of equal length one after another, and
``keys.bin``, which names each row and holds its checksum. Both only grow, under a lock, rows first: a process that is
killed in between leaves rows that no key names, and the next one writes over them. Two jobs may fill a space at once.

A row counts only while its checksum is right; a damaged one is computed anew and appended, and the last key of a name
is the one that counts. Spaces that are not in use make way for others, the longest unused first.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.files import locked
from vision.errors import VisionError
from vision.training.samples import StoredRows

KEY_BYTES = 32  # a sha256
_ENTRY = np.dtype([("key", f"V{KEY_BYTES}"), ("crc", "<u4")])
_SPACE = re.compile(r"[0-9a-f]{64}")  # whatever else lies in the cache's folder is not ours to count or to remove


class CacheFull(VisionError):
    """The features of one job need more room than the cache may take."""


@dataclass(eq=False)
class FeatureSpace:
    """The features of one extractor. Open while `FeatureCache.open` lasts; for one thread.

    Every method raises OSError when the disk fails or somebody has removed the folder.

    Attributes:
        shape, dtype: of one image's features, as they are stored.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    folder: Path
    # Open files, not paths: a folder that is removed and made anew must not pass for the one that was read.
    rows_file: io.FileIO
    keys_file: io.FileIO
    lock: Path

    def __post_init__(self) -> None:
        self._width = int(np.prod(self.shape))
        self._row_bytes = self._width * self.dtype.itemsize
        self._entries: dict[bytes, tuple[int, int]] = {}  # place and checksum of each key's row
        self._read = 0

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Return the positions of the ``keys`` that have no row yet, or a damaged one; each key once."""
        self._read_keys()
        stored = self._stored()
        first = dict(zip(reversed(keys), reversed(range(len(keys))), strict=True))
        return sorted(position for key, position in first.items() if not self._sound(key, stored))

    def add(self, keys: Sequence[bytes], rows: NDArray[Any]) -> None:
        """Append one row a key; what another job has added meanwhile is not added twice.

        Raises:
            VisionError: a value is no number, or none that the space's dtype holds; nothing is added.
        """
        with np.errstate(over="ignore"):
            data = np.ascontiguousarray(rows.reshape(len(keys), self._width), self.dtype)
        if not np.isfinite(data).all():
            raise VisionError(
                f"the frozen part gave features that are no numbers in {self.dtype}; "
                'set feature_dtype = "float32", or another engine or precision'
            )
        self._check_there()
        with locked(self.lock, fcntl.LOCK_EX):
            new = self.missing(keys)
            data = data[new]
            entries = np.array(
                [(keys[position], zlib.crc32(row)) for position, row in zip(new, data, strict=True)], _ENTRY
            )
            count = _size(self.keys_file) // _ENTRY.itemsize
            _write_at(self.rows_file, count * self._row_bytes, data)
            _write_at(self.keys_file, count * _ENTRY.itemsize, entries)
        self._read_keys()

    def rows(self, keys: Sequence[bytes]) -> StoredRows:
        """Return the features of ``keys``, none of which may be missing, in their order, as float32."""
        self._check_there()
        places = np.array([self._entries[key][0] for key in keys], np.int64)
        return StoredRows(self._stored(), places, self.shape, np.float32)

    def _stored(self) -> NDArray[Any]:
        count = _size(self.rows_file) // self._row_bytes
        if not count:
            return np.zeros((0, self._width), self.dtype)
        return np.asarray(np.memmap(self.rows_file, self.dtype, "r", shape=(count, self._width)))

    def _sound(self, key: bytes, stored: NDArray[Any]) -> bool:
        place, crc = self._entries.get(key, (len(stored), 0))
        return place < len(stored) and zlib.crc32(stored[place]) == crc

    def _read_keys(self) -> None:
        """Take in the keys that came since the last call, unchecked: only rows that are asked for are read."""
        self._check_there()
        self.keys_file.seek(self._read * _ENTRY.itemsize)
        data = self.keys_file.readall()
        entries = np.frombuffer(data, _ENTRY, len(data) // _ENTRY.itemsize)
        places = range(self._read, self._read + len(entries))
        self._entries.update(
            zip(entries["key"].tolist(), zip(places, entries["crc"].tolist(), strict=True), strict=True)
        )
        self._read += len(entries)

    def _check_there(self) -> None:
        if not all(os.fstat(file.fileno()).st_nlink for file in (self.rows_file, self.keys_file)):
            raise FileNotFoundError(
                errno.ENOENT, "somebody removed features that a job was using; run the job again", str(self.folder)
            )


@dataclass(frozen=True)
class FeatureCache:
    """All spaces below one folder, which together take about ``limit_bytes``.

    Spaces in use stay: jobs that run at once may take more together, until the next one finds them closed.
    """

    root: Path
    limit_bytes: int

    @contextmanager
    def open(self, name: str, shape: tuple[int, ...], dtype: str, needed_rows: int) -> Iterator[FeatureSpace]:
        """Give the space ``name``, with room for ``needed_rows`` rows; it can't be removed while it is open.

        Args:
            name: a digest of all that features depend on beside the image; 64 hex digits.
            shape: of one image's features.
            dtype: "float16" or "float32", as they are stored.

        Raises:
            CacheFull: the rows need more than ``limit_bytes``.
        """
        kind = np.dtype(dtype)
        needed = needed_rows * (int(np.prod(shape)) * kind.itemsize + _ENTRY.itemsize)
        if needed > self.limit_bytes:
            raise CacheFull(
                f"the features of this job need {needed / 1e9:.1f} GB, and the cache in {self.root} may take "
                f"{self.limit_bytes / 1e9:.1f} GB; raise SORTLINE_FEATURE_CACHE_BYTES, or lower augmentation.repeat"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        folder = self.root / name
        # Rows of other seeds and recipes gather in a space that every job uses, and would never be the unused ones.
        if needed < (size := _folder_size(folder)) and size + needed > self.limit_bytes:
            self._remove(folder)
        with locked(self._lock(name, "used"), fcntl.LOCK_SH):
            folder.mkdir(exist_ok=True)
            files = folder / "rows.bin", folder / "keys.bin"
            for file in files:
                file.touch()
            os.utime(folder)
            self._make_room(needed, folder)
            try:
                with files[0].open("r+b", buffering=0) as rows, files[1].open("r+b", buffering=0) as keys:
                    yield FeatureSpace(shape, kind, folder, rows, keys, self._lock(name, "write"))
            finally:
                with suppress(OSError):  # the folder may be gone; what happened inside matters more
                    os.utime(folder)

    def _make_room(self, needed: int, own: Path) -> None:
        """Remove unused spaces, the longest unused first, until ``needed`` bytes and the rest stay below the limit."""
        used: dict[Path, float] = {}
        for space in self.root.iterdir():
            with suppress(FileNotFoundError):  # another job removes it just now
                if space != own and _SPACE.fullmatch(space.name) and space.is_dir():
                    used[space] = space.stat().st_mtime
        sizes = {space: _folder_size(space) for space in used}
        total = sum(sizes.values()) + max(needed, _folder_size(own))
        for space in sorted(used, key=used.__getitem__):
            if total <= self.limit_bytes:
                return
            if self._remove(space):
                total -= sizes[space]

    def _remove(self, space: Path) -> bool:
        """Remove a space unless a job has it open; return whether it is gone."""
        try:
            with locked(self._lock(space.name, "used"), fcntl.LOCK_EX | fcntl.LOCK_NB):
                with suppress(FileNotFoundError):  # another job was faster
                    shutil.rmtree(space)
                return True
        except BlockingIOError:
            return False

    def _lock(self, name: str, what: str) -> Path:
        # Beside the folder, not in it, and never removed: a lock on a file that somebody unlinks holds nobody off.
        return self.root / f"{name}.{what}"


def _size(file: io.FileIO) -> int:
    return os.fstat(file.fileno()).st_size


def _folder_size(folder: Path) -> int:
    """Return the bytes of the files in a folder, which may vanish meanwhile."""
    total = 0
    with suppress(FileNotFoundError):
        for file in folder.iterdir():
            with suppress(FileNotFoundError):
                total += file.stat().st_size
    return total


def _write_at(file: io.FileIO, offset: int, array: NDArray[Any]) -> None:
    # Over what a killed process left behind, never cutting it off first: other jobs have the file mapped, and who reads
    # a mapped page that is gone is killed (SIGBUS).
    file.seek(offset)
    left = memoryview(array.tobytes())
    while left:
        left = left[file.write(left) :]
