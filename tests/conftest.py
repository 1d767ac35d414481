"""Fixtures: a real Redis, a home with a short path, a small published model, images, commands as processes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
import redis

from producer.stack import find_redis_server

SORTLINE = str(Path(sys.executable).parent / "sortline")
SHARED = Path(__file__).resolve().parents[2] / "shared"
NOTHING: Mapping[str, str] = {}
LABELS = ("red", "green", "blue", "grey")


@pytest.fixture
def home() -> Iterator[Path]:
    """A SORTLINE_HOME of its own, short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="sl-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class RedisServer:
    """A real server on a free port of this machine."""

    folder: Path
    port: int
    password: str = ""
    persistent: bool = False
    process: subprocess.Popen[bytes] | None = None
    arguments: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [str(find_redis_server()), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--dir", str(self.folder), "--appendonly", "yes" if self.persistent else "no", *self.arguments]
        if self.password:
            command += ["--requirepass", self.password]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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
    except redis.RedisError:
        return False


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A running Redis without persistence."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder, free_port())
    server.start()
    yield server
    server.kill()


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], object], limit_s: float, what: str = "") -> None:
    """Poll until ``condition()`` is true; fail the test after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {limit_s} s: {what or condition}")
        time.sleep(0.02)  # between two looks


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


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with ``colours:1`` in production: a seeded LeNet-5 of four classes, made in a process of its own."""
    root = tmp_path_factory.mktemp("models") / "store"
    subprocess.run([sys.executable, "-m", "tests.seeded_model", str(root)], check=True, cwd=Path(__file__).parents[1])
    return root


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
