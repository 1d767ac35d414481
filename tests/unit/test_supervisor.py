"""A process that ends is started again, after a wait that grows; one that never will work ends a command."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from base.supervisor import ProcessEnded, Supervisor
from tests.conftest import wait_until

pytestmark = pytest.mark.slow

NOTHING: dict[str, str] = {}


class Bench:
    """A supervisor, what it said, and a count of starts."""

    def __init__(self, folder: Path, *, persistent: bool) -> None:
        self.said: list[str] = []
        self.supervisor = Supervisor(folder, self.said.append, persistent=persistent)
        self._folder = folder

    def start(self, program: str, name: str = "worker") -> None:
        program = f"import os, pathlib, signal, time; pathlib.Path('starts').open('a').write('x'); {program}"
        self.supervisor.start(name, [sys.executable, "-c", program], NOTHING, self._folder / "logs" / f"{name}.log")

    @property
    def starts(self) -> int:
        file = self._folder / "starts"
        return len(file.read_text()) if file.exists() else 0

    def look_until(self, starts: int) -> None:
        def looked() -> bool:
            self.supervisor.check()
            return self.starts >= starts

        wait_until(looked, 20, f"{starts} starts")


@pytest.fixture(params=[True, False], ids=["for good", "for one command"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, persistent=request.param)
    yield made
    made.supervisor.stop(lambda _: True, 5)


def test_a_killed_process_starts_again_after_waits_that_double(bench: Bench) -> None:
    started = time.monotonic()
    bench.start("os.kill(os.getpid(), signal.SIGKILL)")

    bench.look_until(3)

    assert time.monotonic() - started >= 3
    assert [line.split(" (log")[0] for line in bench.said[:2]] == [
        "the worker ended with SIGKILL; it starts again in 1 s",
        "the worker ended with SIGKILL; it starts again in 2 s",
    ]


def test_a_process_that_ended_in_order_starts_again_at_once(bench: Bench) -> None:
    bench.start("os._exit(0)")

    bench.look_until(4)

    assert {line.split(" (log")[0] for line in bench.said} == {"the worker ended with code 0; it starts again now"}


def test_a_stuck_worker_starts_again(bench: Bench) -> None:
    bench.start("os._exit(70)")

    bench.look_until(2)

    assert bench.said[0].startswith("the worker ended with code 70; it starts again in 1 s (log: /")


def test_a_wrong_setting_ends_the_command_with_the_last_words_of_the_log(bench: Bench) -> None:
    bench.start("print('setting engine: no such engine'); raise SystemExit(2)")

    with pytest.raises(ProcessEnded, match=r"(?s)the worker ended with code 2\. .*worker\.log\):.*no such engine"):
        bench.look_until(2)

    assert bench.starts == 1


def test_a_failure_at_the_start_ends_one_command_and_not_a_lasting_stack(tmp_path: Path) -> None:
    lasting = Bench(tmp_path, persistent=True)
    lasting.start("os._exit(1)")
    lasting.look_until(2)
    (tmp_path / "one").mkdir()
    single = Bench(tmp_path / "one", persistent=False)
    single.start("os._exit(1)")

    with pytest.raises(ProcessEnded, match="ended with code 1"):
        single.look_until(2)

    lasting.supervisor.stop(lambda _: True, 5)  # it may have started again a moment ago


def test_a_process_that_never_lives_long_ends_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("base.supervisor.QUICK_DEATHS", 2)
    single = Bench(tmp_path, persistent=False)
    single.start("os.kill(os.getpid(), signal.SIGSEGV)")

    with pytest.raises(ProcessEnded, match="ended with SIGSEGV"):
        single.look_until(4)

    assert single.starts == 3


def test_one_that_lived_waits_no_longer_than_at_first(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("base.supervisor.LIVED_S", 0.0)
    bench.start("os.kill(os.getpid(), signal.SIGKILL)")

    bench.look_until(4)

    assert {line.split(" (log")[0] for line in bench.said} == {"the worker ended with SIGKILL; it starts again in 1 s"}


def test_stopping_kills_what_does_not_end(bench: Bench) -> None:
    bench.start(  # sleeps until it is killed
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); pathlib.Path('ready').touch(); time.sleep(60)"
    )
    wait_until(lambda: (bench._folder / "ready").exists(), 10)
    started = time.monotonic()

    bench.supervisor.stop(lambda _: True, 0.2)

    assert time.monotonic() - started < 30


def test_killing_ends_what_the_processes_have_started_too_and_leaves_no_zombie(bench: Bench) -> None:
    for name in ("redis", "worker"):
        # They sleep for longer than the test takes: nothing but a kill ends them.
        bench.start(
            "import subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
            f"written = pathlib.Path('{name}.new'); written.write_text(f'{{os.getpid()}} {{child.pid}}'); "
            f"written.rename('{name}'); time.sleep(60)",
            name,
        )
    files = [bench._folder / name for name in ("redis", "worker")]
    wait_until(lambda: all(file.exists() for file in files), 10)
    numbers = [int(number) for file in files for number in file.read_text().split()]

    bench.supervisor.kill()

    assert len(numbers) == 4
    assert [number for number in numbers if psutil.pid_exists(number)] == []
