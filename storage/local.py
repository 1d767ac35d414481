"""A folder of this machine, or a share that is mounted on it. Nothing outside it is read, whatever links lie in it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from base.errors import ImageError, UnavailableError
from base.files import naming_failures, read_regular

# O_PATH opens a folder that may be passed through and not listed; where it is unknown, such a folder is unreadable.
FOLDER = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
MOST_FOLDERS = 64  # open at once: a chunk may hold a thousand images of as many folders


class LocalFolder:
    """Reads files below ``root``, and keeps the folders open that it came through; a context manager closes them.

    All that it reads is below the folder that it found at ``root``, whatever comes to lie there later.
    To resolve a path and to open each of its folders is 3 % of all work on a small photo, and its neighbours lie in the
    same folder. Threads may share one; whoever reads after it was closed gets errors.

    Raises:
        UnavailableError: ``root`` is no folder.
    """

    def __init__(self, root: Path) -> None:
        check_there(root)
        self.root = root
        self._root = os.path.realpath(root)
        try:
            self._descriptor = os.open(self._root, FOLDER)
        except OSError as error:
            raise UnavailableError(f"the data root {root} can't be opened: {error.strerror}") from error
        self._folders: dict[str, int] = {}  # as in paths -> descriptor

    def __enter__(self) -> LocalFolder:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._folders.values():
            os.close(descriptor)
        self._folders.clear()
        os.close(self._descriptor)
        self._descriptor = -1

    def read(self, path: str, limit: int) -> bytes:
        """Return a file of 1 to ``limit`` bytes; ImageError says why it can't be had.

        Links are followed as long as they stay below the root.
        """
        folder, _, last = path.rpartition("/")
        try:
            return read_regular(last, limit, path, folder=self._opened(folder), flags=os.O_NOFOLLOW)
        except (ImageError, OSError, ValueError):  # maybe a link; if not, this says what is wrong
            return self._read_resolved(path, limit)

    def identity(self, path: str) -> tuple[int, int, int, int] | None:
        """Return what tells the file that is read at ``path`` from any other; None where there is none."""
        folder, _, last = path.rpartition("/")
        try:
            found = os.stat(last, dir_fd=self._opened(folder))
        except (ImageError, OSError, ValueError):
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def check(self) -> None:
        """Raise UnavailableError when the folder is gone, or empty as an unmounted share leaves it."""
        check_there(self.root)
        with suppress(PermissionError), os.scandir(self.root) as entries:  # it may be passed through, and not listed
            if next(entries, None) is None:
                raise UnavailableError(f"the data root {self.root} is empty; is the share mounted?")

    def _read_resolved(self, path: str, limit: int) -> bytes:
        *folders, last = self._parts(path) or (".",)
        whole = os.path.join(self._root, *folders, last)  # noqa: PTH118
        with naming_failures(whole), _opened_folder(self._descriptor, folders) as folder:
            return read_regular(last, limit, whole, folder=folder, flags=os.O_NOFOLLOW)

    def _parts(self, path: str) -> tuple[str, ...]:
        """Return the folders and the file, without a link among them, that lead from the root to ``path``."""
        if "\0" in path:
            raise ImageError("not_found", f"{path} is no file name: it holds a NUL byte")
        whole = os.path.realpath(os.path.join(self._root, path))  # noqa: PTH118 - absolute ones are refused below
        if os.path.commonpath([self._root, whole]) != self._root:
            raise ImageError("outside_data_root", f"{path} is not below the worker's data root")
        return Path(os.path.relpath(whole, self._root)).parts

    def _opened(self, folder: str) -> int:
        known = self._folders.get(folder)
        if known is not None:
            return known
        if len(self._folders) >= MOST_FOLDERS:
            raise OSError("enough folders are open")
        with _opened_folder(self._descriptor, self._parts(folder)) as descriptor:
            mine = os.dup(descriptor)
        kept = self._folders.setdefault(folder, mine)
        if kept != mine:  # another thread was faster
            os.close(mine)
        return kept


def check_there(root: Path) -> None:
    if not root.is_dir():
        raise UnavailableError(f"the data root {root} is not there; is the share mounted?")


@contextmanager
def _opened_folder(root: int, names: Sequence[str]) -> Iterator[int]:
    """Yield a descriptor of the folder ``names`` lead to from ``root`` on, no link among them.

    The links are resolved already. Whoever puts one in since, to lead out of ``root``, makes this fail.
    """
    folder = os.dup(root)
    try:
        for name in names:
            below = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)
