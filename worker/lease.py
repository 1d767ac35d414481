"""Keep a long job ours: renew its lease in Redis while its process lives.

kombu hands the message of a worker that has been silent for the visibility timeout to another one. A renewed lease lets
that timeout be short, so the work of a dead worker moves on quickly, and a long job is still never started twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import redis

from jobs.broker import Keys

log = logging.getLogger("sortline.lease")


class Lease:
    """Context manager: renews the lease of a message until left, or until ``beat`` says to stop."""

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        delivery_tag: str | None,
        *,
        visibility_timeout_s: float,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._keys = keys
        self._delivery_tag = delivery_tag
        self._period_s = min(visibility_timeout_s / 4, 2.0)
        self._beat = beat
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=self._period_s)

    def _renew(self) -> None:
        while not self._ended.wait(self._period_s):
            try:
                if self._delivery_tag:
                    # xx: never bring back a message that was acknowledged or given away meanwhile.
                    self._client.zadd(self._keys.unacked_index, {self._delivery_tag: time.time()}, xx=True)
                self._beat()
            except redis.RedisError as error:
                log.warning("lease not renewed: %s", error)
