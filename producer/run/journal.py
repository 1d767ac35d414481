"""The result stream of a run -> rows of its run file."""

from __future__ import annotations

import redis

from base.fault import fault
from jobs import ChunkResult, Keys, MessageError, SchemaMismatch, from_json
from producer.errors import RunRefused
from producer.run.window import Window
from producer.runfile import RunFile

CHUNKS_AT_ONCE = 64


class Journal:
    """Moves answers from Redis into the run file, and out of the window.

    Attributes:
        catching_up: whether what comes may answer an earlier producer. A refusal among it may be of an earlier try, its
            cause mended since: it ends nothing, and the chunk goes into ``refused_before``, to be sent anew.
        newest_worker: who sent the newest rows.
    """

    def __init__(self, run: RunFile, client: redis.Redis, keys: Keys, window: Window) -> None:
        self._run = run
        self._client = client
        self._stream = keys.results(run.plan.run)
        self._window = window
        self.catching_up = True
        self.refused_before: set[int] = set()
        self.newest_worker = ""

    def move(self, wait_s: float) -> int:
        """Move what is there, or comes within ``wait_s``: first into the file, then out of Redis; return the chunks.

        Raises:
            RunRefused: a worker says that this run can never be done, and why.
        """
        answers = self._client.xread({self._stream: "0"}, count=CHUNKS_AT_ONCE, block=int(wait_s * 1000) or None)
        entries = [entry for _, found in answers or () for entry in found]
        try:
            for _, values in entries:
                self._record(values.get("json"))
        finally:  # what this run can't use would stop every later try as well
            if entries:
                self._client.xdel(self._stream, *(name for name, _ in entries))
                fault("after deletion")
        return len(entries)

    def _record(self, text: object) -> None:
        try:
            result = from_json(ChunkResult, text)
        except SchemaMismatch as error:
            if error.job == self._run.plan.run or self.catching_up:
                self._refuse(error.first, RunRefused(str(error)), error)
            return
        except MessageError:
            return  # not from a worker; the chunk is sent again once it is stale
        if result.run != self._run.plan.run:
            return
        if result.refused is not None:
            reason = f"{result.worker or 'a worker'} refuses this run: {result.refused}"
            self._refuse(result.first, RunRefused(reason, result.worker))
        elif self._window.is_answered_by(result):
            fault("before journal")
            self._run.record(result)
            fault("after journal")
            self.newest_worker = result.worker
            self._window.remove(result)

    def _refuse(self, first: int, refusal: RunRefused, cause: Exception | None = None) -> None:
        if not self.catching_up:
            raise refusal from cause
        self.refused_before.add(first)
