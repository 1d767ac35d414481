"""A label worker of several processes: their parent, which starts them, and starts again what ends."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from base.process import DRAINED
from base.supervisor import USAGE, ProcessEnded, Supervisor

log = logging.getLogger("sortline.worker")

LOOK_S = 0.5
COLD_S = 5.0  # in which processes put their chunks back on the queue


def run_processes(queue: str, name: str, parts: Sequence[dict[str, str]]) -> int:
    """Keep a worker process alive for each part until a signal; return the exit code.

    As with one worker, SIGTERM and the first Ctrl-C finish the work at hand, and a second Ctrl-C or SIGQUIT puts it
    back on the queue; what has not ended after five seconds is killed then.
    """
    processes = Supervisor(Path.cwd(), log.warning, persistent=True, own_groups=False)
    with _received() as signals:
        for number, part in enumerate(parts, start=1):
            command = [sys.executable, "-m", "worker", "--queues", queue, "--name", f"{name}-{number}"]
            processes.start(f"{queue} worker {number}", command, part)
        try:
            while not (came := signals.wait(LOOK_S)):
                processes.check()
                if processes.is_drained:
                    return DRAINED
        except ProcessEnded as error:
            log.error("%s: a person must correct it, so the others end too", error)
            came, code = [signal.SIGTERM], USAGE
        else:
            code = 0
        is_cold = signal.SIGQUIT in came
        processes.signal(signal.SIGQUIT if is_cold else signal.SIGTERM)
        killed_at = time.monotonic() + COLD_S
        while processes.living:
            if {signal.SIGINT, signal.SIGQUIT} & set(signals.wait(LOOK_S)) and not is_cold:
                processes.signal(signal.SIGQUIT)
                is_cold, killed_at = True, time.monotonic() + COLD_S
            if is_cold and time.monotonic() > killed_at:  # code that never returns ends in no other way
                processes.signal(signal.SIGKILL)
    return code or int(is_cold)  # Celery's code for a cold stop, too


class _Signals:
    """Signals as they come; none interrupts what is at hand."""

    def __init__(self, reader: int) -> None:
        self._reader = reader

    def wait(self, limit_s: float) -> list[int]:
        """Return the signals that have come since, or the first ones that come within ``limit_s``."""
        ready, _, _ = select.select([self._reader], [], [], limit_s)
        numbers = os.read(self._reader, 1024) if ready else b""
        return [number for number in numbers if number != signal.SIGCHLD]


@contextmanager
def _received() -> Iterator[_Signals]:
    """Give the signals that would end this process, from now on; a child's end only cuts the wait short."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, _do_nothing)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield _Signals(reader)
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)


def _do_nothing(*_: object) -> None:
    """A handler, since only signals that have one come through the pipe."""
