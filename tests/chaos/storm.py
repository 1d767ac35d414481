"""A run under kills: workers, producer and Redis die by a seeded plan while real images are labelled.

The plan goes by progress, not by time, so that every event happens in the middle of the work on any machine.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import psutil
import redis

from jobs.broker import Keys
from tests.canaries import leaks_below, masked, secret
from tests.chaos.fleet import Fleet, cluster
from tests.conftest import SORTLINE, RedisServer, environment, free_port
from tests.e2e.test_label import rows_done

POISON = {"kill": "SIGKILL", "segv": "SIGSEGV", "hang": "did not answer", "memory": "SIGKILL"}
STOPPED_S = 6.0  # longer than the visibility timeout of a cluster: the chunk goes to another
PASSWORD = secret("storm")
KEYS = Keys("sortline:")
QUEUED = (*KEYS.queues("label"), KEYS.unacked)
FORMATS = ("csv", "parquet", "jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of everything."""

    images: int
    workers: int
    worker_kills: int = 0
    redis_kills: int = 0  # with its data on disk
    redis_losses: int = 0  # kills that lose everything
    flushes: int = 0
    producer_kills: int = 0
    stops: int = 0  # of a worker, for longer than its lease
    seed: int = 0

    def events(self) -> list[str]:
        """Return the events in their order: Redis keeps its data on disk in the first half only."""
        chance = random.Random(self.seed)  # noqa: S311 - a plan, no secret
        first = ["redis kill"] * self.redis_kills + ["flush"] * (self.flushes // 2)
        second = ["redis loss"] * self.redis_losses + ["flush"] * (self.flushes - self.flushes // 2)
        for name, count in (("worker kill", self.worker_kills), ("producer kill", self.producer_kills)):
            first += [name] * (count // 2)
            second += [name] * (count - count // 2)
        second += ["stop"] * self.stops
        chance.shuffle(first)
        chance.shuffle(second)
        return first + second


@dataclass(slots=True)
class Samples:
    """Resident bytes and open files over time, by process."""

    by_process: dict[tuple[str, int], list[tuple[float, int, int]]] = field(default_factory=dict)

    def take(self, kind: str, process: psutil.Process) -> None:
        with suppress(psutil.Error):
            sample = time.monotonic(), int(process.memory_info().rss), int(process.num_fds())
            self.by_process.setdefault((kind, process.pid), []).append(sample)

    def slope(self, kind: str) -> float:
        """Bytes a second of the process of this kind that lived longest, its first third left out: it still loads."""
        points = max((found for (what, _), found in self.by_process.items() if what == kind), key=len, default=[])
        points = points[len(points) // 3 :]
        if len(points) < 3:
            return 0.0
        return float(np.polyfit([at for at, _, _ in points], [size for _, size, _ in points], 1)[0])

    def largest(self, kind: str) -> tuple[int, int]:
        """The most resident bytes, and the most open files, of a process of this kind."""
        found = [sample for (what, _), samples in self.by_process.items() if what == kind for sample in samples]
        return max((size for _, size, _ in found), default=0), max((files for _, _, files in found), default=0)


@dataclass(slots=True)
class Outcome:
    """What a storm left."""

    reports: dict[str, bytes]  # by format
    done: Counter[str]
    worker_codes: Counter[int]
    keys: list[str]
    seconds: float
    memory: Samples
    betrayed: list[str]  # files, reports and logs among them, and command lines that hold the password of Redis


def write_mixed_images(folder: Path, count: int, poison: bool) -> str:
    """Write small JPEG and PNG files of 32 to 96 px; return the faults that make four of them poison."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(7)
    for number in range(count):
        height, width = chance.integers(32, 97, 2)
        pixels = chance.integers(0, 256, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:07d}.{'jpg' if number % 3 else 'png'}"), pixels)
    faults = []
    for place, action in enumerate(POISON if poison else ()):
        name = f"{(place + 1) * count // 6:07d}-{action}.png"
        (folder / name).write_bytes((folder / "0000000.png").read_bytes())
        faults.append(f"decode {folder.name}/{name}={action}")
    return ",".join(faults)


class Storm:
    """One run of ``photos`` under ``plan``."""

    def __init__(self, plan: Plan, home: Path, photos: Path, store: Path, faults: str, **settings: object) -> None:
        home.mkdir(exist_ok=True)
        self._plan = plan
        self._home = home
        self._out = home / "out"
        self._chance = random.Random(plan.seed)  # noqa: S311
        folder = home / "redis"
        folder.mkdir()
        self._server = RedisServer(folder, free_port(), password=PASSWORD, persistent=True)
        self._env = cluster(self._server.url, store, photos.parent, stuck_s=5, **settings)
        self._command = [SORTLINE, "label", str(photos), "-o", str(self._out), "--format", ",".join(FORMATS), "-q"]
        self._faults: Mapping[str, str] = {"TEST_FAULT": faults}
        self._stopped: list[tuple[float, psutil.Popen]] = []
        self._betrayed: set[str] = set()
        self.done: Counter[str] = Counter()
        self.memory = Samples()

    def run(self, limit_s: float, settled: Callable[[redis.Redis], bool] | None = None) -> Outcome:
        """Return what is left once the report is there; fail when it is not within ``limit_s``, or came too early."""
        started = time.monotonic()
        self._server.start()
        self._fleet = Fleet(self._plan.workers, self._home, self._env, self._faults)
        self._producer = self._start_producer()
        try:
            self._ride(started + limit_s)
            seconds = time.monotonic() - started
            return Outcome(
                {name: (self._out / f"report.{name}").read_bytes() for name in FORMATS},
                self.done,
                Counter(self._fleet.ended),
                self._leftovers(),
                seconds,
                self.memory,
                self._traitors(),
            )
        finally:
            self._producer.kill()
            for _, worker in self._stopped:
                with suppress(psutil.Error):
                    worker.resume()
            self._fleet.close()
            self._server.kill()

    def _ride(self, deadline: float) -> None:
        events = self._plan.events()
        total, place, sampled, counted, rows = self._plan.images, 0, 0.0, 0.0, 0
        while True:
            now = time.monotonic()
            assert now < deadline, f"not done in time: {self.done}, {rows_done(self._home)} rows\n{self._words()}"
            if (code := self._producer.poll()) is not None:
                assert code == 0, f"the producer ended with {code}\n{self._words()}"
                assert place == len(events), f"over after {place} of {len(events)} events: the storm was too short"
                return
            if place < len(events) and now > counted:
                rows = rows_done(self._home)
                counted = now + 5 * (time.monotonic() - now)  # counting a long run's rows must not take a core
            if place < len(events) and rows >= total * (place + 1) // (len(events) + 2):
                self._do(events[place])
                place += 1
            for at, worker in list(self._stopped):
                if now > at + STOPPED_S:
                    with suppress(psutil.Error):
                        worker.resume()
                    self._stopped.remove((at, worker))
            if now > sampled + 1:
                sampled = now
                self.memory.take("producer", psutil.Process(self._producer.pid))
                for worker in self._fleet.workers:
                    self.memory.take("worker", worker)
                for process in psutil.Process().children(recursive=True):
                    self._read_command_line(process)
            time.sleep(0.02)  # between two looks

    def _do(self, event: str) -> None:
        self.done[event] += 1
        alive = [worker for worker in self._fleet.workers if worker.poll() is None] or self._fleet.workers
        worker = self._chance.choice(alive)
        with suppress(psutil.NoSuchProcess):
            if event == "worker kill":
                worker.kill()
            elif event == "stop":
                worker.suspend()
                self._stopped.append((time.monotonic(), worker))
        if event in ("redis kill", "redis loss"):
            self._server.kill()
            self._server.persistent = event == "redis kill"
            self._server.start()
        elif event == "flush":
            with self._server.client() as client:
                client.flushall()
        elif event == "producer kill":
            self._producer.send_signal(signal.SIGKILL)
            self._producer.wait()
            self._producer = self._start_producer()

    def _start_producer(self) -> subprocess.Popen[bytes]:
        with (self._home / "producer.log").open("ab") as log:
            return subprocess.Popen(
                self._command, env=environment(self._home, self._env), stdout=log, stderr=log, cwd=self._home
            )

    def _leftovers(self) -> list[str]:
        """Names of keys, once workers have nothing more to do."""
        with self._server.client() as client:
            deadline = time.monotonic() + 60
            while client.exists(*QUEUED) and time.monotonic() < deadline:
                time.sleep(0.1)  # late copies of chunks
            return sorted(client.keys("*"))

    def _read_command_line(self, process: psutil.Process) -> None:
        """Take note of one of ours that shows the password to everybody on this machine."""
        with suppress(psutil.Error):
            line = process.cmdline()
            if any(PASSWORD in part for part in line):
                self._betrayed.add(masked(" ".join(line)))

    def _traitors(self) -> list[str]:
        return sorted({*self._betrayed, *leaks_below(self._home)})

    def _words(self) -> str:
        return (self._home / "producer.log").read_text(encoding="utf-8", errors="replace")[-2000:] + self._fleet.log[
            -6000:
        ]
