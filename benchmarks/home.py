"""What most benchmarks need: a home of their own with a model, images, a Redis, and commands as processes."""

from __future__ import annotations

import csv
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis
from pydantic import JsonValue

from model_store.manifest import ClassEntry, ManifestDraft
from model_store.store import ModelStore
from producer.local.stack import find_redis_server

SORTLINE = str(Path(sys.executable).parent / "sortline")
ROOT = Path(__file__).resolve().parents[1]
CLASSES = 26
SIDE_PX = 224
STUB_GRAPH: dict[str, JsonValue] = {"height_px": SIDE_PX, "width_px": SIDE_PX, "outputs": CLASSES}
SAMPLE_S = 0.1  # between two looks at memory
DISTINCT_PHOTOS = 256  # the rest are links to them: the disk is not what is measured
NOTHING: Mapping[str, str] = {}


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A SORTLINE_HOME, short enough for a socket, that goes with the block."""
    with tempfile.TemporaryDirectory(prefix="sl-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def environment(home: Path, more: Mapping[str, str] = NOTHING) -> dict[str, str]:
    """The environment of a process of this home: none of the caller's SORTLINE_* settings, modules compiled once."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SORTLINE_", "PYTHONDONTWRITE"))}
    return {**clean, "SORTLINE_HOME": str(home), "PYTHONPATH": str(ROOT), **more}


def publish_stub(home: Path) -> None:
    """Put a version without files into production, for workers that load none."""
    classes = [ClassEntry(label=f"class {index}", folder=str(index)) for index in range(CLASSES)]
    draft = ManifestDraft(kind="classifier", graph=STUB_GRAPH, preprocessing={}, classes=classes)
    store = ModelStore(home / "store")
    version = store.publish("stub", lambda _: draft)
    store.set_alias("stub", "production", version.version, who="benchmark", why="the only one")


def link_store(home: Path, given: Path | None) -> None:
    """Make the home's store: the one given, or a new one with seeded MobileNetV2 in production."""
    if given is not None:
        (home / "store").symlink_to(given.absolute())
        return
    # A process of its own takes MindSpore along when it ends.
    subprocess.run([sys.executable, "-m", "benchmarks.seeded_model", str(home / "store")], check=True, cwd=ROOT)


def write_photos(folder: Path, count: int, distinct: int = DISTINCT_PHOTOS) -> None:
    """Write photo-like JPEG files of 224 x 224: smooth shapes with a little noise, about 10 KB each."""
    import cv2
    import numpy as np

    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number:07d}.jpg"
        if number >= distinct:
            path.hardlink_to(folder / f"{number % distinct:07d}.jpg")
            continue
        coarse = random.integers(0, 256, (7, 7, 3), dtype=np.uint8)
        pixels = cv2.resize(coarse, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        pixels += random.integers(-6, 7, pixels.shape, dtype=np.int16)
        cv2.imwrite(str(path), np.clip(pixels, 0, 255).astype(np.uint8))


def write_list(path: Path, count: int) -> None:
    """Write ``count`` names of images that need not exist."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"inbox/2026/{number // 10_000:04d}/photo-{number:07d}.jpg\n" for number in range(count))


@dataclass(frozen=True)
class Server:
    """A Redis of this benchmark, on a free port."""

    process: psutil.Popen
    url: str

    def client(self) -> redis.Redis:
        """A client that decodes answers."""
        return redis.Redis.from_url(self.url, decode_responses=True)


@contextmanager
def redis_server(home: Path) -> Iterator[Server]:
    """A Redis without persistence on the loopback interface, as a broker on another host is reached: by TCP."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [str(find_redis_server()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(home)]
    server = Server(psutil.Popen(command, stdout=subprocess.DEVNULL), f"redis://127.0.0.1:{port}/0")
    try:
        with server.client() as client:
            wait_for(lambda: _answers(client), "Redis")
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@contextmanager
def stack(home: Path, more: Mapping[str, str] = NOTHING) -> Iterator[None]:
    """`sortline up` without a training worker."""
    log = home / "up.log"
    with log.open("wb") as output:
        up = subprocess.Popen(
            [SORTLINE, "up", "--no-train"], env=environment(home, more), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_for(lambda: b"now, in another terminal" in log.read_bytes(), "sortline up")
        yield
    finally:
        up.send_signal(signal.SIGINT)
        up.wait()


@dataclass(frozen=True)
class Labelled:
    """A finished `sortline label`.

    Attributes:
        images: rows of its report, all of them checked to be "ok".
        seconds: wall time of the whole command.
        rate: images a second from the first chunk to the last row, as the command says: without start and report.
        cpu_s: of the command's process.
        peak_bytes: the most it had resident.
    """

    images: int
    seconds: float
    rate: float
    cpu_s: float
    peak_bytes: int


def label(
    home: Path, source: Path, more: Mapping[str, str] = NOTHING, *, model: str = "", options: Sequence[str] = ()
) -> Labelled:
    """Run `sortline label` anew, whatever it has done before."""
    report = home / "report.csv"
    started = time.perf_counter()
    process = subprocess.Popen(
        [
            SORTLINE,
            "label",
            str(source),
            "-o",
            str(report),
            "--on-existing",
            "overwrite",
            *(["--model", model] if model else []),
            *options,
        ],
        env=environment(home, more),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None  # noqa: S101 - piped
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    rate = re.search(r", (\d+) img/s, model", said)
    if process.returncode or rate is None:
        raise SystemExit(f"sortline label: exit {process.returncode}\n{said}")
    with report.open(encoding="utf-8", newline="") as file:
        rows = [row["status"] for row in csv.DictReader(file)]
    if set(rows) != {"ok"}:
        raise SystemExit(f"{len(rows) - rows.count('ok')} of {len(rows)} images have no label; see {report}")
    return Labelled(len(rows), seconds, float(rate[1]), used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


@contextmanager
def peak_memory(process: psutil.Process, summed: Callable[[Iterable[int]], int] = sum) -> Iterator[list[int]]:
    """Watch a process and its children inside the block; the list holds the most bytes they had resident.

    ``summed`` makes one number of all of them: their sum, or with ``max`` the largest.
    """
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_S):
            try:
                family = [process, *process.children(recursive=True)]
                peak[0] = max(peak[0], summed(member.memory_info().rss for member in family))
            except psutil.NoSuchProcess:
                continue  # a child has just ended

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def wait_for(condition: Callable[[], object], what: str, limit_s: float = 60) -> None:
    """Poll until ``condition()`` is true; end the benchmark when it is not within ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} is not ready after {limit_s:.0f} s")
        time.sleep(0.05)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
