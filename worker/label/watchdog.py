"""End a worker that is stuck: native code that never returns can't be stopped in any other way.

Its supervisor starts it again, and its chunk goes to another worker once the lease has run out.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from base.process import STUCK

log = logging.getLogger("sortline.worker")

# Code that holds the interpreter's lock stops our thread as well. The C thread of faulthandler needs no lock, but its
# exit code is 1.
LOCK_HELD_AFTER_S = 5.0
STDERR = 2


@contextmanager
def watchdog(stuck_s: float, what: str) -> Iterator[None]:
    """Write all stacks to the log and end the process, with code 70, when the block takes longer than ``stuck_s``."""
    timer = threading.Timer(stuck_s, _end, (stuck_s, what))
    timer.name, timer.daemon = "watchdog", True
    timer.start()
    faulthandler.dump_traceback_later(stuck_s + LOCK_HELD_AFTER_S, exit=True, file=STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        timer.cancel()


def _end(stuck_s: float, what: str) -> None:
    log.critical("stuck for %g s in %s: all stacks follow, this worker ends with code %d", stuck_s, what, STUCK)
    faulthandler.dump_traceback(file=STDERR)
    os._exit(STUCK)
