"""A training outlives any absence of Redis: its events are kept, and delivered in order when Redis is back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from configs.settings import Settings
from jobs.board import JobBoard
from jobs.broker import Keys
from jobs.messages import from_json, to_json
from jobs.train import JobEvent, TrainModel
from producer.local.session import open_session
from producer.training.events import follow
from tests.conftest import RedisServer, wait_until
from worker.handler import Delivery
from worker.runner import run_job
from worker.runtime import Runtime
from worker.train.handler import TrainHandler

JOB = TrainModel(job="train-m-1", dataset="d", name="m", recipe={})
DELIVERY = Delivery(retries=0, worker="train-1@tests", tag=None, queued_at=None, show=lambda _: None)


@pytest.fixture
def redis_server(redis_server: RedisServer) -> RedisServer:
    """One that comes back with what it had."""
    redis_server.kill()
    redis_server.persistent = True
    redis_server.arguments += ["--appendfsync", "always"]
    redis_server.start()
    return redis_server


@pytest.fixture
def runtime(redis_server: RedisServer, home: Path) -> Iterator[Runtime]:
    settings = Settings(home=home, broker=redis_server.url, data_root=Path("/"), visibility_timeout_s=3)
    runtime = Runtime(settings)
    JobBoard(runtime.client, runtime.keys).add(JOB.job, kind="train", title="train m")
    yield runtime
    runtime.client.close()


def training(runtime: Runtime, epochs: Callable[[int], object], delivery: Delivery = DELIVERY) -> threading.Thread:
    """A worker that reports three epochs, doing ``epochs`` before each."""

    class Handler(TrainHandler):
        def work(self, attempt: int) -> JobEvent:
            for number in range(3):
                epochs(number)
                self._report(self._event("progress", f"epoch {number}"))
            return self._event("done", f"attempt {attempt}")

    thread = threading.Thread(target=run_job, args=(Handler, runtime, delivery, to_json(JOB)), daemon=True)
    thread.start()
    return thread


def said(client: redis.Redis, keys: Keys) -> list[str]:
    return [from_json(JobEvent, values["json"]).text for _, values in client.xrange(keys.results(JOB.job))]


EVENTS = ["epoch 0", "epoch 1", "epoch 2", "attempt 1"]


@pytest.mark.parametrize("back_after", [1, 3])  # in the midst of the training, or while its end waits
def test_a_training_goes_on_without_redis_and_says_all_when_it_is_back(
    runtime: Runtime, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, back_after: int
) -> None:
    monkeypatch.setattr("worker.runtime.PUBLISH_PATIENCE_S", 0.1)  # what a label worker would wait
    seconds = []

    def epochs(number: int) -> None:
        seconds.append(time.monotonic())
        if number == 1:
            redis_server.kill()
        if number > back_after:
            redis_server.start()

    thread = training(runtime, epochs)
    if back_after == 3:
        wait_until(lambda: len(seconds) == 3, 20)
        time.sleep(2)  # far beyond any patience of the above
        assert thread.is_alive()
        redis_server.start()
    thread.join(20)

    assert not thread.is_alive()
    with redis_server.client() as client:
        assert said(client, runtime.keys) == EVENTS
    state = runtime.board.get(JOB.job)
    assert state is not None
    assert (state.state, state.text) == ("done", "attempt 1")


def test_a_job_delivered_again_while_its_worker_is_at_it_is_trained_once(
    runtime: Runtime, redis_server: RedisServer
) -> None:
    go_on = threading.Event()
    first = training(runtime, lambda _: go_on.wait(20))
    wait_until(lambda: runtime.client.hget(runtime.keys.job(JOB.job), "attempts") == "1", 10)
    runtime.board.update(JOB.job, state="running")

    second = training(runtime, lambda _: pytest.fail("begun twice"))
    time.sleep(4)  # longer than it takes to see that nobody is at it
    assert second.is_alive()
    go_on.set()
    for thread in (first, second):
        thread.join(20)
        assert not thread.is_alive()

    with redis_server.client() as client:
        assert said(client, runtime.keys) == EVENTS


def test_a_job_whose_worker_has_died_is_begun_by_the_next_one(runtime: Runtime) -> None:
    runtime.board.count_attempt(JOB.job)
    runtime.board.update(JOB.job, state="running")

    started = time.monotonic()
    training(runtime, lambda _: None).join(20)

    assert time.monotonic() - started < 10
    assert said(runtime.client, runtime.keys)[-1] == "attempt 2"


def test_who_follows_a_training_waits_for_a_redis_that_is_away(
    runtime: Runtime, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.local.session.OUTAGE_LIMIT_S", 0.1)
    with open_session(runtime.settings) as session:
        events = follow(session, [JOB.job], [JOB])
        assert next(events) is None
        redis_server.kill()
        away = [next(events) for _ in range(4)]
        redis_server.start()
        runtime.put(JOB.job, JobEvent(job=JOB.job, state="done", text="published"))
        rest = [event.text for event in events if event is not None]

    assert [event.text.partition(":")[0] for event in away if event is not None] == ["Redis is away"]
    assert rest == ["published"]
