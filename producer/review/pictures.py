"""Small and large copies of the reviewed images, each made once: a browser gets nothing but WebP files of ours.

They are kept in one SQLite file in the home, whoever asked for them, the oldest making way for new ones. The small ones
of all images are made in the background, since near-duplicates are found by them.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from base.errors import ImageError, UnavailableError
from base.files import private
from base.paths import text_to_path
from producer.reports.thumbnails import MOST_BYTES, shrunk
from producer.review.images import Collection
from storage import LocalFolder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALL_PX: Final = 224
LARGE_PX: Final = 2048
MOST_KEPT: Final = 150_000  # small ones of 5 kB: 0.8 GB
NEAR_BITS: Final = 6  # of 64; copies of other sizes and qualities stay below
PLAIN_BITS: Final = 10  # a picture with fewer edges than this is like any other plain one
COMPARED_AT_ONCE: Final = 128  # with all others: 60 MB of 100,000
LOWEST_PRIORITY: Final = 19
LOOK_EVERY_S: Final = 1.0  # for another collection, when all is made
CLOSED_WITHIN_S: Final = 2.0
TABLE = """
CREATE TABLE IF NOT EXISTS pictures (
    key BLOB PRIMARY KEY, webp BLOB NOT NULL, sha256 TEXT NOT NULL, hash INTEGER NOT NULL
)
"""


class Picture(NamedTuple):
    """A WebP file, the sha256 of the image that it was made of, and a hash by which near-duplicates are found."""

    webp: bytes
    sha256: str
    hash: int


class _Seen:
    """The images of a collection, and the hashes of those whose thumbnails have been made."""

    def __init__(self, collection: Collection) -> None:
        import numpy as np

        self.images = collection.images
        self.hashes = np.zeros(len(self.images), np.uint64)
        self.is_known = np.zeros(len(self.images), bool)


class Pictures:
    """Copies of a collection's images; for several threads.

    Raises:
        UnavailableError: the images' folder is not there.
    """

    def __init__(self, collection: Collection, home: Path, max_pixels: int) -> None:
        self._seen, self._max_pixels = _Seen(collection), max_pixels
        self._root = os.path.realpath(collection.root)
        with LocalFolder(Path(self._root)):  # it is there
            pass
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        self._maker = threading.Thread(target=self._make_all, name="thumbnails", daemon=True)
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = home / "thumbnails.db"
        os.close(private(path, os.O_CREAT | os.O_WRONLY))
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=OFF")  # it can all be made again
        self._database.execute(TABLE)

    def close(self) -> None:
        self._is_closed.set()
        if self._maker.is_alive():
            self._maker.join(CLOSED_WITHIN_S)  # a share may stand still
        with self._lock:
            self._database.close()

    def take(self, collection: Collection) -> None:
        """Go on with the images of another collection in the same folder: those of the run as it is now."""
        self._seen = _Seen(collection)

    def make_all(self) -> None:
        """Make the thumbnails of all images, in the background and until this is closed."""
        self._maker.start()

    def small(self, index: int) -> Picture:
        """Return the thumbnail of an image; ImageError says why there is none."""
        return self._small(self._seen, index)

    def _small(self, seen: _Seen, index: int) -> Picture:
        real, key = self._find(seen, index)
        with self._lock:
            row = self._database.execute("SELECT webp, sha256, hash FROM pictures WHERE key = ?", (key,)).fetchone()
        if row is None:
            data = self._read(real)
            webp = self._shrunk(data, SMALL_PX)
            row = (webp, sha256(data).hexdigest(), difference_hash(webp))
            with self._lock:
                self._database.execute("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?)", (key, *row))
                self._database.execute(
                    "DELETE FROM pictures WHERE rowid <= (SELECT max(rowid) FROM pictures) - ?", (MOST_KEPT,)
                )
        picture = Picture(row[0], row[1], row[2] % 2**64)
        seen.hashes[index], seen.is_known[index] = picture.hash, True
        return picture

    def large(self, index: int) -> bytes:
        """Return an image at up to 2048 pixels; ImageError says why there is none."""
        real, _ = self._find(self._seen, index)
        return self._shrunk(self._read(real), LARGE_PX)

    def digest(self, index: int) -> str:
        """Return the sha256 of an image as it is now, "" where it can't be read."""
        try:
            return self.small(index).sha256
        except ImageError:
            pass
        try:
            return sha256(self._read(self._find(self._seen, index)[0])).hexdigest()
        except ImageError:
            return ""

    def near(self, indexes: Iterable[int]) -> list[int]:
        """Return the images that look like one of these, of all whose thumbnails have been made."""
        import numpy as np

        seen, asked = self._seen, sorted(set(indexes))
        known = np.setdiff1d(np.flatnonzero(seen.is_known), asked)
        own = _signs(np.unique(seen.hashes[[index for index in asked if seen.is_known[index]]]))
        own = own[np.abs(own.sum(axis=1)) <= 64 - 2 * PLAIN_BITS]
        others = _signs(seen.hashes[known])
        is_near = np.zeros(len(known), bool)
        for start in range(0, len(own), COMPARED_AT_ONCE):  # the product is 64 less twice the bits that differ
            alike = own[start : start + COMPARED_AT_ONCE] @ others.T >= 64 - 2 * NEAR_BITS
            is_near |= alike.any(axis=0)
        found: list[int] = known[is_near].tolist()
        return found

    @property
    def compared(self) -> int:
        """How many images `near` looks among."""
        return int(self._seen.is_known.sum())

    def _make_all(self) -> None:
        with suppress(OSError):  # of this thread alone; whoever looks at the page comes first
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
        while not self._is_closed.is_set():
            seen = self._seen
            for index in range(min(len(seen.images), MOST_KEPT)):
                if self._is_closed.is_set() or seen is not self._seen:
                    break
                try:
                    self._small(seen, index)
                except ImageError:
                    pass  # whoever looks at it sees why
                except (sqlite3.Error, OSError, UnavailableError):  # the disk is full, the share is away
                    self._is_closed.wait(LOOK_EVERY_S)
            else:
                while seen is self._seen and not self._is_closed.wait(LOOK_EVERY_S):
                    pass

    def _find(self, seen: _Seen, index: int) -> tuple[str, bytes]:
        """Return where an image really lies, below the root, and the key of its thumbnail as it is now."""
        path = text_to_path(seen.images[index].key)
        if "\0" in path:
            raise ImageError("not_found", "no file name: it holds a NUL byte")
        real = os.path.realpath(path)
        if os.path.commonpath([self._root, real]) != self._root:
            raise ImageError("outside_data_root", f"it lies outside {self._root}, which alone is shown")
        try:
            status = os.stat(real)  # noqa: PTH116
        except OSError as error:
            raise ImageError("not_found", f"{real}: {error.strerror}") from error
        text = f"{real}\0{status.st_size}\0{status.st_mtime_ns}\0{SMALL_PX}"
        return real, sha256(text.encode("utf-8", "surrogateescape")).digest()

    def _read(self, real: str) -> bytes:
        # Once more below the root, without following a link that was put there meanwhile.
        try:
            with LocalFolder(Path(self._root)) as folder:  # each time: a share may go away and come back
                return folder.read(os.path.relpath(real, self._root), MOST_BYTES)
        except UnavailableError as error:
            raise ImageError("not_found", str(error)) from error

    def _shrunk(self, data: bytes, longest_px: int) -> bytes:
        try:
            webp = shrunk(data, self._max_pixels, longest_px=longest_px)
        except Exception as error:  # whatever a damaged file provokes in Pillow's plugins: struct, zlib
            raise ImageError("not_an_image", f"no picture can be made of it: {error}") from error
        if webp is None:
            raise ImageError("too_large", "it has too many pixels")
        return webp


def difference_hash(webp: bytes) -> int:
    """Return 64 bits, signed: whether each of 8 x 8 places of a picture is brighter than its right neighbour."""
    import io

    from PIL import Image

    with Image.open(io.BytesIO(webp), formats=["WEBP"]) as image:
        grey = list(image.convert("L").resize((9, 8), Image.Resampling.BOX).tobytes())
    bits = 0
    for row in range(8):
        for place in range(row * 9, row * 9 + 8):
            bits = bits << 1 | (grey[place] > grey[place + 1])
    return bits - 2**64 if bits >= 2**63 else bits


def _signs(hashes: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Return the bits of hashes (N,) as 1 and -1, (N, 64)."""
    import numpy as np

    bits = np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1)
    signs: NDArray[np.float32] = bits.astype(np.float32) * 2 - 1
    return signs
