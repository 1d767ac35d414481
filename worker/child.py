"""What a process does before it works for a worker: logging, and dying with its parent."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys

from configs.settings import Settings

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def set_up_logging(settings: Settings) -> None:
    """Write one line an event to stderr."""
    logging.basicConfig(level=settings.log_level.upper(), format=FORMAT, stream=sys.stderr, force=True)
    # Celery repeats every result at level info, and kombu every reconnect attempt.
    logging.getLogger("celery.app.trace").setLevel(logging.WARNING)
    logging.getLogger("amqp").setLevel(logging.WARNING)


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
