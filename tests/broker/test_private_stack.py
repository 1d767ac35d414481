"""A private stack ends at once when its workers have nothing at hand, and else lets them end it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis

from configs.settings import Settings
from jobs.broker import Keys, check_broker, connect
from producer.errors import UsageError
from producer.local.leftovers import ELSEWHERE_KEPT_S, LOGS_KEPT_S, remove_leftovers
from producer.local.session import open_session
from producer.local.stack import LocalStack, StackError, is_answering, shared_stack_socket
from tests.conftest import RedisServer, wait_until

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


def test_two_commands_of_one_process_number_have_a_folder_each(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: 1)  # in a container each command is process 1, over one home on a volume

    one, two = (LocalStack(Settings(home=home)) for _ in range(2))

    assert one.folder != two.folder
    assert one.log_file("redis") != two.log_file("redis")


UP = """
import sys
import time
from pathlib import Path
from configs.settings import Settings
from producer.local.stack import LocalStack
with LocalStack(Settings(home=Path(sys.argv[1])), folder="up", persistent=True):
    print("up", flush=True)
    sys.stdin.read()
"""


def test_of_two_stacks_that_are_to_stay_up_the_second_learns_who_is(home: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", UP, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "up\n"
        with (
            pytest.raises(UsageError, match=rf"a stack is up already: .* in use by process {first.pid} on "),
            LocalStack(Settings(home=home), folder="up", persistent=True),
        ):
            pass
        assert is_answering(shared_stack_socket(Settings(home=home)))
        first.kill()

    with LocalStack(Settings(home=home), folder="up", persistent=True) as second:
        assert is_answering(second.socket)


def persistent(home: Path, said: list[str]) -> LocalStack:
    stack = LocalStack(Settings(home=home), folder="up", persistent=True)
    stack.say = said.append
    return stack


def zero(path: Path, start: int, count: int) -> None:
    """What a power cut leaves of blocks that never reached the disk."""
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(count))


def cut_middle(folder: Path) -> None:
    zero(next(folder.glob("appendonlydir/*.incr.aof")), 200, 64)


def cut_manifest(folder: Path) -> None:
    (folder / "appendonlydir" / "appendonly.aof.manifest").write_bytes(b"")


def zero_all(folder: Path) -> None:
    for path in [*folder.glob("appendonlydir/*"), folder / "socket", folder / "lock"]:
        zero(path, 0, path.stat().st_size)


def lose_base(folder: Path) -> None:
    next(folder.glob("appendonlydir/*.base.*")).unlink()


@pytest.mark.parametrize("cut", [cut_middle, cut_manifest, zero_all, lose_base])
def test_a_stack_starts_after_a_power_cut_that_damaged_what_its_redis_kept(
    home: Path, cut: Callable[[Path], None]
) -> None:
    said: list[str] = []
    with persistent(home, said) as stack, redis.Redis(unix_socket_path=str(stack.socket)) as client:
        for number in range(100):
            client.set(f"key-{number}", "kept")
    folder = home / "run" / "up"
    cut(folder)

    assert not is_answering(shared_stack_socket(Settings(home=home)))
    with persistent(home, said) as stack, redis.Redis(unix_socket_path=str(stack.socket)) as client:
        assert client.dbsize() == 0

    (line,) = said
    aside = re.search(r"put aside in (\S+), and it starts empty. No row is lost", line)
    assert aside is not None
    assert list(Path(aside[1]).glob("appendonlydir/*.incr.aof"))
    with persistent(home, said):  # what it has begun anew is sound
        pass
    assert len(said) == 1


def test_what_a_redis_kept_stays_where_it_is_when_another_cause_keeps_it_from_starting(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with persistent(home, []) as stack, redis.Redis(unix_socket_path=str(stack.socket)) as client:
        client.set("key", "kept")
    with monkeypatch.context() as broken:
        broken.setattr("producer.local.stack.find_redis_server", lambda: "false")
        with pytest.raises(StackError, match="the redis ended with code 1"), persistent(home, []):
            pass

    with persistent(home, []) as stack, redis.Redis(unix_socket_path=str(stack.socket)) as client:
        assert client.get("key") == b"kept"


def test_what_a_killed_command_left_goes_with_the_next_one(home: Path) -> None:
    long = home / ("x" * 90)
    killed = subprocess.Popen([sys.executable, "-c", PRIVATE, str(long)], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    socket = Path(killed.stdout.readline().strip())
    assert socket.exists()
    (left,) = (long / "run").iterdir()
    killed.kill()
    killed.communicate()

    with LocalStack(Settings(home=long)) as stack:
        assert set((long / "run").iterdir()) == {stack.folder}
        assert not socket.parent.exists()
        assert socket.parent != left

    assert list((long / "run").iterdir()) == []


def test_the_short_socket_of_a_killed_stack_goes_with_the_next_one(home: Path) -> None:
    long = home / ("x" * 90)
    first = LocalStack(Settings(home=long), folder="up", persistent=True)
    first.__enter__()
    left = home / "left"
    first.socket.parent.rename(left)  # as if nobody had been there to remove it
    first.__exit__()
    left.rename(first.socket.parent)
    assert first.socket.parent.exists()

    with LocalStack(Settings(home=long), folder="up", persistent=True) as second:
        assert not first.socket.parent.exists()
        assert second.socket.exists()


def test_a_command_with_a_broker_removes_what_a_killed_one_left(home: Path, redis_server: RedisServer) -> None:
    (home / "run" / "1-aa").mkdir(parents=True)
    (home / "run" / "1-aa" / "lock").write_text(f"process 1 on {os.uname().nodename}")

    with open_session(Settings(home=home, broker=redis_server.url), start=False):
        assert list((home / "run").iterdir()) == []


PRIVATE = """
import sys, time
from pathlib import Path
from configs.settings import Settings
from producer.local.stack import LocalStack
with LocalStack(Settings(home=Path(sys.argv[1]))) as stack:
    print(stack.socket, flush=True)
    time.sleep(600)  # until the test kills it
"""


def test_leftovers_of_other_hosts_stay_for_a_month_and_what_lives_stays(home: Path) -> None:
    now = time.time()
    names = {"no lock": "", "elsewhere": "process 1 on elsewhere", "up": f"process 1 on {os.uname().nodename}"}
    for name, text in names.items():
        (home / "run" / name).mkdir(parents=True)
        if text:
            (home / "run" / name / "lock").write_text(text)

    with LocalStack(Settings(home=home)) as stack:
        remove_leftovers(home)
        assert {path.name for path in (home / "run").iterdir()} == {*names, stack.folder.name}
        for path in (home / "run").iterdir():
            os.utime(path, (now, now - ELSEWHERE_KEPT_S - 1))
        remove_leftovers(home)
        assert {path.name for path in (home / "run").iterdir()} == {"up", stack.folder.name}
        assert stack.socket.exists()

        (log,) = (home / "logs").iterdir()
        os.utime(log, (now, now - LOGS_KEPT_S - 60))  # a stack that had nothing to say for a week
        remove_leftovers(home)
        assert log.exists()


def test_logs_go_with_their_stack_unless_something_went_wrong_and_then_after_a_week(home: Path) -> None:
    with LocalStack(Settings(home=home)):
        assert len(list((home / "logs").iterdir())) == 1
    assert list((home / "logs").iterdir()) == []

    with pytest.raises(ZeroDivisionError), LocalStack(Settings(home=home)):
        raise ZeroDivisionError
    (kept,) = (home / "logs").iterdir()
    for age_s, there in ((LOGS_KEPT_S - 60, True), (LOGS_KEPT_S + 60, False)):
        os.utime(kept, (time.time(), time.time() - age_s))
        remove_leftovers(home)
        assert kept.exists() == there


def test_logs_stay_where_a_process_ended_by_itself(home: Path) -> None:
    with LocalStack(Settings(home=home)) as stack:
        stack.start("brief", [sys.executable, "-c", "raise SystemExit(70)"])
        while not stack._processes.has_lost:
            stack.check()
            time.sleep(0.01)  # between two looks

    assert {path.name.rpartition("-")[2] for path in (home / "logs").iterdir()} == {"redis.log", "brief.log"}
