"""Named steps at which a test ends or stops a process, to see that what lies on disk and in Redis is enough to go on.

``TEST_FAULT="after journal:3, read poison.jpg=segv"`` kills a process at its third arrival at one step, and ends it
with SIGSEGV at every arrival at the other. Only processes below pytest look at it.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable

MEMORY_BOMB_BYTES = 200_000_000


def fault(step: str) -> None:
    """Do what a test wants to happen at ``step``; otherwise nothing."""
    if _ARMED and (found := _ARMED.get(step)) is not None:
        arrival, action = found
        _arrivals[step] += 1
        if arrival in (0, _arrivals[step]):
            ACTIONS[action]()


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _memory() -> None:
    bomb = bytearray(MEMORY_BOMB_BYTES)
    bomb[:: os.sysconf("SC_PAGE_SIZE")] = b"x" * len(bomb[:: os.sysconf("SC_PAGE_SIZE")])
    _kill()  # as the kernel would


ACTIONS: dict[str, Callable[[], None]] = {
    "kill": _kill,
    "segv": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "hang": lambda: time.sleep(10**6),
    "memory": _memory,
    "nap": lambda: time.sleep(float(os.environ.get("TEST_NAP_S", "0.1"))),
}


def _parse(text: str) -> dict[str, tuple[int, str]]:
    """Return {step: (the arrival, or 0 for each; action)}."""
    armed = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        where, _, action = part.partition("=")
        step, _, arrival = where.partition(":")
        armed[step] = (int(arrival or 0), action or "kill")
    return armed


_ARMED = _parse(os.environ.get("TEST_FAULT", "")) if "PYTEST_CURRENT_TEST" in os.environ else {}
_arrivals: Counter[str] = Counter()
