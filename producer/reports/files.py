"""A report appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.fault import fault


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a file beside ``path`` to write; then rename it there. An error leaves what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        fault("report written")
        beside.replace(path)
        fault("report renamed")
    finally:
        beside.unlink(missing_ok=True)
