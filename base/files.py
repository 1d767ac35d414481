"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_file(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path`` and rename: a reader sees the old file, the new one or none, never half of one.

    Raises:
        OSError: the folder can't be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as file:  # by umask, not tempfile's 0600: other users' workers read the model store
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # the rename must not reach the disk before the bytes
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
