"""What commands that were killed left below a home: the folders of their stacks, with sockets, and old logs."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from base.files import HeldError, hold

LOCK = "lock"
SOCKET_NOTE = "socket"  # file that says where the socket is; a long SORTLINE_HOME can't hold it itself
SHARED = "up"
ELSEWHERE_KEPT_S = 30 * 24 * 3600.0  # locks of some shares don't reach other hosts
LOGS_KEPT_S = 7 * 24 * 3600.0


def remove_leftovers(home: Path) -> None:
    """Remove the folders of stacks whose command is gone, and logs of stacks that are gone for a week."""
    for folder in leftover_stacks(home):
        with suppress(OSError, HeldError), hold(folder / LOCK):
            remove_socket(folder)
            shutil.rmtree(folder)
    for log in leftover_logs(home, LOGS_KEPT_S):
        with suppress(OSError):
            log.unlink()


def leftover_stacks(home: Path) -> Iterator[Path]:
    """Yield the folders of stacks whose command is gone."""
    now = time.time()
    for folder in _listed(home / "run"):
        with suppress(OSError, HeldError):
            is_old = now - folder.stat().st_mtime > ELSEWHERE_KEPT_S
            # Not one that is not locked yet: it names no host.
            if folder.name != SHARED and (is_old or _is_of_this_host(folder)):
                hold(folder / LOCK).close()
                yield folder


def leftover_logs(home: Path, older_s: float) -> Iterator[Path]:
    """Yield the logs of stacks that are gone, of which nothing was written for ``older_s`` seconds."""
    alive = tuple(f"{folder.name}-" for folder in _listed(home / "run"))
    for log in _listed(home / "logs"):
        with suppress(OSError):
            if not log.name.startswith(alive) and time.time() - log.stat().st_mtime > older_s:
                yield log


def _is_of_this_host(folder: Path) -> bool:
    with suppress(OSError):
        return (folder / LOCK).read_text(encoding="utf-8", errors="replace").endswith(f" on {os.uname().nodename}")
    return False


def remove_socket(folder: Path) -> None:
    """Remove the socket that has a short path elsewhere, with its folder, which holds nothing else."""
    with suppress(OSError):
        socket = Path(os.fsdecode((folder / SOCKET_NOTE).read_bytes()))
        if socket.is_socket() and socket.parent != folder:
            socket.unlink()
            socket.parent.rmdir()


def _listed(folder: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        yield from sorted(folder.iterdir())
