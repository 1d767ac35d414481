"""The parent of a worker's processes, with small programs in their place: signals, restarts and exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from base.process import DRAINED
from tests.conftest import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
DRIVER = """
import sys
from worker import parent
parent.COLD_S = 0.5
sys.exit(parent.run_processes("label", "gpu", [{"PART": "one"}, {"PART": "two"}]))
"""
PROGRAM = """
import os, pathlib, signal, sys, time
def told(number, _):
    pathlib.Path("signals").open("a").write(f"{os.environ['PART']} {number}\\n")
    if WHAT == "gentle": sys.exit(0)
for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT): signal.signal(number, told)
pathlib.Path("started").open("a").write(f"{os.environ['PART']} {sys.argv[-1]} {os.getpid()}\\n")
if WHAT == "drained": sys.exit(3)
while WHAT != "wrong" or os.environ["PART"] == "one": time.sleep(0.05)
time.sleep(1)
sys.exit(2)
"""


class Running:
    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self._folder = folder

    @property
    def started(self) -> list[list[str]]:
        """Part, name and process number of each start."""
        return [line.split() for line in self._lines("started")]

    @property
    def signals(self) -> list[str]:
        return sorted(self._lines("signals"))

    def _lines(self, name: str) -> list[str]:
        file = self._folder / name
        return file.read_text().splitlines() if file.exists() else []

    def none_lives(self) -> bool:
        return not any(psutil.pid_exists(int(number)) for _, _, number in self.started)


@contextmanager
def running(folder: Path, what: str) -> Iterator[Running]:
    (folder / "driver").mkdir()
    (folder / "driver" / "driver.py").write_text(DRIVER)
    (folder / "worker.py").write_text(f"WHAT = {what!r}\n{PROGRAM}")  # `python -m` looks in the working folder first
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(folder / "driver" / "driver.py")],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=log, start_new_session=True,
        )  # fmt: skip
    found = Running(process, folder)
    try:
        wait_until(lambda: len(found.started) >= 2, 20, "both processes")
        yield found
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_parent_of_drained_processes_says_so_and_starts_none_again(tmp_path: Path) -> None:
    with running(tmp_path, "drained") as found:
        assert found.process.wait(10) == DRAINED

    assert len(found.started) == 2


def test_sigterm_reaches_each_process_and_the_parent_ends_with_the_last(tmp_path: Path) -> None:
    with running(tmp_path, "gentle") as found:
        found.process.terminate()
        assert found.process.wait(10) == 0

    assert sorted(start[:2] for start in found.started) == [["one", "gpu-1"], ["two", "gpu-2"]]
    assert found.signals == [f"one {signal.SIGTERM:d}", f"two {signal.SIGTERM:d}"]
    assert found.none_lives()


def test_ctrl_c_waits_for_the_work_at_hand_and_a_second_one_does_not(tmp_path: Path) -> None:
    with running(tmp_path, "stubborn") as found:
        found.process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            found.process.wait(1.5)
        assert found.signals == [f"one {signal.SIGTERM:d}", f"two {signal.SIGTERM:d}"]
        found.process.send_signal(signal.SIGINT)
        assert found.process.wait(10) == 1

    assert f"one {signal.SIGQUIT:d}" in found.signals
    assert found.none_lives()


def test_sigquit_does_not_wait(tmp_path: Path) -> None:
    with running(tmp_path, "stubborn") as found:
        found.process.send_signal(signal.SIGQUIT)
        assert found.process.wait(10) == 1

    assert found.signals == [f"one {signal.SIGQUIT:d}", f"two {signal.SIGQUIT:d}"]
    assert found.none_lives()


def test_a_killed_process_starts_again_under_its_name_with_its_part(tmp_path: Path) -> None:
    with running(tmp_path, "gentle") as found:
        killed = next(start for start in found.started if start[0] == "two")
        os.kill(int(killed[2]), signal.SIGKILL)
        wait_until(lambda: len(found.started) >= 3, 20, "another one")
        found.process.terminate()
        assert found.process.wait(10) == 0

    assert found.started[2][:2] == killed[:2]
    assert "the label worker 2 ended with SIGKILL; it starts again in 1 s" in (tmp_path / "log").read_text()


def test_a_wrong_setting_ends_all_with_its_code(tmp_path: Path) -> None:
    with running(tmp_path, "wrong") as found:
        wait_until(lambda: found.signals, 20, "the end of the other one")
        found.process.send_signal(signal.SIGQUIT)
        assert found.process.wait(20) == 2

    assert f"one {signal.SIGTERM:d}" in found.signals
    assert "the label worker 2 ended with code 2: a person must correct it" in (tmp_path / "log").read_text()
    assert found.none_lives()


def test_none_outlives_a_killed_parent(tmp_path: Path) -> None:
    with running(tmp_path, "stubborn") as found:
        found.process.kill()
        found.process.wait()
        wait_until(found.none_lives, 10, "their end")
