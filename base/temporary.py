"""A temporary folder of one process, which is known to be abandoned once that process is gone.

Python and its libraries leave folders behind when a process is killed (multiprocessing's are called ``pymp-*``), and
nothing says whose they are. Inside a folder of ours that holds a lock, they go with it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TextIO

from base.files import HeldError, hold

PREFIX = "sortline-tmp-"
LOCK = "lock"
UNLOCKED_KEPT_S = 24 * 3600.0  # of one that has no lock: its process is about to make it, or died before
LONGEST = 60  # bytes of its name: sockets below it have names of 40 more, and 104 may be all


@contextmanager
def own_temporary_folder() -> Iterator[None]:
    """Let this process, and those that it starts, make their temporary files below a folder that goes with the process.

    Where its name would be too long for sockets below it, nothing is changed.
    """
    if len(os.fsencode(tempfile.gettempdir())) + len(PREFIX) + 9 > LONGEST:
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    before, lock = os.environ.get("TMPDIR"), hold(folder / LOCK)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = None
        del os.environ["TMPDIR"]
        if before is not None:
            os.environ["TMPDIR"] = before
        # After multiprocessing has removed what is its own, with -100: it does not expect that to be gone.
        Finalize(None, _remove, args=(folder, lock), exitpriority=-200)


def _remove(folder: Path, lock: TextIO) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()


def abandoned_folders() -> list[Path]:
    """Return the folders that processes of this user have left."""
    return [folder for folder in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")) if _is_abandoned(folder)]


def _is_abandoned(folder: Path) -> bool:
    with suppress(OSError, HeldError):
        status = folder.lstat()
        if status.st_uid != os.getuid() or folder.is_symlink():
            return False
        if not (folder / LOCK).exists():
            return time.time() - status.st_mtime > UNLOCKED_KEPT_S
        hold(folder / LOCK).close()
        return True
    return False
