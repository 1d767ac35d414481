"""Fixtures: a real Redis, a home with a short path, a small published model, images, commands as processes.

Passwords are canaries (`tests/canaries.py`): four places here look for them in all that a session says and leaves.
"""

from __future__ import annotations

import fcntl
import gc
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import redis

from producer.local.stack import find_redis_server
from tests import canaries
from tests.standstill import Standstill, show_stacks_when_asked

SORTLINE = str(Path(sys.executable).parent / "sortline")
SHARED = Path(__file__).resolve().parents[2] / "shared"
NOTHING: Mapping[str, str] = {}
MINUTES = (  # files that take minutes, the longest first
    "chaos/test_world.py",
    "chaos/test_chaos.py",
    "browser/test_flower.py",
    "e2e/test_train.py",
    "browser/test_review_page.py",
    "e2e/test_benchmarks.py",
    "e2e/test_server_pages.py",
    "e2e/test_waste.py",
)
LABELS = ("red", "green", "blue", "grey")


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C reach the commands that tests start, and end a session that stands still."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's job in the background, whose children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):  # the variables of xdist are inherited by a pytest that a test starts
        show_stacks_when_asked(config)
    else:
        config.pluginmanager.register(Standstill(), "standstill")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two test processes a core, at most eight: these tests wait for processes as often as they compute."""
    return min(2 * len(os.sched_getaffinity(0)), 8)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what is imported and collected out of all later garbage collections.

    MindSpore does a full one for each graph that it compiles: 0.6 s among the 800,000 objects that are there to stay.
    """
    gc.disable()
    done = yield
    gc.freeze()
    gc.enable()
    return done


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files that take minutes first, then those with slow tests: the others fill the cores at the end."""
    slow = {item.path for item in items for mark in ("slow", "long") if item.get_closest_marker(mark)}
    minutes = {Path(__file__).parent / name: place for place, name in enumerate(MINUTES)}
    items.sort(key=lambda item: (minutes.get(item.path, len(MINUTES)), item.path not in slow))


@pytest.fixture(scope="session", autouse=True)
def _no_secret_in_any_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails the session when a file below pytest's folder holds a secret of the tests."""
    yield
    base = tmp_path_factory.getbasetemp()
    report_leaks(canaries.leaks_below(base))
    if "PYTEST_XDIST_WORKER" in os.environ:
        report_leaks(canaries.leaks_below(base.parent / "shared"))


@pytest.fixture(scope="session", autouse=True)
def _no_secret_from_any_process() -> Iterator[None]:
    """Fails the test whose processes say a secret into a pipe."""
    communicate = subprocess.Popen.communicate

    def listening(process: subprocess.Popen[Any], *arguments: Any, **options: Any) -> tuple[Any, Any]:
        said = communicate(process, *arguments, **options)
        report_leaks(filter(None, (canaries.leak("a process", text) for text in said if text)))
        return said

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "communicate", listening)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that printed or logged a secret, or whose processes did."""
    report = yield
    found = [leak for title, text in report.sections if (leak := canaries.leak(title, text))]
    if found and report.passed:
        report.outcome = "failed"
        report.longrepr = "\n".join(["a secret of the tests is shown:", *found])
    report.sections = [(title, canaries.masked(text)) for title, text in report.sections]
    return report


def report_leaks(found: Iterable[str]) -> None:
    """Fail with these lines, if there are any."""
    if shown := "\n".join(found):
        pytest.fail(f"a secret of the tests is shown:\n{shown}", pytrace=False)


@pytest.fixture
def home() -> Iterator[Path]:
    """A SORTLINE_HOME of its own, short enough for a socket; no file there may hold a secret at the end."""
    folder = Path(tempfile.mkdtemp(prefix="sl-"))
    yield folder
    found = canaries.leaks_below(folder)
    shutil.rmtree(folder, ignore_errors=True)
    report_leaks(found)


@dataclass
class RedisServer:
    """A real server on a free port of this machine."""

    folder: Path
    port: int
    password: str = ""
    persistent: bool = False
    process: subprocess.Popen[bytes] | None = None
    arguments: list[str] = field(default_factory=list)
    address: str = "127.0.0.1"
    wrap: tuple[str, ...] = ()  # words before the command, as for a network namespace

    @property
    def url(self) -> str:
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}{self.address}:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [*self.wrap, str(find_redis_server()), "--port", str(self.port), "--bind", self.address, "--save", ""]
        command += ["--dir", str(self.folder), "--appendonly", "yes" if self.persistent else "no", *self.arguments]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([*command, "-"], stdin=subprocess.PIPE, stdout=log, stderr=log)
        assert self.process.stdin is not None
        with self.process.stdin as more_settings:  # where no list of processes shows them
            password = f"requirepass {self.password}\nmasterauth {self.password}\n"
            more_settings.write(password.encode() if self.password else b"")
        with self.client() as client:
            wait_until(lambda: _answers(client), 10)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def client(self) -> redis.Redis:
        """A client that decodes answers."""
        return redis.Redis.from_url(self.url, decode_responses=True)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.AuthenticationError:
        return True  # it answers, though not to strangers
    except redis.RedisError:
        return False


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A running Redis with a password, without persistence."""
    with running_redis(tmp_path / "redis", canaries.secret("redis")) as server:
        yield server


@pytest.fixture
def open_redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """The same without a password, for what gives its URL on a command line."""
    with running_redis(tmp_path / "open-redis", "") as server:
        yield server


@contextmanager
def running_redis(folder: Path, password: str, *arguments: str) -> Iterator[RedisServer]:
    """A running Redis with its files in a new folder."""
    folder.mkdir()
    server = RedisServer(folder, free_port(), password=password, arguments=list(arguments))
    try:
        server.start()
        yield server
    finally:
        server.kill()


# Below the range from which Linux gives ports to outgoing connections, so that nobody gets one by chance.
PORTS = itertools.cycle(range(20_000, 32_000))
PORT_LOCKS = os.open(f"{tempfile.gettempdir()}/sortline-test-ports-{os.getuid()}", os.O_RDWR | os.O_CREAT, 0o600)


def free_port() -> int:
    """A TCP port that nobody listens on, and that no other test gets as long as this process lives.

    Several test processes run side by side: each claims a port by a lock on one byte of a file, gone with the process.
    """
    for port in PORTS:
        with suppress(OSError):
            fcntl.lockf(PORT_LOCKS, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a cycle has no end")


def mostly_long(values: Iterable[str], *kept: str) -> list[object]:
    """Parameters of which ``kept`` are tried by ``make test``, and the others by ``make test-long``."""
    return [value if value in kept else pytest.param(value, marks=pytest.mark.long) for value in values]


def wait_until(condition: Callable[[], object], limit_s: float, what: str = "") -> None:
    """Poll until ``condition()`` is true; fail the test after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {limit_s} s: {what or condition}")
        time.sleep(0.02)  # between two looks


def end(process: subprocess.Popen[bytes], limit_s: float = 20) -> None:
    """Ask a process to end; TimeoutExpired when it has not within ``limit_s``: then it is killed."""
    process.terminate()
    try:
        process.wait(limit_s)
    finally:
        process.kill()
        process.wait()


def environment(home: Path, more: Mapping[str, str] = NOTHING) -> dict[str, str]:
    """The environment of a Sortline process of this test: nothing of the caller's SORTLINE_* settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SORTLINE_")}
    return {**clean, "SORTLINE_HOME": str(home), "COLUMNS": "120", "NO_COLOR": "1", **more}


def sortline(
    *arguments: str, home: Path, env: Mapping[str, str] = NOTHING, code: int | None = 0, limit_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; hold it to an exit code."""
    done = subprocess.run(
        [SORTLINE, *arguments],
        env=environment(home, env),
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
        cwd=home,
    )
    assert code is None or done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that ``make`` fills, shared by all test processes of this session: the first one makes it."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / "shared" / name
    folder.parent.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            make(folder.with_suffix(".draft"))
            folder.with_suffix(".draft").rename(folder)
    return folder


def seeded_models(root: Path, name: str = "colours", versions: int = 1) -> None:
    """Make a store with seeded LeNet-5s of four classes, in a process of its own; the last is in production."""
    command = [sys.executable, "-m", "tests.seeded_model", str(root), name, str(versions)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1])


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with ``colours:1`` in production: a seeded LeNet-5 of four classes. Nobody may change it."""
    return made_once(tmp_path_factory, "colours", seeded_models)


def write_images(folder: Path, count: int, size: int = 24) -> list[Path]:
    """Write small PNG files with different content; return their paths in order."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        path = folder / f"{number:05d}.png"
        cv2.imwrite(str(path), random.integers(0, 256, (size, size, 3), dtype=np.uint8))
        paths.append(path)
    return paths
