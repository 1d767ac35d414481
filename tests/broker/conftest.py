"""A Celery worker in the test's own process, and the producer's half beside it, both on a real Redis.

Most tests label with ``MeanEngine``: quick, reckoned by hand, slow on request. What the store and OpenVINO add is
tested with ``real_settings`` and ``worker_app``.
"""

from __future__ import annotations

import json
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import kombu.pools
import numpy as np
import pytest
import redis
from celery import Celery
from celery.contrib.testing.worker import start_worker

from configs.settings import Settings, environment_of
from jobs.app import make_app
from jobs.broker import Keys
from jobs.label import ChunkResult, LabelChunk, Row
from jobs.messages import ModelPin, to_json
from jobs.state import JobState
from jobs.train import JobEvent
from model_store.store import ModelStore
from producer.local.session import Session
from producer.run.enqueue import ChunkSender
from producer.run.gather import Gatherer
from producer.runfile import Plan, Progress, RunFile
from tests.conftest import LABELS, RedisServer, write_images
from vision.images.preprocess import Preprocessing
from vision.serving.classifier import Classifier
from vision.serving.engines import Images, Outputs
from vision.serving.engines.protocol import PROBABILITIES, GraphSpec
from worker.runtime import Runtime
from worker.tasks import register, worker_app

PREFIX = "test:"
KEYS = Keys(PREFIX)
PIN = ModelPin(name="colours", version=1, digest="0f" * 32)
SIZE_PX = 8
HOSTNAME = "label-1@tests"


class MeanEngine:
    """Four classes: the share of each colour in the light, and a constant. Takes ``seconds`` for a chunk."""

    name, device, precision, micro_batch = "mean", "cpu", "f32", 4096
    graph = GraphSpec(height_px=SIZE_PX, width_px=SIZE_PX, outputs=4, kind=PROBABILITIES)

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.chunks_started = 0

    def describe(self) -> str:
        return self.name

    def submit(self, images: Images) -> Future[Outputs]:
        self.chunks_started += 1
        time.sleep(self.seconds)  # the work of a slow network
        done: Future[Outputs] = Future()
        done.set_result(self.predict(images))
        return done

    def predict(self, images: Images) -> Outputs:
        light = images.astype(np.float32).mean(axis=(1, 2)) + 1
        with_grey = np.concatenate([light, light.mean(axis=1, keepdims=True)], axis=1)
        return np.asarray(with_grey / with_grey.sum(axis=1, keepdims=True), np.float32)

    def close(self) -> None:
        pass


class Desk(Runtime):
    """A worker's runtime with ``MeanEngine`` in place of a stored model; remembers what it answered."""

    def __init__(self, settings: Settings, seconds: float = 0.0) -> None:
        super().__init__(settings)
        self.engine = MeanEngine(seconds)
        self.mean = Classifier(self.engine, Preprocessing(height_px=SIZE_PX, width_px=SIZE_PX), decode_threads=1)
        self.answered: list[int] = []

    def _load(self, pin: ModelPin) -> Classifier:
        return self.mean

    def publish(self, job: str, message: ChunkResult | JobEvent) -> None:
        super().publish(job, message)
        if isinstance(message, ChunkResult):
            self.answered.append(message.first)


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client


@pytest.fixture
def settings(redis_server: RedisServer, home: Path, tmp_path: Path) -> Settings:
    """Small chunks, short times, and a data root with 24 images."""
    write_images(tmp_path / "data", 24, size=12)
    return Settings(
        home=home,
        broker=redis_server.url,
        data_root=tmp_path / "data",
        key_prefix=PREFIX,
        chunk_images=4,
        window_chunks=3,
        stale_s=30,
        visibility_timeout_s=10,
        decode_threads=1,
    )


@pytest.fixture
def session(settings: Settings, client: redis.Redis) -> Session:
    return Session(settings, client)


@pytest.fixture
def in_environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands find the settings in the environment."""
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)


def look(session: Session, job: str = "inbox-1") -> JobState:
    """How the board says that a job stands now."""
    found = session.board.look(job)
    assert found is not None
    return found


@pytest.fixture
def real_settings(settings: Settings, model_store: Path) -> Settings:
    """The same, with ``colours:1`` in the store."""
    return settings.model_copy(update={"store": model_store})


@pytest.fixture
def desk(settings: Settings) -> Iterator[Desk]:
    """What a quick worker holds. A test may slow it down: ``desk.engine.seconds``."""
    desk = Desk(settings)
    yield desk
    desk.mean.close()
    desk.client.close()


@contextmanager
def working(runtime: Runtime) -> Iterator[Any]:
    """A worker in a thread that labels what comes onto the queue."""
    app: Any = make_app(runtime.settings)
    register(app, runtime)
    with _started(app) as worker:
        yield worker


@contextmanager
def really_working(settings: Settings) -> Iterator[Any]:
    """A worker with its own runtime: the store's model in OpenVINO."""
    with _started(worker_app(settings)) as worker:
        yield worker


@contextmanager
def _started(app: Celery) -> Iterator[Any]:
    # Solo: tasks run in the worker's thread, one at a time, as in the one thread of a real label worker.
    # Its BRPOP waits a second, and stopping waits for it: 0.1 s here.
    app.conf.broker_transport_options = {**app.conf.broker_transport_options, "polling_interval": 0.1}
    with (
        patch("celery.app.trace.gethostname", lambda: HOSTNAME),  # else a task has the host's name for its worker's
        start_worker(
            app,
            pool="solo",
            perform_ping_check=False,
            queues=[LabelChunk.queue],
            shutdown_timeout=20,
            hostname=HOSTNAME,
        ) as worker,
    ):
        yield worker
    app.pool.force_close_all()


@pytest.fixture(autouse=True)
def _fresh_pools() -> Iterator[None]:
    """kombu keeps its pools by URL in the process: a later server on a port used before would get a closed one."""
    yield
    kombu.pools.reset()


class Producer:
    """One run: its file, its sender, its gatherer."""

    def __init__(self, settings: Settings, client: redis.Redis, run: RunFile) -> None:
        self.run = run
        self.app: Any = make_app(settings)
        self.sender = ChunkSender(self.app, run.plan, run.pages)
        self.stream = KEYS.results(run.plan.run)
        self.warnings: list[str] = []
        self.gatherer = Gatherer(Session(settings, client), run, self.sender, self.warnings.append)

    def finish(self, limit_s: float = 20) -> None:
        """Gather to the end."""
        for _ in in_time(self.gatherer.gather(), limit_s):
            pass

    def close(self) -> None:
        self.sender.close()
        self.app.pool.force_close_all()
        self.run.close()


NewProducer = Callable[..., Producer]


def in_time(gathering: Iterator[Progress], limit_s: float = 20) -> Iterator[Progress]:
    """The same progress; fails the test when there is still some after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    for progress in gathering:
        assert time.monotonic() < deadline, f"still {progress} after {limit_s} s"
        yield progress


@pytest.fixture
def new_producer(settings: Settings, client: redis.Redis) -> Iterator[NewProducer]:
    """Makes a producer with a new run of the first ``images``, or one that resumes ``run``."""
    made: list[Producer] = []

    def make(
        images: int = 12, *, name: str = "inbox-1", pin: ModelPin = PIN, run: RunFile | None = None, **changes: Any
    ) -> Producer:
        own = settings.model_copy(update=changes)
        made.append(Producer(own, client, run or new_run(own, images, name, pin)))
        return made[-1]

    yield make
    for producer in made:
        producer.close()


def new_run(settings: Settings, images: int, name: str = "inbox-1", pin: ModelPin = PIN) -> RunFile:
    """A run of the first images below the data root."""
    paths = [f"{number:05d}.png" for number in range(images)]
    return RunFile.create(settings.home / "runs" / f"{name}.run", plan_of(settings, name, pin), paths)


def plan_of(settings: Settings, name: str = "inbox-1", pin: ModelPin = PIN) -> Plan:
    return Plan(
        run=name,
        source="inbox",
        base=str(settings.data_root),
        data_root=str(settings.data_root),
        walked=True,
        model=pin,
        labels=list(LABELS),
        groups=[None] * len(LABELS),
        top_k=2,
        chunk_images=settings.chunk_images,
    )


def stored_pin(settings: Settings) -> ModelPin:
    """The pin of the version in production."""
    manifest = ModelStore(settings.store_root).resolve("colours").manifest
    return ModelPin(name=manifest.name, version=manifest.version, digest=manifest.digest)


def chunk_of(settings: Settings, first: int, images: int = 4, pin: ModelPin = PIN, run: str = "inbox-1") -> LabelChunk:
    """The message that a producer sends for these images."""
    paths = tuple(f"{number:05d}.png" for number in range(first, first + images))
    return LabelChunk(run=run, first=first, paths=paths, model=pin, top_k=2)


def answer(
    client: redis.Redis, first: int, images: int = 4, *, run: str = "inbox-1", stream: str = "", class_index: int = 0
) -> None:
    """Put onto the run's stream what a worker would have answered: class 0, surely."""
    rows = tuple(Row(top=((class_index, 1.0),), width=12, height=12) for _ in range(images))
    message = to_json(ChunkResult(run=run, first=first, rows=rows, worker="by hand"))
    client.xadd(stream or KEYS.results(run), {"json": message})


def labelled(run: RunFile) -> list[tuple[int, float]]:
    """The best label of each input, in order; fails when one has none."""
    rows = list(run.rows())
    assert [row.error for row in rows] == [None] * run.total
    assert [len(row.top) for row in rows] >= [1] * run.total
    return [row.top[0] for row in rows]


def queued(client: redis.Redis) -> list[str]:
    """What Flower would show of each message on the queue, the oldest first."""
    messages = [json.loads(text) for text in client.lrange(KEYS.queue(LabelChunk.queue), 0, -1)]
    return [message["headers"]["argsrepr"].strip("'\"") for message in reversed(messages)]


def waiting(client: redis.Redis) -> int:
    return int(client.llen(KEYS.queue(LabelChunk.queue)))


def envelope(**headers: object) -> dict[str, Any]:
    """A queue entry as kombu writes it, plain JSON in the body, for tests to spoil."""
    task = {"id": "4f2a", "task": "sortline.label_chunk", "lang": "py", "retries": 0, "argsrepr": "('',)", **headers}
    return {
        "body": b64encode(json.dumps([[], {}, {}]).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": task,
        "properties": {
            "correlation_id": "4f2a",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": LabelChunk.queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": f"tag-{time.monotonic_ns()}",
        },
    }


def with_arguments(*arguments: object, **headers: object) -> dict[str, Any]:
    """An envelope with these task arguments."""
    return {**envelope(**headers), "body": b64encode(json.dumps([arguments, {}, {}]).encode()).decode()}


def enqueue(client: redis.Redis, message: dict[str, Any]) -> None:
    """Put a raw entry onto the label queue, where whoever can reach Redis could put it."""
    assert b64decode(message["body"], validate=True) is not None
    client.lpush(KEYS.queue(LabelChunk.queue), json.dumps(message))


class Watcher(threading.Thread):
    """Looks at the queue many times a second until stopped; keeps (queued, queued or lent)."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._ended = threading.Event()
        self.seen: list[tuple[int, int]] = []

    def run(self) -> None:
        with self._server.client() as client:
            while not self._ended.wait(0.005):
                pipeline = client.pipeline()
                pipeline.llen(KEYS.queue(LabelChunk.queue))
                pipeline.hlen(KEYS.unacked)
                waits, lent = pipeline.execute()
                self.seen.append((waits, waits + lent))

    def stop(self) -> None:
        self._ended.set()
        self.join()
