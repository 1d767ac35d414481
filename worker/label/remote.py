"""The images of one chunk from behind a URL, fetched ahead of decoding by threads.

What waits in memory is bounded: no more images than connections, each of at most ``AHEAD_BYTES``. A larger one is read
when its turn comes, by the thread that decodes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from base.errors import ImageError, UnavailableError
from base.fault import fault
from base.paths import text_to_path
from storage import Folder, TooManyBytes, TransientError, with_retries

AHEAD_BYTES = 8 * 1024 * 1024  # photos of 12 megapixels have 3 to 6


@contextmanager
def remote_images(folder: Folder, paths: Sequence[str], max_bytes: int) -> Iterator[Sequence[Callable[[], bytes]]]:
    """Yield what gives the bytes of each of ``paths``, to be called once each and about in order.

    Raises:
        UnavailableError: at the end, when the folder itself could not be reached or used; no image is at fault then.
    """
    ahead = _ReadAhead(folder, paths, max_bytes)
    try:
        yield [partial(ahead.take, place) for place in range(len(paths))]
    finally:
        ahead.close()
    if ahead.away is not None:
        raise ahead.away


class _ReadAhead:
    def __init__(self, folder: Folder, paths: Sequence[str], max_bytes: int) -> None:
        self._folder = folder
        self._paths = paths
        self._max_bytes = max_bytes
        self._pool = ThreadPoolExecutor(min(folder.connections, len(paths)), thread_name_prefix="fetch")
        self._fetches: dict[int, Future[bytes | None]] = {}
        self._begun = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.away: UnavailableError | None = None

    def take(self, place: int) -> bytes:
        """Return the bytes of an image, once it is there; ImageError says why it can't be had."""
        fault(f"read {self._paths[place]}")
        with self._lock:
            # The image asked for, and after it as many as there are connections.
            while self._begun < min(place + 1 + self._folder.connections, len(self._paths)):
                limit = min(AHEAD_BYTES, self._max_bytes)
                self._fetches[self._begun] = self._pool.submit(self._fetch, self._begun, limit)
                self._begun += 1
            fetch = self._fetches.pop(place)
        data = fetch.result()
        return data if data is not None else self._fetch(place, self._max_bytes) or b""

    def close(self) -> None:
        """Let nothing begin any more. Does not wait for what is under way."""
        self._ended.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, place: int, limit: int) -> bytes | None:
        """Return the bytes of an image, or None when it has more than ``limit`` and may have."""
        path = text_to_path(self._paths[place])
        try:
            if self.away is not None:
                raise self.away
            data = with_retries(partial(self._folder.read, path, limit), self._pause)
        except TooManyBytes:
            if limit < self._max_bytes:
                return None
            raise
        except UnavailableError as error:
            raise self._gone(error) from error
        except TransientError as error:
            try:
                self._folder.check()
            except UnavailableError as away:
                raise self._gone(away) from error
            raise ImageError("unreachable", f"the last of several tries: {error}") from error
        if not data:
            raise ImageError("empty", f"{self._folder.url}/{path} has no content")
        return data

    def _pause(self, seconds: float) -> None:
        if self._ended.wait(seconds):
            raise ImageError("unreachable", "the chunk has ended")

    def _gone(self, why: UnavailableError) -> ImageError:
        # Not raised as it is: the classifier makes a row of whatever it is that one image provokes.
        self.away = self.away or why
        return ImageError("unreachable", str(why))
