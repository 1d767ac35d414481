"""A report appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from base.fault import fault


@contextmanager
def replacing(path: Path, run_file: Path) -> Iterator[Path]:
    """Give the name of a file beside ``path`` to write; then rename it there. An error leaves what was there.

    The name is the run file's alone, which one process at a time holds: what a killed one left is written over by the
    next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = sha256(f"{os.uname().nodename}:{run_file.absolute()}".encode("utf-8", "surrogateescape")).hexdigest()[:8]
    beside = path.with_name(f".{path.name}.{mark}.new")
    beside.unlink(missing_ok=True)  # not written through: somebody may have put a link there
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        fault("report written")
        beside.replace(path)
        fault("report renamed")
    finally:
        beside.unlink(missing_ok=True)
