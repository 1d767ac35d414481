"""Whose chunks come first: the lists of the label queue, and the chunks of detached runs that wait beside it.

Workers take from the first list that has something, and now and then (`jobs.transport`) begin at a later one. Within a
list the oldest chunk is first, and every run has a window of a few.
Why: docs/explanation/decisions/0020-small-runs-go-first.md
"""

from __future__ import annotations

from collections.abc import Iterator

import redis
from redis.client import Pipeline

from base.names import Priority
from jobs.broker import LEVELS, Keys
from jobs.label import LabelChunk

SMALL_RUN, MEDIUM_RUN = 256, 4096  # images, at most
LOW = 3  # the last list
PARKED = "parked"  # header of a message that goes onto the list of its run, not onto the queue; holds the run's name
NEXT = "next"  # header of a message that goes before all others of its list
RELEASED_AT_ONCE = 2  # of each run that waits, by each worker that finds the queue empty


def level_of(priority: Priority, images: int) -> int:
    """Return the list for the chunks of a run of so many images."""
    if priority == "low":
        return LOW
    if priority == "high" or images <= SMALL_RUN:
        return 0
    return 1 if images <= MEDIUM_RUN else 2


class Waiting:
    """The chunks that wait: for each run a list of whole messages, and an index of the runs with their levels."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._lists = keys.queues(LabelChunk.queue)

    def release(self, run: str, level: float, count: int = 1) -> None:
        """Move the next chunks of a run to the queue. Each move is one step of Redis: none is lost or sent twice."""
        if level not in LEVELS:
            return  # no Sortline wrote that
        for _ in range(count):
            if not self._client.lmove(self._keys.waiting(run), self._lists[int(level)], "RIGHT", "LEFT"):
                self._client.zrem(self._keys.waiting_runs, run)
                return

    def release_if_idle(self) -> None:
        """Move chunks of every run that waits, if nothing is queued: workers are there for more than are in flight."""
        pipeline = self._client.pipeline(transaction=False)
        for name in self._lists:
            pipeline.llen(name)
        pipeline.zrange(self._keys.waiting_runs, 0, -1, withscores=True)
        *lengths, runs = pipeline.execute()
        if not any(lengths):
            for run, level in runs:
                self.release(str(run), level, RELEASED_AT_ONCE)

    def note(self, run: str, level: int) -> None:
        """Put a run back into the index, if chunks of it wait: whoever parked them may have died before it did."""
        if self._client.exists(self._keys.waiting(run)):
            self._client.zadd(self._keys.waiting_runs, {run: level})

    def forget(self, pipeline: Pipeline, run: str) -> None:
        """Remove the chunks of a run that is done or cancelled."""
        pipeline.delete(self._keys.waiting(run))
        pipeline.zrem(self._keys.waiting_runs, run)


def listed_messages(client: redis.Redis, name: str, at_once: int) -> Iterator[str]:
    """Yield the messages of a list, the newest first. Messages leave at its other end: none that stays is missed."""
    start = 0
    while page := client.lrange(name, start, start + at_once - 1):
        yield from page
        start += len(page)
