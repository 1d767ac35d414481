"""Workers that can't label a run: each is named to a person, and the run ends only when no other worker is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from producer.errors import RunRefused

PATIENCE_S = 50.0  # with workers whose surroundings are away, when there are no others
CHECK_S, LONG_CHECK_S = 1.0, 5.0  # between two looks at who is there; the longer one while somebody is
SURE_AFTER = 2  # looks that found no other worker: one that loads its model may miss the first


@dataclass(slots=True)
class _Refusal:
    why: str
    may_pass: bool
    since: float  # monotonic seconds


class Refusals:
    """What workers have said since they last sent rows.

    Args:
        workers: gives the names of all label workers that answer.
        warn: takes a line for a person.
    """

    def __init__(self, workers: Callable[[], list[str]], warn: Callable[[str], None]) -> None:
        self._workers = workers
        self._warn = warn
        self._refusals: dict[str, _Refusal] = {}
        self._warned: set[tuple[str, str]] = set()
        self._next_look = 0.0
        self._looks = 0

    def note(self, worker: str, why: str, *, may_pass: bool) -> None:
        """Take what a worker says; it has put its chunk back."""
        known = self._refusals.get(worker)
        self._refusals[worker] = _Refusal(why, may_pass, known.since if known else time.monotonic())

    def forget(self, worker: str | None = None) -> None:
        """Forget the refusals of a worker that has sent rows; or of all, when the cause was none of theirs."""
        for name in [worker] if worker is not None else list(self._refusals):
            self._refusals.pop(name, None)
        self._looks, self._next_look = 0, time.monotonic() + LONG_CHECK_S

    def check(self, look: Callable[[], object]) -> None:
        """Name the workers that keep away, once each; raise RunRefused when no other worker is there.

        Args:
            look: raises its error when the cause lies with the images, not with the workers.
        """
        now = time.monotonic()
        unnamed = {(worker, refusal.why) for worker, refusal in self._refusals.items()} - self._warned
        may_end = now >= self._next_look and any(self._is_over(refusal, now) for refusal in self._refusals.values())
        if unnamed or may_end:
            look()
        for worker, why in sorted(unnamed):
            self._warn(f"warning: {worker} keeps away from this run: {why}")
        self._warned |= unnamed
        if not may_end:
            return
        there = self._workers()
        over = [worker for worker in there if worker in self._refusals and self._is_over(self._refusals[worker], now)]
        self._looks = self._looks + 1 if there and over == there else 0
        self._next_look = time.monotonic() + (CHECK_S if over == there else LONG_CHECK_S)
        if self._looks >= SURE_AFTER:
            worker = there[0]
            more = f" (and so do {len(there) - 1} more)" if len(there) > 1 else ""
            raise RunRefused(f"{worker} refuses this run: {self._refusals[worker].why}{more}", worker)

    @staticmethod
    def _is_over(refusal: _Refusal, now: float) -> bool:
        return not refusal.may_pass or now - refusal.since > PATIENCE_S
