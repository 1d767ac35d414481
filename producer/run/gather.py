"""Result stream -> run file: keep a window of chunks queued, journal what comes back, send again what was lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import redis

from base.errors import UnavailableError
from base.fault import fault
from jobs.board import JobBoard
from jobs.broker import AWAY, Keys
from jobs.errors import BrokerFull, MessageError, SchemaMismatch
from jobs.label import ChunkResult, LabelChunk
from jobs.messages import from_json
from producer.errors import PATIENCE_S, BrokerUnreachable, RunCancelled, RunRefused
from producer.run.chunk_size import ChunkSize
from producer.run.enqueue import ChunkSender
from producer.runfile import Progress, RunFile

READ_S = 0.25  # longest wait for rows before the screen and the lost chunks are looked at again
SURE_LOST_S = 3.0  # a chunk that Redis neither queues nor lends out is lost once it is this old
CANCEL_LOOK_S = 2.0
# A chunk that others' chunks keep waiting is sent again at last: nothing tells it from one that was lost.
STALE_BEHIND_OTHERS = 8
FULL_FROM = 0.75  # of Redis's maxmemory
SENDS_A_LOOK = 32


@dataclass(slots=True)
class _Sent:
    images: int
    at: float  # monotonic seconds
    order: int  # of sending: answers that overtake an older chunk hint that it was lost
    resends: int = 0


@dataclass(slots=True)
class Gatherer:
    """One producer's work on one run. ``watch`` is called at each look and may raise to end the run."""

    run: RunFile
    sender: ChunkSender
    client: redis.Redis
    keys: Keys
    window_chunks: int
    stale_s: float
    watch: Callable[[], None] = lambda: None
    _sent: dict[int, _Sent] = field(default_factory=dict)
    _size: ChunkSize = field(init=False)
    _order: int = 0
    _newest_answered: int = 0
    _newest_worker: str = ""
    _cancel_looked: float = 0.0
    _picked_up: bool = False
    _sends_until_look: int = 0
    _held: tuple[int, list[str]] | None = None  # a chunk that Redis would not take yet
    _refused_before: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._size = ChunkSize(self.run.plan.chunk_images)

    def gather(self) -> Generator[Progress, None, None]:
        """Label what has no row yet; yield progress several times a second until every input has one.

        Raises:
            RunRefused: a worker says that this run can never be done, and why.
            RunCancelled: somebody cancelled it.
            BrokerUnreachable: Redis was away for two minutes.
        """
        todo: Iterator[tuple[int, list[str]]] | None = None
        away_since, pause_s = 0.0, 0.1
        yield self._progress()
        while True:
            try:
                if not self._picked_up:
                    self._pick_up()
                    self._picked_up = True
                if todo is None:
                    queued = [(first, sent.images) for first, sent in self._sent.items()]
                    todo = self.run.missing_chunks(self._next_size, queued)
                full = self._fill_window(todo)
                if not self._sent and full is None:
                    if self.run.done == self.run.total:
                        break
                    todo = None  # copies of an image that failed are tried themselves
                    continue
                came = self._journal(READ_S)
                self._send_lost_again()
                self._look_for_cancel()
                if full is not None and not came:
                    raise full
                away_since, pause_s = 0.0, 0.1
                yield self._progress()
            except (*AWAY, UnavailableError) as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > PATIENCE_S:
                    raise BrokerUnreachable(f"Redis has been away for {PATIENCE_S:.0f} s: {error}") from error
                pause_s = min(pause_s * 2, 5.0)
                yield self._progress(f"Redis is away or full, trying again ({error})")
                time.sleep(pause_s)
            self.watch()
        with contextlib.suppress(*AWAY):  # every row is here; a Redis that is away must not spoil the end
            run = self.run.plan.run
            if self.run.total:  # first: a late copy must not begin anew what is deleted
                JobBoard(self.client, self.keys).end_work(run)
            self.client.delete(self.keys.results(run), self.keys.inputs(run), self.keys.attempts(run))
        yield self._progress()

    def _next_size(self) -> int:
        in_flight = sum(sent.images for sent in self._sent.values())
        return self._size.next(self.run.total - self.run.done - in_flight)

    def _pick_up(self) -> None:
        """Take in what came while no producer was there, and wait for what an earlier one left on the queue.

        A refusal among it may be of an earlier try, its cause mended since: that chunk is sent anew, to hear again.
        """
        while self._journal(0):
            pass
        if self._nothing_queued_or_lent():
            return
        for first, images in self.run.sent():
            if first not in self._refused_before:
                self._note(first, images)

    def _fill_window(self, todo: Iterator[tuple[int, list[str]]]) -> BrokerFull | None:
        """Send chunks until the window is full, or until Redis is: it makes room as rows are journalled."""
        try:
            window = self._size.window(self.window_chunks)
            while len(self._sent) < window and (chunk := self._held or next(todo, None)) is not None:
                self._held = chunk
                self._look_for_room()
                self._send(*chunk)
                self._held = None
        except BrokerFull as error:
            return error
        return None

    def _look_for_room(self) -> None:
        """Raise BrokerFull when Redis is nearly full.

        Workers need room as well, to hold what they take, to answer and to start: a Redis that one producer has filled
        to the brim serves nobody any more.
        """
        self._sends_until_look -= 1
        if self._sends_until_look > 0:
            return
        self._sends_until_look = SENDS_A_LOOK
        try:
            memory = self.client.info("memory")
        except redis.exceptions.NoPermissionError:
            return
        used, limit = int(memory.get("used_memory", 0)), int(memory.get("maxmemory", 0))
        if limit and used > limit * FULL_FROM:
            self._sends_until_look = 0
            raise BrokerFull(f"Redis takes no messages: {used} of its {limit} bytes (maxmemory) are used")

    def _send(self, first: int, paths: list[str]) -> None:
        fault("before send")
        self.sender.send(first, paths)
        fault("after send")
        self.run.note_sent(first, len(paths))
        fault("after note")
        self._note(first, len(paths))

    def _note(self, first: int, images: int) -> None:
        self._order += 1
        earlier = self._sent.get(first)
        self._sent[first] = _Sent(images, time.monotonic(), self._order, earlier.resends + 1 if earlier else 0)

    def _journal(self, wait_s: float) -> int:
        """Move rows from Redis into the run file, first the file, then the deletion; return how many chunks came."""
        stream = self.keys.results(self.run.plan.run)
        answers = self.client.xread({stream: "0"}, count=64, block=int(wait_s * 1000) or None)
        entries = [entry for _, found in answers or () for entry in found]
        try:
            for _, values in entries:
                self._record(values.get("json"))
        finally:  # what this run can't use would stop every later try as well
            if entries:
                self.client.xdel(stream, *(name for name, _ in entries))
                fault("after deletion")
        return len(entries)

    def _record(self, text: object) -> None:
        try:
            result = from_json(ChunkResult, text)
        except SchemaMismatch as error:
            if self._picked_up and error.job == self.run.plan.run:
                raise RunRefused(str(error)) from error
            self._refused_before.add(error.first)
            return
        except MessageError:
            return  # not from a worker; the chunk is sent again once it is stale
        if result.run != self.run.plan.run:
            return
        if result.refused is not None and not self._picked_up:
            self._refused_before.add(result.first)
            return
        if result.refused is not None:
            raise RunRefused(f"{result.worker or 'a worker'} refuses this run: {result.refused}", result.worker)
        sent = self._sent.get(result.first)
        if sent is not None and sent.images != len(result.rows):
            return
        fault("before journal")
        self.run.record(result)
        fault("after journal")
        self._newest_worker = result.worker
        self._size.note(result.worker, len(result.rows), result.seconds.get("chunk_s", 0.0))
        if sent is not None:
            self._newest_answered = max(self._newest_answered, sent.order)
            del self._sent[result.first]

    def _send_lost_again(self) -> None:
        """Send chunks again that no worker will answer.

        A broker can lose a message for good: its worker dies between taking it and noting that it did, or Redis loses
        its memory. A chunk sent twice costs time, never a row.
        """
        now = time.monotonic()
        old = [first for first, sent in self._sent.items() if now - sent.at > SURE_LOST_S * 2**sent.resends]
        if not old:
            return
        queue_empty = self.client.llen(self.keys.queue(LabelChunk.queue)) == 0
        nothing_lent = queue_empty and self._nothing_queued_or_lent()
        for first in old:
            sent = self._sent[first]
            waited_stales = (now - sent.at) / (self.stale_s * 2**sent.resends)
            overtaken = sent.order < self._newest_answered
            if nothing_lent or waited_stales > (1 if queue_empty or overtaken else STALE_BEHIND_OTHERS):
                self._send(first, self.run.paths(first, sent.images))

    def _nothing_queued_or_lent(self) -> bool:
        pipeline = self.client.pipeline()
        pipeline.llen(self.keys.queue(LabelChunk.queue))
        pipeline.hlen(self.keys.unacked)
        return not any(pipeline.execute())

    def _look_for_cancel(self) -> None:
        now = time.monotonic()
        if now - self._cancel_looked > CANCEL_LOOK_S:
            self._cancel_looked = now
            if JobBoard(self.client, self.keys).is_cancelled(self.run.plan.run):
                raise RunCancelled(
                    f"run {self.run.plan.run} was cancelled after {self.run.done} of {self.run.total} images"
                )

    def _progress(self, waiting: str = "") -> Progress:
        return Progress(self.run.done, self.run.failed, self.run.total, waiting, self._newest_worker)
