"""Processes that are kept alive: one that ends is started again, waiting longer each time.

A crash that comes at every start must not become a busy loop, and one an hour must not add up to a long wait.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from base.files import private
from base.process import DRAINED, STUCK, die_with, how_it_ended

USAGE = 2  # exit code for an unknown or missing setting, which no other try mends
LONGEST_WAIT_S = 30.0
LIVED_S = 30.0  # one that lived longer waits no longer than at its first death
LOG_BYTES = 20_000_000  # of a log, after which it is begun anew
ROTATE_EVERY_S = 60.0
QUICK_DEATHS = 10  # in a row, after which a stack that serves one command gives up


class ProcessEnded(Exception):
    """A process has ended, and starting it again would not help."""


@dataclass(slots=True)
class _Kept:
    name: str
    command: list[str]
    environment: Mapping[str, str]
    log: Path | None
    process: subprocess.Popen[bytes]
    started: float = 0.0  # monotonic seconds
    quick_deaths: int = 0
    again_at: float | None = None  # while it is dead


class Supervisor:
    """Starts processes, and starts them again at each ``check`` after they ended.

    Args:
        folder: where they run; ``python -m`` looks there first, so it holds no code.
        say: takes a line for a person: what ended, how, and what is done about it.
        persistent: whether the processes serve more than this command. If not, one that reports a failure at its start
            ends the command, which says so at once.
        own_groups: whether each process leads a session and group of its own, which Ctrl-C in a terminal does not
            reach: it goes to the owner alone, which stops the rest in order. If not, whoever ends this process's group
            ends them too.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], *, persistent: bool, own_groups: bool = True) -> None:
        self._folder = folder
        self._say = say
        self._persistent = persistent
        self._own_groups = own_groups
        self._kept: dict[str, _Kept] = {}
        self._rotated = 0.0  # monotonic seconds
        self.has_lost = False  # whether one has ended by itself

    def start(self, name: str, command: list[str], environment: Mapping[str, str], log: Path | None = None) -> None:
        """Start a process that dies with this one; its output goes to ``log``, or where that of this one goes."""
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        process = self._spawn(command, environment, log)
        self._kept[name] = _Kept(name, command, environment, log, process, started=time.monotonic())

    def check(self) -> None:
        """Start again what has ended; ProcessEnded, with the last lines of its log, when that would not help."""
        now = time.monotonic()
        if now - self._rotated > ROTATE_EVERY_S:
            self._rotated = now
            self._rotate_logs()
        for kept in self._kept.values():
            if kept.again_at is not None:
                if now >= kept.again_at:
                    kept.process = self._spawn(kept.command, kept.environment, kept.log)
                    kept.started, kept.again_at = now, None
            elif (code := kept.process.poll()) == DRAINED:
                self._say(f"the {kept.name} was drained, and stays down")
                kept.again_at = math.inf
            elif code is not None:
                self.has_lost = True
                quick = now - kept.started < LIVED_S
                kept.quick_deaths = kept.quick_deaths + 1 if quick else 1
                if self._is_final(code, kept.quick_deaths, quick=quick):
                    raise _ended(kept, code)
                wait_s = 0.0 if code == 0 else min(2.0 ** (kept.quick_deaths - 1), LONGEST_WAIT_S)
                when = f"in {wait_s:.0f} s" if wait_s else "now"
                where = f" (log: {kept.log})" if kept.log is not None else ""
                self._say(f"the {kept.name} ended with {how_it_ended(code)}; it starts again {when}{where}")
                kept.again_at = now + wait_s

    def _rotate_logs(self) -> None:
        """Keep each log below ``LOG_BYTES``, and one older part of it. Processes append: it may be cut under them."""
        for kept in self._kept.values():
            with contextlib.suppress(OSError):
                if kept.log is not None and kept.log.stat().st_size > LOG_BYTES:
                    older = kept.log.with_name(f"{kept.log.name}.1")
                    older.unlink(missing_ok=True)
                    with kept.log.open("r+b") as log, open(older, "xb", opener=private) as copy:
                        shutil.copyfileobj(log, copy)
                        log.truncate(0)  # what comes between the two is lost

    def require(self, name: str) -> None:
        """Raise ProcessEnded when process ``name`` has ended, however it did."""
        kept = self._kept[name]
        if (code := kept.process.poll()) is not None:
            raise _ended(kept, code)

    @property
    def is_drained(self) -> bool:
        """Whether all have been drained."""
        return all(kept.again_at == math.inf for kept in self._kept.values())

    @property
    def living(self) -> list[subprocess.Popen[bytes]]:
        """The processes that have not ended."""
        return [kept.process for kept in self._kept.values() if kept.process.poll() is None]

    def signal(self, number: int) -> None:
        """Send a signal to all that live."""
        for process in self.living:
            process.send_signal(number)

    def stop(self, names: Callable[[str], bool], limit_s: float) -> None:
        """Stop the processes whose name is meant: SIGTERM first, after ``limit_s`` SIGKILL."""
        stopping = [kept for kept in self._kept.values() if names(kept.name)]
        for kept in stopping:
            with contextlib.suppress(ProcessLookupError):
                kept.process.terminate()
        deadline = time.monotonic() + limit_s
        for kept in stopping:
            try:
                kept.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                kept.process.kill()
                kept.process.wait()

    def kill(self) -> None:
        """End all processes and whatever they started, at once; none is left when this returns."""
        running = self.living
        # A killed worker reaps no child of its own, and the first process of a container may reap none either.
        with _adopted_orphans():
            for process in running:
                os.killpg(process.pid, signal.SIGKILL)
            for process in running:
                process.wait()
        for process in running:
            with contextlib.suppress(ChildProcessError):
                while True:
                    os.waitpid(-process.pid, 0)

    def _is_final(self, code: int, quick_deaths: int, *, quick: bool) -> bool:
        if code == USAGE or self._persistent:
            return code == USAGE
        return quick_deaths > QUICK_DEATHS or (quick and code > 0 and code != STUCK)

    def _spawn(self, command: list[str], environment: Mapping[str, str], log: Path | None) -> subprocess.Popen[bytes]:

        with contextlib.nullcontext() if log is None else open(log, "ab", opener=private) as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                cwd=self._folder,
                env={**os.environ, **environment},
                start_new_session=self._own_groups,
                preexec_fn=partial(die_with, os.getpid()),
            )


def _ended(kept: _Kept, code: int) -> ProcessEnded:
    text = f"the {kept.name} ended with {how_it_ended(code)}"
    if kept.log is not None:
        text += f". The end of its log ({kept.log}):\n{_tail(kept.log)}"
    return ProcessEnded(text)


def _tail(log: Path, lines: int = 12) -> str:
    with log.open(encoding="utf-8", errors="replace") as file:
        return "".join(f"  | {line}" for line in deque(file, maxlen=lines)).rstrip()


@contextlib.contextmanager
def _adopted_orphans() -> Iterator[None]:
    """Have Linux make this process the parent of what its children leave behind. Elsewhere that is the system's."""
    if sys.platform == "linux":
        pr_set_child_subreaper = 36
        ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1)
        try:
            yield
        finally:
            ctypes.CDLL(None).prctl(pr_set_child_subreaper, 0)
    else:
        yield
