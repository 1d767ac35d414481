"""Keep a long job ours: renew its lease in Redis while its process lives.

kombu hands the message of a worker that has been silent for the visibility timeout to another one. A renewed lease lets
that timeout be short, so the work of a dead worker moves on quickly, and a long job is still never started twice.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import redis

from jobs import Keys, redis_now

log = logging.getLogger("sortline.lease")


def beat_s(visibility_timeout_s: float) -> float:
    """Return how often a lease is renewed."""
    return min(visibility_timeout_s / 4, 2.0)


class Lease:
    """Renews the lease of a message, and calls ``beat`` each time: inside its block, or until ``ended`` says so."""

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        delivery_tag: str | None,
        *,
        visibility_timeout_s: float,
        beat: Callable[[], None] = lambda: None,
        ended: Callable[[], bool] = lambda: False,
    ) -> None:
        self._client = client
        self._keys = keys
        self._delivery_tag = delivery_tag
        self._period_s = beat_s(visibility_timeout_s)
        self._beat = beat
        self._has_ended = ended
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def start(self) -> None:
        """Renew from now on, in a thread of its own."""
        self._thread.start()

    def __enter__(self) -> Lease:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join(timeout=self._period_s)

    def _renew(self) -> None:
        while not self._left.wait(self._period_s) and not self._has_ended():
            try:
                if self._delivery_tag:
                    # xx: never bring back a message that was acknowledged or given away meanwhile.
                    self._client.zadd(self._keys.unacked_index, {self._delivery_tag: redis_now(self._client)}, xx=True)
                self._beat()
            except redis.RedisError as error:
                log.warning("lease not renewed: %s", error)
