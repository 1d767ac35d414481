"""Folders of jobs on this host: what they leave is of use until the job has ended, wherever and however it did."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

from jobs import AWAY, KEPT_S, JobBoard


def checkpoints_of(home: Path, job: str) -> Path:
    """Folder of a job's checkpoints, which outlive a process that dies."""
    return home / "checkpoints" / job


def scratch_of(home: Path, job: str) -> Path:
    """Folder of what only one attempt at a job needs."""
    return home / "scratch" / job


def remove_leftovers(home: Path, board: JobBoard, job: str = "") -> None:
    """Remove what ``job`` left here, and what others did that have ended or that Redis has long forgotten."""
    for kind in (checkpoints_of, scratch_of):
        with suppress(FileNotFoundError, *AWAY):
            for folder in kind(home, "").iterdir():
                if folder.name == job or _has_ended(folder, board):
                    shutil.rmtree(folder, ignore_errors=True)


def _has_ended(folder: Path, board: JobBoard) -> bool:
    state = board.get(folder.name)
    if state is not None:
        return state.ended
    # The board may have lost a job that is at work, or queued: its worker or command brings it back.
    with suppress(OSError):
        return time.time() - folder.stat().st_mtime > KEPT_S
    return False
