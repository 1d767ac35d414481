"""What a process does before it works for a worker: logging, and dying with its parent."""

from __future__ import annotations

from base.process import die_with
from configs import Settings
from worker.logs import set_up_logging


def prepare_child(settings: Settings, parent_pid: int) -> None:
    """Set up a spawned pool child: without its parent nobody would take its result."""
    set_up_logging(settings)
    die_with(parent_pid)
