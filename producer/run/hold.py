"""The right to gather one run, among all hosts: in Redis, renewed as long as its producer lives.

The lock of a run file keeps off those who use the same file. Another host has a run file of its own, and two producers
would take each other's rows off the stream.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from hashlib import sha256

import redis
from redis.client import Pipeline

from base.text import printable
from jobs import Keys
from producer.errors import RunHeld
from producer.runfile import RunFile

HOLD_S = 12  # without a sign of life, after which another producer may go on
RENEW_S = 2.0


class Hold:
    """One producer's hold on a run."""

    def __init__(self, client: redis.Redis, keys: Keys, run: RunFile) -> None:
        self._client = client
        self._key = keys.holder(run.plan.run)
        self._run = run.plan.run
        folder = run.path.parent.stat()
        place = f"{os.uname().nodename}\0{run.path.resolve()}\0{folder.st_dev}\0{folder.st_ino}"
        # Of the run file, whose lock we have: the same command takes over at once from one that was killed.
        self._owner = sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._beats = 0
        self._renewed = float("-inf")
        self._seen: str | None = None  # what another holder had written when we first looked
        self.name = f"process {os.getpid()} on {os.uname().nodename}"  # what others read

    def take(self) -> bool:
        """Take or renew the hold; return whether we have it. False: another's, which may be dead, has not expired.

        Raises:
            RunHeld: another producer is at this run, and lives.
            redis.ConnectionError: Redis went away in the midst of it.
        """
        now = time.monotonic()
        if now - self._renewed < RENEW_S:
            return True
        with self._client.pipeline() as pipeline:
            try:
                pipeline.watch(self._key)
                held = str(pipeline.get(self._key) or "")
                owner, _, rest = held.partition(" ")
                if held and owner != self._owner:
                    self._look_at(held, rest.partition(" ")[2])
                    return False
                self._beats += 1
                pipeline.multi()
                pipeline.set(self._key, f"{self._owner} {self._beats} {self.name}", px=int(HOLD_S * 1000))
                pipeline.execute()
            except redis.WatchError as error:
                if isinstance(broke := error.__context__, redis.RedisError):  # redis-py hides it behind its own
                    raise broke from None
                return False
        self._renewed, self._seen = now, None
        return True

    def release(self, last: Callable[[Pipeline], object] = lambda _: None) -> None:
        """Let others have the run at once, after the commands of ``last``; do nothing if it is another's by now."""
        with self._client.pipeline() as pipeline:
            pipeline.watch(self._key)
            if not str(pipeline.get(self._key) or "").startswith(f"{self._owner} "):
                return
            pipeline.multi()
            last(pipeline)
            pipeline.delete(self._key)
            pipeline.execute()

    def _look_at(self, held: str, name: str) -> None:
        if self._seen is not None and held != self._seen:
            raise RunHeld(f"run {self._run} is in use by {printable(name):.200}; wait for it or stop it")
        self._seen = held
