"""How a worker's process ends, in codes for its supervisor and in words for people."""

from __future__ import annotations

import signal

STUCK = 70  # EX_SOFTWARE of sysexits.h: a worker ended itself because one chunk took too long


def how_it_ended(code: int) -> str:
    """Return the name of the signal that ended a process, or its exit code, from ``Popen.returncode``."""
    if code >= 0:
        return f"code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
