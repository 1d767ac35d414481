"""The result stream of a run -> rows of its run file."""

from __future__ import annotations

import redis

from base.fault import fault
from jobs import ChunkResult, Keys, MessageError, SchemaMismatch, from_json
from producer.run.refusals import Refusals
from producer.run.window import Window
from producer.run.witness import Witness
from producer.runfile import RowsMisfit, RunFile

CHUNKS_AT_ONCE = 64


class Journal:
    """Moves answers from Redis into the run file, and out of the window.

    Attributes:
        catching_up: whether what comes may answer an earlier producer. A refusal among it may be of an earlier try, its
            cause mended since: it is passed over.
        newest_worker: who sent the newest rows.
    """

    def __init__(
        self, run: RunFile, client: redis.Redis, keys: Keys, window: Window, witness: Witness, refusals: Refusals
    ) -> None:
        self._run = run
        self._client = client
        self._stream = keys.results(run.plan.run)
        self._window = window
        self._witness = witness
        self._refusals = refusals
        self.catching_up = True
        self.newest_worker = ""

    def move(self, wait_s: float) -> int:
        """Move what is there, or comes within ``wait_s``: first into the file, then out of Redis; return the chunks."""
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
            if error.job == self._run.plan.run:
                self._refuse(error.worker, str(error))
            return
        except MessageError:
            return  # not from a worker; the chunk is sent again once it is stale
        if result.run != self._run.plan.run:
            return
        if result.refused is not None:
            self._refuse(result.worker, result.refused, may_pass=result.may_pass)
        elif self._window.is_answered_by(result):
            fault("before journal")
            unsure = self._witness.unsure(result)
            try:
                self._run.record(result, unsure)
            except RowsMisfit as error:
                self._refuse(result.worker, str(error))
                return
            fault("after journal")
            if len(unsure) < len(result.rows):
                self._refusals.forget(result.worker)
            self.newest_worker = result.worker
            self._window.remove(result)

    def _refuse(self, worker: str, why: str, *, may_pass: bool = False) -> None:
        if not self.catching_up:
            self._refusals.note(worker or "a worker", why, may_pass=may_pass)
