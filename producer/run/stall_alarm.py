"""Says, to whoever waits for a run, why no row comes while chunks are queued."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import redis

from base.text import duration
from jobs import AWAY, LabelChunk, look_at_label_queue, reasons
from producer.local.session import Session

STILL_S = 180.0  # without a row of any run
LOOK_S = 30.0  # between two looks


class StallAlarm:
    """Looks at the queue while one run gets no rows."""

    def __init__(self, session: Session, warn: Callable[[str], None]) -> None:
        self._session = session
        self._warn = warn
        self._done = -1
        self._look_from = 0.0  # monotonic seconds
        self._said: list[str] = []

    def check(self, done: int) -> None:
        """Call as often as you like, with the number of rows; a cause is said once."""
        now = time.monotonic()
        if done != self._done:
            self._done, self._look_from, self._said = done, now + STILL_S, []
        if now < self._look_from:
            return
        self._look_from = now + LOOK_S
        with suppress(*AWAY, redis.ResponseError):  # that Redis is away is said elsewhere
            found = look_at_label_queue(self._session.client, self._session.keys)
            if found.still_s < STILL_S:  # workers are at other runs
                return
            why = reasons(found, self._session.workers(LabelChunk.queue))
            if why != self._said:
                self._warn(f"warning: no image got its row for {duration(round(found.still_s))}: {'; '.join(why)}")
                self._said = why
