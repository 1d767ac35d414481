"""A report appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from base import files
from base.fault import fault


@contextmanager
def replacing(path: Path, run_file: Path) -> Iterator[Path]:
    """Yield what `base.files.replacing` does; the draft is the run file's, which one process at a time holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = sha256(f"{os.uname().nodename}:{run_file.absolute()}".encode("utf-8", "surrogateescape")).hexdigest()[:8]
    with files.replacing(path, mark) as draft:
        yield draft
        fault("report written")
    fault("report renamed")
