"""What Redis holds of the label queue, and whether it has room for more."""

from __future__ import annotations

import redis

from jobs import BrokerFull, Keys, LabelChunk

FULL_FROM = 0.75  # of Redis's maxmemory
SENDS_A_CHECK = 32


class Backlog:
    """The queued and the unacknowledged messages of all label jobs."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._queue = keys.queue(LabelChunk.queue)
        self._unacked = keys.unacked
        self._sends_until_check = 0

    def is_queue_empty(self) -> bool:
        """Whether nothing is queued."""
        return not self._client.llen(self._queue)

    def is_idle(self) -> bool:
        """Whether nothing is queued or unacknowledged."""
        pipeline = self._client.pipeline()
        pipeline.llen(self._queue)
        pipeline.hlen(self._unacked)
        return not any(pipeline.execute())

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
