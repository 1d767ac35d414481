"""A suite that stands still ends, and says where it stood.

pytest-timeout ends one test, once. What a timeout's own cleanup waits for, the end of a process of tests, and what
xdist waits for after a process died late (3.8 waits for ever) have no limit but this one.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

import psutil
import pytest

LIMIT_S = 20 * 60  # no test is that long
CODE = 70


class Standstill:
    """Plugin of the process that gathers the reports: ends the session ``limit_s`` after the last report."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._last_s = time.monotonic()
        self._ends: dict[str, str] = {}
        self._failures: list[str] = []
        threading.Thread(target=self._watch, daemon=True).start()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of a sign of life."""
        self._last_s = time.monotonic()
        process = getattr(report, "node", None)
        name = process.gateway.id if process is not None else "this process"
        self._ends[name] = f"{report.nodeid}, {report.when}"
        if report.failed:
            self._failures.append(f"{report.nodeid}, {report.when}\n{report.longrepr}")

    def _watch(self) -> None:
        while (rest_s := self._last_s + self._limit_s - time.monotonic()) > 0:
            time.sleep(rest_s)  # no report can be too late before then
        print("\n".join(["", "Failures so far:", *self._failures]), file=sys.__stderr__)
        print(f"Nothing was reported for {self._limit_s:g} s. The last reports:", file=sys.__stderr__)
        for name, end in sorted(self._ends.items()):
            print(f"  {name}: {end}", file=sys.__stderr__)
        print("Where the processes stand, this one last:", file=sys.__stderr__, flush=True)
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                child.send_signal(signal.SIGUSR1)
                time.sleep(1)  # the process writes its stacks meanwhile: two at once would mix
        faulthandler.dump_traceback(2)
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
        os._exit(CODE)


def show_stacks_when_asked(config: pytest.Config) -> None:
    """Have SIGUSR1, and whatever ends this process of tests, print its stacks where its user sees them."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        seen = os.dup(2)
    faulthandler.register(signal.SIGUSR1, file=seen, all_threads=True)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        faulthandler.register(number, file=seen, all_threads=True, chain=True)
    ending, own = os._exit, os.getpid()

    def end(status: int) -> NoReturn:
        if os.getpid() == own:  # not a fork
            os.write(seen, f"\nos._exit({status}) is called:\n".encode())
            faulthandler.dump_traceback(seen)
        ending(status)

    os._exit = end
