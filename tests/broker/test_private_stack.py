"""A private stack ends at once when its workers have nothing at hand, and else lets them end it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from configs.settings import Settings
from jobs.broker import Keys, check_broker, connect
from producer.local.stack import LocalStack, StackError
from tests.conftest import wait_until

# Says when it was asked to end, and ends a little later: a worker that finishes what it has at hand. Its sleeps are the
# work: 0.3 s are what a killed one would not get to, 60 s outlast the test.
WORKER = (
    "import os, pathlib, signal, sys, time\n"
    "def end(*_):\n"
    "    pathlib.Path(sys.argv[1], 'asked').touch()\n"
    "    time.sleep(0.3)\n"
    "    pathlib.Path(sys.argv[1], 'finished').touch()\n"
    "    sys.exit()\n"
    "signal.signal(signal.SIGTERM, end)\n"
    "pathlib.Path(sys.argv[1], 'started').touch()\n"
    "time.sleep(60)\n"
)


class Stack:
    """A private stack with one worker, whose messages the test takes and acknowledges."""

    def __init__(self, folder: Path, stack: LocalStack, client: redis.Redis) -> None:
        self.folder = folder
        self.stack = stack
        self.unacked = Keys(stack.settings.key_prefix).unacked
        self.client = client

    @property
    def was_asked(self) -> bool:
        return (self.folder / "asked").exists()

    @property
    def could_finish(self) -> bool:
        return (self.folder / "finished").exists()

    def end(self) -> None:
        folder = str(self.stack.folder)
        children = [child for child in psutil.Process().children(recursive=True) if child.cwd() == folder]
        self.stack.__exit__()
        assert len(children) == 2
        assert [child for child in children if child.is_running()] == []
        assert not self.stack.folder.exists()


@pytest.fixture
def stack(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    with LocalStack(Settings(home=home)) as opened:
        opened.start("worker", [sys.executable, "-c", WORKER, str(tmp_path)])
        wait_until(lambda: (tmp_path / "started").exists(), 20)
        with redis.Redis(unix_socket_path=str(opened.socket)) as client:
            yield Stack(tmp_path, opened, client)
            monkeypatch.setattr("redis.retry.sleep", lambda _: None)  # it is ended again, when its Redis has gone


def test_a_worker_with_nothing_at_hand_is_not_waited_for(stack: Stack) -> None:
    stack.end()

    assert not stack.was_asked


def test_a_worker_that_is_about_to_acknowledge_may_do_so(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.local.stack.IDLE_LIMIT_S", 20.0)
    stack.client.hset(stack.unacked, "message", "held")
    stack.client.pexpire(stack.unacked, 200)

    stack.end()

    assert not stack.was_asked


def test_a_worker_that_holds_a_message_finishes_it_and_ends(stack: Stack) -> None:
    stack.client.hset(stack.unacked, "message", "held")

    stack.end()

    assert stack.was_asked
    assert stack.could_finish


def test_a_worker_whose_redis_has_died_is_stopped_all_the_same(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redis.retry.sleep", lambda _: None)  # as often as ever, without waiting between
    stack.client.shutdown(nosave=True)

    stack.stack.__exit__()

    assert stack.could_finish


def test_the_stack_of_sortline_up_lets_its_workers_finish(home: Path, tmp_path: Path) -> None:
    with LocalStack(Settings(home=home), folder="up", persistent=True) as opened:
        opened.start("worker", [sys.executable, "-c", WORKER, str(tmp_path)])
        wait_until(lambda: (tmp_path / "started").exists(), 20)

    assert (tmp_path / "finished").exists()


@pytest.mark.parametrize("name", ["C#", "q?db=3", "50%41", "a 'b' \"c\"", "ä日", "x" * 120])
def test_a_home_of_any_name_holds_a_stack(name: str, home: Path) -> None:
    (home / name).mkdir()

    with LocalStack(Settings(home=home / name)) as opened, connect(opened.settings) as client:
        assert check_broker(client, opened.settings)


def test_a_home_and_a_temporary_folder_that_are_both_too_long_are_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = home / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))

    with (
        pytest.raises(StackError, match="too long for a socket: set SORTLINE_HOME or TMPDIR"),
        LocalStack(Settings(home=long)),
    ):
        pass

    assert list(long.glob("sortline-*")) == []
