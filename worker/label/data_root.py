"""The images of a chunk: how to read the file at each path below the worker's data root, and no other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from base.errors import UnavailableError
from base.fault import fault
from base.paths import text_to_path
from storage.protocol import Folder
from vision.errors import ImageError
from vision.images.decode import naming_failures, read_regular
from vision.serving.classifier import Source
from worker.label.remote import remote_images

MOST_FOLDERS = 64  # open at once: a chunk may hold a thousand images of as many folders


@contextmanager
def opened_images(data_root: Path | Folder, paths: Sequence[str], max_bytes: int) -> Iterator[Sequence[Source]]:
    """Yield what reads the file at each of ``paths`` below ``data_root``; UnavailableError when that itself is away."""
    if not isinstance(data_root, Path):
        with remote_images(data_root, paths, max_bytes) as sources:
            yield sources
        return
    check_there(data_root)
    with OpenRoot(os.path.realpath(data_root)) as root:
        yield [partial(root.read, path, max_bytes) for path in paths]


def check_there(data_root: Path) -> None:
    """Raise UnavailableError when the data root is no folder."""
    if not data_root.is_dir():
        raise UnavailableError(f"the data root {data_root} is not there; is the share mounted?")


def check_full(data_root: Path) -> None:
    """Raise UnavailableError when the data root is empty."""
    with suppress(PermissionError), os.scandir(data_root) as entries:  # it may be passed through, and not listed
        if next(entries, None) is None:  # what an unmounted share leaves
            raise UnavailableError(f"the data root {data_root} is empty; is the share mounted?")


def check_missing(data_root: Path, paths: Sequence[str], max_bytes: int) -> None:
    """Raise UnavailableError when files that were missing are there after all: a share went away and came back.

    One alone may be in the middle of being replaced: that is its own row's error.
    """
    if len(set(paths)) < 2:
        return
    with opened_images(data_root, paths, max_bytes) as sources:
        for path, source in zip(paths, sources, strict=True):
            with suppress(ImageError):
                source()
                raise UnavailableError(f"{path} was not there and is there now: {data_root} was away for a moment")


class OpenRoot:
    """Reads files below ``root`` (already resolved), and keeps the folders open that it came through.

    To resolve a path and to open each of its folders is 3 % of all work on a small photo, and its neighbours lie in the
    same folder. Threads may share one; whoever reads after it was closed gets errors.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._folders: dict[str, int] = {}  # as in paths -> descriptor

    def __enter__(self) -> OpenRoot:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._folders.values():
            os.close(descriptor)
        self._folders.clear()

    def read(self, path_text: str, max_bytes: int) -> bytes:
        """Return the bytes of a file; ImageError says why it can't be had."""
        fault(f"read {path_text}")
        folder, _, last = text_to_path(path_text).rpartition("/")
        try:
            return read_regular(last, max_bytes, path_text, folder=self._opened(folder), flags=os.O_NOFOLLOW)
        except (ImageError, OSError, ValueError):  # maybe a link; if not, this says what is wrong
            return read_below(self._root, path_text, max_bytes)

    def _opened(self, folder: str) -> int:
        known = self._folders.get(folder)
        if known is not None:
            return known
        if len(self._folders) >= MOST_FOLDERS:
            raise OSError("enough folders are open")
        with _opened_folder(self._root, _parts_below(self._root, folder)) as descriptor:
            mine = os.dup(descriptor)
        kept = self._folders.setdefault(folder, mine)
        if kept != mine:  # another thread was faster
            os.close(mine)
        return kept


def read_below(root: str, path_text: str, max_bytes: int) -> bytes:
    """Return the bytes of a file below ``root`` (already resolved). ImageError says why it can't be had.

    Links are followed as long as they stay below ``root``.
    """
    *folders, last = _parts_below(root, text_to_path(path_text)) or (".",)
    path = os.path.join(root, *folders, last)  # noqa: PTH118
    with naming_failures(path), _opened_folder(root, folders) as folder:
        return read_regular(last, max_bytes, path, folder=folder, flags=os.O_NOFOLLOW)


def _parts_below(root: str, name: str) -> tuple[str, ...]:
    """Return the folders and the file, without a link among them, that lead from ``root`` to ``name``."""
    if "\0" in name:
        raise ImageError("not_found", f"{name} is no file name: it holds a NUL byte")
    path = os.path.realpath(os.path.join(root, name))  # noqa: PTH118 - absolute parts are refused below
    if os.path.commonpath([root, path]) != root:
        raise ImageError("outside_data_root", f"{name} is not below the worker's data root")
    return Path(os.path.relpath(path, root)).parts


@contextmanager
def _opened_folder(root: str, names: Sequence[str]) -> Iterator[int]:
    """Yield a descriptor of the folder ``names`` lead to, no link among them.

    The links are resolved already. Whoever puts one in since, to lead out of ``root``, makes this fail.
    """
    # O_PATH opens a folder that may be passed through and not listed; where it is unknown, such a folder is unreadable.
    flags = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
    folder = os.open(root, flags)
    try:
        for name in names:
            below = os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)
