"""Bring a run to its end: keep a window of chunks in flight, journal what comes back, send again what was lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial

import redis
from redis.client import Pipeline

from base.errors import UnavailableError
from base.fault import fault
from jobs import AWAY, BrokerFull, LabelChunk, Waiting
from producer.errors import RunCancelled, RunHeld
from producer.local.session import Outage, Session
from producer.run.backlog import Backlog
from producer.run.chunk_size import MOST_FIXED
from producer.run.enqueue import ChunkSender
from producer.run.hold import HOLD_S, Hold
from producer.run.journal import Journal
from producer.run.refusals import Refusals
from producer.run.window import Window
from producer.run.witness import SourceAway, Witness
from producer.runfile import Progress, RunFile

READ_S = 0.25  # longest wait for rows before the screen and the lost chunks are looked at again
CANCEL_CHECK_S = 2.0
SOURCE_LIMIT_S = 120.0  # of waiting for a SOURCE that is away
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0  # between two tries while Redis is away

Chunks = Iterator[tuple[int, list[str]]]  # index of the first image, paths


def check_cancel(session: Session, run: RunFile) -> None:
    """Raise RunCancelled when somebody has cancelled ``run``."""
    if session.board.is_cancelled(run.plan.run):
        raise RunCancelled(f"run {run.plan.run} was cancelled after {run.done} of {run.total} images")


class Gatherer:
    """One producer's work on one run."""

    def __init__(self, session: Session, run: RunFile, sender: ChunkSender, warn: Callable[[str], None]) -> None:
        settings, client, keys = session.settings, session.client, session.keys
        self._session = session
        self._run = run
        self._sender = sender
        self._window = Window(run.plan.chunk_images, settings.window_chunks)
        self._waiting = Waiting(client, keys)
        self._backlog = Backlog(client, keys, run.plan.run)
        self._refusals = Refusals(partial(session.workers, LabelChunk.queue), warn)
        self._witness = Witness(run, self._refusals)
        self._journal = Journal(run, client, keys, self._window, self._witness, self._refusals)
        self._todo: Chunks | None = None
        self._held: tuple[int, list[str]] | None = None  # a chunk that Redis would not take yet
        self._cancel_checked = 0.0
        self._hold = Hold(client, keys, run)
        self._behind = ""  # what else keeps the workers busy, for the screen

    def gather(self) -> Generator[Progress, None, None]:
        """Label what has no row yet; yield progress several times a second until every input has one.

        Raises:
            RunRefused: no worker that is there can do this run.
            SourceAway: its images were away for two minutes.
            RunCancelled: somebody cancelled it.
            RunHeld: another producer is at it.
            BrokerUnreachable: Redis was away for two minutes.
        """
        outage, pause_s = Outage(), FIRST_PAUSE_S
        is_done = self._run.done == self._run.total
        yield self._progress()
        try:
            while not is_done:
                try:
                    is_done = self._step()
                    outage.end()
                    pause_s = FIRST_PAUSE_S
                    if not is_done:
                        yield self._progress(self._behind)
                except (*AWAY, UnavailableError) as error:
                    outage.go_on(error)
                    pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                    yield self._progress(f"Redis is away or full, trying again ({error})")
                    time.sleep(pause_s)
                except SourceAway as error:
                    if self._witness.away_s > SOURCE_LIMIT_S:
                        raise
                    self._refusals.forget()  # workers can't be blamed, and may keep away for a while yet
                    yield self._progress(f"waiting: {error}")
                if not is_done:
                    self._session.watch()
        finally:
            if is_done or not outage.is_on:  # leaving must not wait for a Redis that is away
                self._leave(is_done)
        yield self._progress()

    def _step(self) -> bool:
        """Send what fits, take in what comes; return whether every input has its row."""
        if not self._hold.take():
            self._behind = f"another producer was at this run; waiting {HOLD_S} s at most for a sign of it"
            time.sleep(READ_S)
            return False
        self._check_cancel()
        if self._journal.catching_up:
            self._catch_up()
        if self._todo is None:
            self._todo = self._run.missing_chunks(self._next_size, self._window.chunks())
        full = self._fill_window(self._todo)
        if self._window.is_empty and full is None:
            # Duplicates of an image that failed are tried themselves, and what was not sure is tried again.
            self._todo = None
            if self._run.done < self._run.total:
                time.sleep(self._witness.pause_s())
                return False
            return True
        came = self._journal.move(READ_S)
        lost = self._window.lost(self._backlog)
        for first, images in lost[:MOST_FIXED]:
            self._send(first, self._run.paths(first, images))
        for first, _ in lost[MOST_FIXED:]:  # of a detached run all of its chunks may be: sent as the window has room
            self._window.forget(first)
            self._todo = None
        if came:
            self._backlog.of_others = 0  # when it looked last; it looks when nothing comes
        others = self._backlog.of_others
        self._behind = f"{others} chunks of other runs are queued or at work too" if others else ""
        if full is not None and not came:
            raise full
        self._witness.sample()
        self._refusals.check(self._witness.look)
        return False

    def _next_size(self) -> int:
        return self._window.next_size(self._run.total - self._run.done)

    def _catch_up(self) -> None:
        """Take in what came while no producer was there, and wait for what an earlier one left on the queue."""
        self._waiting.note(self._run.plan.run, self._sender.level)
        left = self._backlog.chunks()  # first: what is answered from now on is on the stream
        while self._journal.move(0):
            pass
        for first, images in self._run.sent():
            if first in left:
                self._window.add(first, images)
        self._journal.catching_up = False

    def _fill_window(self, todo: Chunks) -> BrokerFull | SourceAway | None:
        """Send chunks until the window is full, or until Redis is: it makes room as rows are journalled."""
        try:
            while not self._window.is_full and (chunk := self._held or next(todo, None)) is not None:
                self._held = chunk
                self._backlog.check_room()
                self._send(*chunk)
                self._held = None
        except (BrokerFull, SourceAway) as error:
            return error
        return None

    def _send(self, first: int, paths: list[str]) -> None:
        sample = self._witness.sample()
        fault("before send")
        self._sender.send(first, paths, sample)
        fault("after send")
        self._run.note_sent(first, len(paths))
        fault("after note")
        self._window.add(first, len(paths))

    def _check_cancel(self) -> None:
        now, run, board = time.monotonic(), self._run, self._session.board
        if now - self._cancel_checked > CANCEL_CHECK_S:
            self._cancel_checked = now
            if board.is_wanted(run.plan.run):
                return
            check_cancel(self._session, run)
            board.resume_work(run.plan.run)  # it was gathered elsewhere: workers would drop what is sent from here

    def _leave(self, is_done: bool) -> None:
        """Let another producer have the run. If it is done, delete what Redis has of it.

        A Redis that is away must not spoil the end: every row is here.
        """
        run, keys = self._run.plan.run, self._session.keys

        def clean_up(pipeline: Pipeline) -> None:
            if self._run.total:  # first: a chunk that comes twice must not begin anew what is deleted
                self._session.board.end_work(pipeline, run, self._hold.name)
            pipeline.delete(keys.results(run), keys.inputs(run), keys.attempts(run), keys.labelled(run))
            self._waiting.forget(pipeline, run)

        with contextlib.suppress(*AWAY, redis.WatchError, RunHeld):
            if is_done:
                self._hold.take()
            self._hold.release(clean_up if is_done else lambda _: None)

    def _progress(self, waiting: str = "") -> Progress:
        return Progress(self._run.done, self._run.failed, self._run.total, waiting, self._journal.newest_worker)
