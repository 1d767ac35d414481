"""A folder behind a URL: listed and read below its root, with limits, and tried again.

Whoever opens one names its root; everything after that is a path below it, so no message of the queue can name a host.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from base.errors import ImageError

CONNECT_LIMIT_S = 5.0
SILENCE_LIMIT_S = 10.0  # between two parts of an answer
TRY_LIMIT_S = 60.0  # for one file; a drip that never pauses long enough to be silent ends here
LIST_LIMIT_S = 600.0
WAITS_S = (0.1, 0.4, 1.6, 6.4)  # between tries, each up to half as long again
GIVE_UP_S = 90.0  # no further try after this

Got = TypeVar("Got")


class StorageError(Exception):
    """Base of this package's errors."""


class TooManyBytes(ImageError):
    """There are more bytes than were allowed."""

    def __init__(self, detail: str) -> None:
        super().__init__("too_large", detail)


class TransientError(StorageError):
    """The network or the service failed; another try may help."""


class ExtraMissing(StorageError):
    """A package that reads such URLs is not installed."""


class Entry(NamedTuple):
    """What lies directly in a folder. The name is decoded, and holds no slash."""

    name: str
    is_folder: bool


class Folder(Protocol):
    """A folder behind a URL. Paths are below it, as ``os.fsdecode`` gives them; all calls are single tries."""

    @property
    def url(self) -> str:
        """The root, as ``base.urls.checked_url`` gives it."""

    @property
    def connections(self) -> int:
        """How many calls may be under way at once."""

    def list(self, path: str) -> list[Entry]:
        """Return what is in the folder at ``path``, in no order."""

    def read(self, path: str, limit: int) -> bytes:
        """Return a file of at most ``limit`` bytes. ImageError, TransientError, or UnavailableError when none can."""

    def check(self) -> None:
        """Raise UnavailableError when the folder itself can't be reached or used."""


def check_path(path: str) -> None:
    """Raise ImageError unless ``path`` stays below the root that it is joined to."""
    if "\0" in path:
        raise ImageError("not_found", f"{path} is no file name: it holds a NUL byte")
    if path.startswith("/") or not {".", ".."}.isdisjoint(path.split("/")):
        raise ImageError("outside_data_root", f"{path} is not below the worker's data root")


def with_retries(call: Callable[[], Got], pause: Callable[[float], object] = time.sleep) -> Got:
    """Return what ``call`` returns, tried again after a TransientError a few times, waiting longer each time."""
    started = time.monotonic()
    for wait_s in WAITS_S:
        try:
            return call()
        except TransientError:
            if time.monotonic() - started > GIVE_UP_S:
                raise
        pause(wait_s * random.uniform(1, 1.5))  # noqa: S311 - so that threads don't come back all at once
    return call()
