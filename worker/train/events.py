"""What a training job says to whoever follows it, in order. A Redis that is away is told when it is back."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from jobs import AWAY, JobEvent
from worker.runtime import Runtime

log = logging.getLogger("sortline.worker")

MOST_KEPT = 100_000  # of a training that goes on for a week without Redis
LONGEST_PAUSE_S = 5.0

Found = TypeVar("Found")


class Events:
    """The events of one job. Those that Redis can't take are kept: training needs no Redis."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._kept: deque[JobEvent] = deque(maxlen=MOST_KEPT)
        self._delivering = threading.Lock()
        self._is_away = False

    def send(self, event: JobEvent) -> bool:
        """Send an event, or keep it; return whether it was sent. Does not wait again for a Redis known to be away."""
        self._kept.append(event)
        return not self._is_away and self.deliver()

    def send_surely(self, event: JobEvent) -> None:
        """Send an event after all that was kept; wait for Redis as long as it takes."""
        self._kept.append(event)
        pause_s = 0.2
        while not self.deliver():
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def deliver(self) -> bool:
        """Send what was kept, if Redis is there; return whether nothing is left."""
        if not self._delivering.acquire(blocking=False):
            return False
        try:
            while self._kept:
                self._deliver(self._kept[0])
                self._kept.popleft()
            self._is_away = False
        except AWAY as error:
            log.warning("%d events wait for Redis: %s", len(self._kept), error)
            self._is_away = True
        finally:
            self._delivering.release()
        return not self._is_away

    def _deliver(self, event: JobEvent) -> None:
        board = self._runtime.board
        self._runtime.put(event.job, event)
        if event.state == "progress":
            board.update(event.job, state="running", text=event.text)
        else:
            board.update(event.job, state=event.state, text=event.text, model=str(event.model or ""))


def ask_redis(question: Callable[[], Found]) -> Found:
    """Return what ``question`` finds; wait for Redis as long as it takes."""
    pause_s = 0.2
    while True:
        try:
            return question()
        except AWAY as error:
            log.warning("waiting for Redis: %s", error)
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
