"""Files of the store: read in bounds, written so that they outlive a power cut, every failure of the disk one error."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from model_store.errors import ManifestError, ModelNotFound, StoreUnavailable
from model_store.manifest import FILE_NAME_PATTERN, SUFFIXES, FileEntry


@contextlib.contextmanager
def available(folder: Path) -> Iterator[None]:
    """Turn what the disk or share under ``folder`` answers into StoreUnavailable."""
    try:
        yield
    except OSError as error:
        is_refused = error.errno in (errno.EACCES, errno.EPERM)
        cure = f"let user {os.getuid()} read and write there" if is_refused else "check the disk or mount"
        raise StoreUnavailable(f"the model store fails at {folder}: {error}; {cure}") from error


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return a file's content, of which at most one byte more than ``max_bytes``.

    Raises:
        ModelNotFound: the file does not exist.
        StoreUnavailable: it can't be read.
    """
    with available(path):
        try:
            with path.open("rb") as file:
                return file.read(max_bytes + 1)
        except FileNotFoundError as error:
            raise ModelNotFound(f"{path} does not exist; restore it or publish the model again") from error


def write_sealed(path: Path, data: bytes) -> None:
    """Write a read-only file through to the disk, in place of one that may be there."""
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), os.fstat(file.fileno()).st_mode & 0o444)  # for whom the umask lets read
        os.fsync(file.fileno())


def seal(path: Path) -> FileEntry:
    """Make a staged file read-only, bring it to the disk, and return what the manifest says of it.

    Raises:
        ManifestError: it has a name that no version may hold, or is a folder or a link.
    """
    if not re.fullmatch(FILE_NAME_PATTERN, path.name) or path.name == "manifest.json":
        kinds = ", ".join(SUFFIXES)
        raise ManifestError(f"a version can't hold a file named {path.name!r}; plain names that end in {kinds} will do")
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ManifestError(f"{path.name} is no ordinary file; a version holds neither folders nor links")
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
            size += len(part)
        os.fchmod(file.fileno(), os.fstat(file.fileno()).st_mode & 0o444)  # for whom the umask lets read
        os.fsync(file.fileno())
    return FileEntry(sha256=digest.hexdigest(), bytes=size)


def sync_folder(folder: Path) -> None:
    """Bring a folder's own entries to the disk: a rename is not there before."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
