"""How this worker stands with each run: what it has proven itself for, and what it keeps away from for a while.

A worker that can't do a run's chunks fails faster than others do them. It would take most of them, if it did not keep
away: it puts each one that it meets back to the end of the queue, and waits a moment itself.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

FIRST_AWAY_S, LONGEST_AWAY_S = 1.0, 16.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 0.5  # after each message that goes back
RUNS_KNOWN = 64


@dataclass(slots=True)
class _Run:
    failures: int = 0
    until: float = 0.0  # monotonic seconds
    proven: object = None


class Standing:
    """What one worker process knows of the runs that it has met; the newest ``RUNS_KNOWN`` of them."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._put_back = 0

    def keeps_away(self, run: str) -> bool:
        """Whether this worker has failed at ``run`` just now, and should not try again yet."""
        return self._known(run).until > time.monotonic()

    def fail(self, run: str) -> float:
        """Keep away from ``run``, for longer each time; return for how many seconds."""
        known = self._known(run)
        away_s = min(FIRST_AWAY_S * 2.0**known.failures, LONGEST_AWAY_S)
        known.failures, known.until, known.proven = known.failures + 1, time.monotonic() + away_s, None
        return away_s

    def succeed(self, run: str, place: object) -> None:
        """Forget the failures at ``run``, whose images were read at ``place``."""
        known = self._known(run)
        known.failures, known.proven, self._put_back = 0, place, 0

    def is_proven(self, run: str, place: object) -> bool:
        """Whether the last chunk of ``run`` went well, at the same ``place``."""
        return self._known(run).proven == place

    def pause_s(self) -> float:
        """Return how long to wait after a message went back: longer while nothing else comes."""
        pause_s = min(FIRST_PAUSE_S * 2.0**self._put_back, LONGEST_PAUSE_S)
        self._put_back = min(self._put_back + 1, 10)
        return pause_s

    def _known(self, run: str) -> _Run:
        known = self._runs.setdefault(run, _Run())
        self._runs.move_to_end(run)
        while len(self._runs) > RUNS_KNOWN:
            self._runs.popitem(last=False)
        return known
