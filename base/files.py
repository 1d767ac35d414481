"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, mark: object = None) -> Iterator[Path]:
    """Yield the name of a draft beside ``path`` to write; then rename it there. An error leaves what was there.

    A reader sees the old file, the new one or none, never half of one.

    Args:
        mark: stands in the draft's name, by default this process's number. Whoever alone may write ``path`` passes one
            of its own, so that the next one writes over what a killed one left.

    Raises:
        OSError: the folder can't be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid() if mark is None else mark}.new")
    draft.unlink(missing_ok=True)  # not written through: somebody may have put a link there
    try:
        yield draft  # with modes by umask, not tempfile's 0600: other users' workers read the model store
        with draft.open("rb") as file:
            os.fsync(file.fileno())  # the rename must not reach the disk before the bytes
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_file(path: Path, data: bytes, mark: object = None) -> None:
    """Write ``data`` as `replacing` does."""
    with replacing(path, mark) as draft:
        draft.write_bytes(data)
