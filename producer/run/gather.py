"""Bring a run to its end: keep a window of chunks in flight, journal what comes back, send again what was lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator

from base.errors import UnavailableError
from base.fault import fault
from jobs import AWAY, BrokerFull
from producer.errors import RunCancelled
from producer.local.session import Outage, Session
from producer.run.backlog import Backlog
from producer.run.enqueue import ChunkSender
from producer.run.journal import Journal
from producer.run.window import Window
from producer.runfile import Progress, RunFile

READ_S = 0.25  # longest wait for rows before the screen and the lost chunks are looked at again
CANCEL_CHECK_S = 2.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0  # between two tries while Redis is away

Chunks = Iterator[tuple[int, list[str]]]  # index of the first image, paths


class Gatherer:
    """One producer's work on one run."""

    def __init__(self, session: Session, run: RunFile, sender: ChunkSender) -> None:
        settings, client, keys = session.settings, session.client, session.keys
        self._session = session
        self._run = run
        self._sender = sender
        self._window = Window(run.plan.chunk_images, settings.window_chunks, settings.stale_s)
        self._backlog = Backlog(client, keys)
        self._journal = Journal(run, client, keys, self._window)
        self._todo: Chunks | None = None
        self._held: tuple[int, list[str]] | None = None  # a chunk that Redis would not take yet
        self._cancel_checked = 0.0

    def gather(self) -> Generator[Progress, None, None]:
        """Label what has no row yet; yield progress several times a second until every input has one.

        Raises:
            RunRefused: a worker says that this run can never be done, and why.
            RunCancelled: somebody cancelled it.
            BrokerUnreachable: Redis was away for two minutes.
        """
        outage, pause_s, is_done = Outage(), FIRST_PAUSE_S, False
        yield self._progress()
        while not is_done:
            try:
                is_done = self._step()
                outage.end()
                pause_s = FIRST_PAUSE_S
                if not is_done:
                    yield self._progress()
            except (*AWAY, UnavailableError) as error:
                outage.go_on(error)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                yield self._progress(f"Redis is away or full, trying again ({error})")
                time.sleep(pause_s)
            if not is_done:
                self._session.watch()
        self._clean_up()
        yield self._progress()

    def _step(self) -> bool:
        """Send what fits, take in what comes; return whether every input has its row."""
        if self._journal.catching_up:
            self._catch_up()
        if self._todo is None:
            self._todo = self._run.missing_chunks(self._next_size, self._window.chunks())
        full = self._fill_window(self._todo)
        if self._window.is_empty and full is None:
            self._todo = None  # duplicates of an image that failed are tried themselves
            return self._run.done == self._run.total
        came = self._journal.move(READ_S)
        for first, images in self._window.lost(self._backlog):
            self._send(first, self._run.paths(first, images))
        self._check_cancel()
        if full is not None and not came:
            raise full
        return False

    def _next_size(self) -> int:
        return self._window.next_size(self._run.total - self._run.done)

    def _catch_up(self) -> None:
        """Take in what came while no producer was there, and wait for what an earlier one left on the queue."""
        while self._journal.move(0):
            pass
        if not self._backlog.is_idle():
            for first, images in self._run.sent():
                if first not in self._journal.refused_before:
                    self._window.add(first, images)
        self._journal.catching_up = False

    def _fill_window(self, todo: Chunks) -> BrokerFull | None:
        """Send chunks until the window is full, or until Redis is: it makes room as rows are journalled."""
        try:
            while not self._window.is_full and (chunk := self._held or next(todo, None)) is not None:
                self._held = chunk
                self._backlog.check_room()
                self._send(*chunk)
                self._held = None
        except BrokerFull as error:
            return error
        return None

    def _send(self, first: int, paths: list[str]) -> None:
        fault("before send")
        self._sender.send(first, paths)
        fault("after send")
        self._run.note_sent(first, len(paths))
        fault("after note")
        self._window.add(first, len(paths))

    def _check_cancel(self) -> None:
        now, run = time.monotonic(), self._run
        if now - self._cancel_checked > CANCEL_CHECK_S:
            self._cancel_checked = now
            if self._session.board.is_cancelled(run.plan.run):
                raise RunCancelled(f"run {run.plan.run} was cancelled after {run.done} of {run.total} images")

    def _clean_up(self) -> None:
        """Delete what Redis has of the run. Every row is here: a Redis that is away must not spoil the end."""
        run, client, keys = self._run.plan.run, self._session.client, self._session.keys
        with contextlib.suppress(*AWAY):
            if self._run.total:  # first: a chunk that comes twice must not begin anew what is deleted
                self._session.board.end_work(run)
            client.delete(keys.results(run), keys.inputs(run), keys.attempts(run))

    def _progress(self, waiting: str = "") -> Progress:
        return Progress(self._run.done, self._run.failed, self._run.total, waiting, self._journal.newest_worker)
