"""The images of a chunk: how to read the file at each path below the worker's data root, and no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path

from base.errors import ImageError, UnavailableError
from base.fault import fault
from base.paths import text_to_path
from jobs import SampledInput
from storage import Folder, LocalFolder
from worker.label.remote import remote_images

Read = Callable[[], bytes]  # returns the bytes of a file, or raises ImageError


@contextmanager
def opened_root(data_root: Path | Folder) -> Iterator[LocalFolder | Folder]:
    """Yield the folder at ``data_root``, the same for all that is read inside; UnavailableError when it is away."""
    if not isinstance(data_root, Path):
        yield data_root
        return
    with LocalFolder(data_root) as folder:
        yield folder


@contextmanager
def opened_images(
    data_root: Path | LocalFolder | Folder, paths: Sequence[str], max_bytes: int
) -> Iterator[Sequence[Read]]:
    """Yield what reads the file at each of ``paths`` below ``data_root``; UnavailableError when that itself is away."""
    if isinstance(data_root, Path):
        with LocalFolder(data_root) as folder, opened_images(folder, paths, max_bytes) as sources:
            yield sources
    elif isinstance(data_root, LocalFolder):
        yield [partial(_read, data_root, path, max_bytes) for path in paths]
    else:
        with remote_images(data_root, paths, max_bytes) as sources:
            yield sources


def check_sample(data_root: LocalFolder | Folder, sample: Sequence[SampledInput]) -> None:
    """Raise UnavailableError unless at least half of ``sample`` is here as the command saw it: one may have changed."""
    if not sample:
        return
    with opened_images(data_root, [found.path for found in sample], max(found.size for found in sample)) as sources:
        same = [_has(source, found.sha256) for source, found in zip(sources, sample, strict=True)]
    if sum(same) * 2 < len(sample):
        other = sample[same.index(False)].path
        root = data_root.root if isinstance(data_root, LocalFolder) else data_root.url
        raise UnavailableError(
            f"{other} below {root} is not as the command sees it: is the share mounted, "
            "and is it the same folder as the command's?"
        )


def place_of(data_root: LocalFolder | Folder, sample: Sequence[SampledInput]) -> tuple[object, ...]:
    """Return what tells ``data_root`` from another folder of the same names, without reading ``sample`` again."""
    if not isinstance(data_root, LocalFolder):
        return ("the same as its URL",)
    return tuple(data_root.identity(text_to_path(found.path)) for found in sample)


def _has(source: Read, digest: str) -> bool:
    try:
        return sha256(source()).hexdigest() == digest
    except ImageError:
        return False


def check_local(data_root: Path, missing: Sequence[str], max_bytes: int) -> None:
    """Raise UnavailableError when files can't be had because the share went away: it is so still, or came back.

    Args:
        missing: what was not there. One file alone may be in the middle of being replaced: that is its own row's error.
    """
    with LocalFolder(data_root) as folder:
        folder.check()
        for path in missing if len(set(missing)) > 1 else ():
            with suppress(ImageError):
                _read(folder, path, max_bytes)
                raise UnavailableError(f"{path} was not there and is there now: {data_root} was away for a moment")


def _read(folder: LocalFolder, path: str, max_bytes: int) -> bytes:
    fault(f"read {path}")
    return folder.read(text_to_path(path), max_bytes)
