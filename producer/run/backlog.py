"""What Redis holds of the label queue, and whether it has room for more."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator

import redis

from jobs import FIRST, FULL_FROM, BrokerFull, Keys, LabelChunk, listed_messages

SENDS_A_CHECK = 32
MESSAGES_AT_ONCE = 500
LOOK_EVERY_S = 3.0
LOOK_AGAIN_S = 0.5  # where something is missing
LOOKS_SHARE = 0.03  # of the time, at most: a look reads the whole queue, and others' runs may be long


class Backlog:
    """The queued and the unacknowledged messages of all label jobs, those of ``run`` among them.

    Attributes:
        of_others: how many were not of this run when `chunks` looked last.
    """

    def __init__(self, client: redis.Redis, keys: Keys, run: str) -> None:
        self._client = client
        # In the order in which messages move: one on its way is seen twice, or in the later place, never missed.
        self._lists = [keys.waiting(run), *keys.queues(LabelChunk.queue)]
        self._unacked = keys.unacked
        self._run = run
        self._sends_until_check = 0
        self._look_from = 0.0  # monotonic seconds
        self._missing: set[int] = set()
        self.of_others = 0

    def is_idle(self) -> bool:
        """Whether nothing is queued or unacknowledged."""
        pipeline = self._client.pipeline()
        for name in self._lists:
            pipeline.llen(name)
        pipeline.hlen(self._unacked)
        return not any(pipeline.execute())

    def chunks(self) -> set[int]:
        """Return the chunks of the run that are queued or unacknowledged, by the index of their first image."""
        firsts = [self._first(message) for message in self._messages()]
        self.of_others = firsts.count(None)
        return {first for first in firsts if first is not None}

    def missing(self, chunks: Iterable[int]) -> set[int]:
        """Return those of ``chunks`` that are neither queued nor unacknowledged, as far as this look can tell.

        A message on its way from the queue to a worker is in neither for a moment: only what two looks miss is missing.
        """
        if self.is_idle():
            return set(chunks)
        started = time.monotonic()
        if started < self._look_from:
            return set()
        missing = set(chunks) - self.chunks()
        sure = missing & self._missing
        self._missing = missing - sure
        now = time.monotonic()
        pause_s = LOOK_AGAIN_S if self._missing else LOOK_EVERY_S
        self._look_from = now + max(pause_s, (now - started) / LOOKS_SHARE)
        return sure

    def check_room(self) -> None:
        """Raise BrokerFull when Redis is nearly full; call it before each message, it asks now and then.

        Workers need room as well, to hold what they take, to answer and to start: a Redis that one producer has filled
        to the brim serves nobody any more.
        """
        self._sends_until_check -= 1
        if self._sends_until_check > 0:
            return
        self._sends_until_check = SENDS_A_CHECK
        try:
            memory = self._client.info("memory")
        except redis.exceptions.NoPermissionError:
            return
        used, limit = int(memory.get("used_memory", 0)), int(memory.get("maxmemory", 0))
        if limit and used > limit * FULL_FROM:
            self._sends_until_check = 0
            raise BrokerFull(f"Redis takes no messages: {used} of its {limit} bytes (maxmemory) are used")

    def _messages(self) -> Iterator[str]:
        for name in self._lists:
            yield from listed_messages(self._client, name, MESSAGES_AT_ONCE)
        yield from self._client.hvals(self._unacked)

    def _first(self, message: str) -> int | None:
        """Return which chunk of this run a message is; None for any other."""
        if self._run not in message:
            return None
        try:
            entry = json.loads(message)
            headers = (entry[0] if isinstance(entry, list) else entry)["headers"]  # unacknowledged: with its queue
            first = headers[FIRST] if headers["root_id"] == self._run else None
        except (ValueError, TypeError, LookupError, RecursionError):
            return None
        return first if isinstance(first, int) else None
