"""What a process does before it works for a worker: logging, and dying with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from configs.settings import Settings
from worker.logs import set_up_logging


def prepare_child(settings: Settings, parent_pid: int) -> None:
    """Set up a spawned pool child: without its parent nobody would take its result."""
    set_up_logging(settings)
    die_with(parent_pid)


def die_with(parent_pid: int) -> None:
    """Have Linux kill this process when its parent dies, kill -9 included."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent_pid:  # the parent died before the line above
            os._exit(1)
