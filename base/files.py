"""Files of this machine: read whole and within a limit, and written so that they appear whole or not at all."""

from __future__ import annotations

import fcntl
import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TextIO

from base.errors import ImageError


@contextmanager
def replacing(path: Path, mark: object = None) -> Iterator[Path]:
    """Yield the name of a draft beside ``path`` to write; then rename it there. An error leaves what was there.

    A reader sees the old file, the new one or none, never half of one.

    Args:
        mark: stands in the draft's name, by default one at random. Whoever alone may write ``path`` passes one
            of its own, so that the next one writes over what a killed one left.

    Raises:
        OSError: the folder can't be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4) if mark is None else mark}.new")
    draft.unlink(missing_ok=True)  # not written through: somebody may have put a link there
    try:
        yield draft  # with modes by umask, not tempfile's 0600: other users' workers read the model store
        with draft.open("rb") as file:
            os.fsync(file.fileno())  # the rename must not reach the disk before the bytes
        draft.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk names no file
        raise
    finally:
        draft.unlink(missing_ok=True)


def write_file(path: Path, data: bytes, mark: object = None) -> None:
    """Write ``data`` as `replacing` does."""
    with replacing(path, mark) as draft:
        draft.write_bytes(data)


@contextmanager
def locked(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold a lock between processes and threads; the kernel lets go of it when its holder dies.

    Args:
        path: a file of its own, made if need be, and never replaced or removed: such a lock holds nobody off.
        how: as of ``fcntl.flock``; with LOCK_NB, BlockingIOError when another holds it.
    """
    # Over NFS a shared lock needs a file that is open for reading, too. A group may share a store, strangers may not.
    with open(path, "a+b", opener=partial(os.open, mode=0o660)) as file:
        fcntl.flock(file, how)
        yield


def private(path: str | Path, flags: int) -> int:
    """Open a file that, if it is made, is its owner's alone: for ``open(path, mode, opener=private)``."""
    return os.open(path, flags, 0o600)


class HeldError(Exception):
    """Another process has the lock; the message names it."""


def hold(path: Path) -> TextIO:
    """Return an open, locked file, made if need be, that names this process; the lock goes with the process.

    It holds in all containers of a host, whatever numbers processes have there, and on a share whose locks work across
    hosts.

    Raises:
        HeldError: another process has it.
        OSError: the file can't be made, or takes no locks.
    """
    file = open(path, "a+", encoding="utf-8", errors="replace", opener=private)  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read(200).strip() or "another process"
        file.close()
        raise HeldError(holder) from error
    except OSError:
        file.close()
        raise
    with suppress(OSError):  # a full disk keeps its name from the others, not the lock from us
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
    return file


def read_file(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a regular file of 1 to ``max_bytes`` bytes; the size is checked before reading.

    Raises:
        ImageError: not_found, not_a_file, too_large, empty, changed (while it was read), or unreadable (permissions,
            input and output).
    """
    with naming_failures(str(path)):
        return read_regular(str(path), max_bytes, str(path))


def read_regular(path: str, max_bytes: int, what: str, *, folder: int | None = None, flags: int = 0) -> bytes:
    """Return what `read_file` does, of a ``path`` from the open ``folder`` on; OSError is left to `naming_failures`."""
    # Not opened at all where it is no file: opening a pipe wakes its writer, opening a device may do anything.
    status = os.stat(path, dir_fd=folder, follow_symlinks=not flags & os.O_NOFOLLOW)
    if stat.S_ISDIR(status.st_mode) and not os.access(path, os.R_OK | os.X_OK, dir_fd=folder):
        raise ImageError("unreadable", f"{what} is a folder that may not be entered, so nobody knows what it holds")
    _check_regular(status, what)
    # Without O_NONBLOCK, a pipe put there since would have us wait for a writer who may never come.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags, dir_fd=folder)
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123  (a descriptor, not a path)
        before = os.fstat(descriptor)
        _check_regular(before, what)
        check_size(before.st_size, max_bytes, what)
        data = _read_up_to(file, max_bytes + 1, before.st_size)
        after = os.fstat(descriptor)
    check_size(len(data), max_bytes, what)
    if (len(data), before.st_mtime_ns) != (before.st_size, after.st_mtime_ns):
        raise ImageError("changed", f"{what} changed while it was read; label it again once it is complete")
    return data


@contextmanager
def naming_failures(what: str) -> Iterator[None]:
    """Turn the system's errors inside the block into an ImageError about ``what``."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError("not_found", f"{what} does not exist") from error
    except IsADirectoryError as error:
        raise ImageError("not_a_file", f"{what} is a folder") from error
    except ValueError as error:  # a NUL byte in the path
        raise ImageError("not_found", f"{what!r} is no file name") from error
    except OSError as error:
        raise ImageError("unreadable", f"{what}: {error.strerror or error}") from error


def check_size(size: int, max_bytes: int, what: str) -> None:
    """Raise ImageError unless ``what`` has from 1 to ``max_bytes`` bytes."""
    if size == 0:
        raise ImageError("empty", f"{what} has no content")
    if size > max_bytes:
        raise ImageError("too_large", f"{what} has {size:,} bytes, the limit is {max_bytes:,}")


def _check_regular(status: os.stat_result, what: str) -> None:
    if stat.S_ISLNK(status.st_mode):  # where links are not followed
        raise ImageError("unreadable", f"{what} is a link that leads round in a circle, or was put there just now")
    if not stat.S_ISREG(status.st_mode):
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "pipe, socket or device"
        raise ImageError("not_a_file", f"{what} is a {kind}")


def _read_up_to(file: io.FileIO, limit: int, expected: int) -> bytes:
    """Return the rest of the file, of which at most about ``limit`` bytes: a growing file must not fill the memory."""
    parts: list[bytes] = []
    left, step = limit, min(limit, expected + 1)
    while left > 0 and (part := file.read(min(left, step))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
