"""What Celery's own picture of the world, which Flower shows, makes of a run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytest
import redis
from celery import states
from celery.events.state import TASK_EVENT_TO_STATE, State

from configs.settings import Settings
from jobs.app import make_app
from producer.errors import RunCancelled, RunRefused
from producer.local.session import Session
from producer.run.events import reported
from tests.broker.conftest import HOSTNAME, Desk, NewProducer, Producer, in_time, working
from tests.conftest import RedisServer, wait_until

# A worker inside the test process has one name in Celery's events and another, its host's, in what its tasks send.
WORKERS = {HOSTNAME}


@pytest.fixture(autouse=True)
def _as_in_flower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASK_EVENT_TO_STATE, "progress", states.STARTED)  # jobs/monitored.py
    monkeypatch.setattr("producer.run.events.EVERY_S", 0.0)


@contextmanager
def watching(settings: Settings) -> Iterator[tuple[State, list[dict[str, Any]]]]:
    """Celery's state, fed with all events in a thread, and the events themselves."""
    app: Any = make_app(settings)
    state, seen = State(), list[dict[str, Any]]()

    def note(event: dict[str, Any]) -> None:
        seen.append(dict(event))
        state.event(event)

    with app.connection() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": note})
        unlimited = {"limit": None, "timeout": None, "wakeup": False}
        thread = threading.Thread(target=receiver.capture, kwargs=unlimited, daemon=True)
        thread.start()
        try:
            with redis.Redis.from_url(str(settings.broker)) as client:
                wait_until(client.pubsub_numpat, 10, "the subscription")
            yield state, seen
        finally:
            receiver.should_stop = True
            thread.join(10)


def session_of(settings: Settings, client: redis.Redis) -> Session:
    return Session(settings, client)


def run_task(state: State, producer: Producer) -> Any:
    return state.tasks.get(producer.run.plan.run)


def test_a_run_is_one_task_whose_text_moves_and_its_chunks_belong_to_it(
    desk: Desk, settings: Settings, client: redis.Redis, new_producer: NewProducer
) -> None:
    desk.engine.seconds = 0.1
    producer = new_producer(12)

    with watching(settings) as (state, seen), working(desk):
        for _ in in_time(reported(session_of(settings, client), producer.run, producer.gatherer.gather())):
            pass
        wait_until(lambda: getattr(run_task(state, producer), "state", "") == "SUCCESS", 10)
        wait_until(lambda: sum(event["type"] == "task-succeeded" for event in seen) == 4, 10)

    task = run_task(state, producer)
    assert task.name == "sortline.label_run"
    assert task.args == "label inbox, 12 images"
    assert task.kwargs == "colours:1"
    assert task.result.startswith("12 images, 0 failed, ")
    assert task.result.endswith(" img/s, colours:1")
    texts = [event["result"] for event in seen if event["type"] == "task-progress"]
    assert len(set(texts)) > 1
    assert all("/12 images, " in text and " img/s" in text for text in texts)
    assert set(state.workers) == WORKERS  # its producer is no worker
    chunks = [other for other in state.tasks.values() if other.name == "sortline.label_chunk"]
    assert {chunk.args for chunk in chunks} == {f"inbox chunk {number}/3, 4 images" for number in (1, 2, 3)}
    assert {chunk.root_id for chunk in chunks} == {producer.run.plan.run}
    found = session_of(settings, client).board.get(producer.run.plan.run)
    assert found is None  # a job that the board doesn't know is not put there


def test_a_refused_run_fails_with_the_reason(
    desk: Desk, settings: Settings, client: redis.Redis, new_producer: NewProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.errors import JobRefused

    def refuse(*_: object) -> None:
        raise JobRefused("model colours:1: not in the store")

    monkeypatch.setattr(desk, "classifier", refuse)
    producer = new_producer(4)

    with watching(settings) as (state, _), working(desk):
        with pytest.raises(RunRefused):
            for _progress in in_time(reported(session_of(settings, client), producer.run, producer.gatherer.gather())):
                pass
        wait_until(lambda: getattr(run_task(state, producer), "state", "") == "FAILURE", 10)

    assert "model colours:1: not in the store" in run_task(state, producer).exception
    assert set(state.workers) == WORKERS


def test_a_run_that_is_interrupted_and_goes_on_ends_as_one_task(
    desk: Desk, settings: Settings, client: redis.Redis, new_producer: NewProducer
) -> None:
    desk.engine.seconds = 0.1
    producer = new_producer(12)
    session = session_of(settings, client)

    with watching(settings) as (state, seen), working(desk):
        gathering = reported(session, producer.run, producer.gatherer.gather())
        wait_until(lambda: next(gathering).done > 0, 10)
        gathering.close()  # type: ignore[attr-defined]
        wait_until(lambda: getattr(run_task(state, producer), "state", "") == "REVOKED", 10)
        again = new_producer(run=producer.run)
        for _ in in_time(reported(session, again.run, again.gatherer.gather())):
            pass
        wait_until(lambda: run_task(state, producer).state == "SUCCESS", 10)

    assert [event["type"] for event in seen if event.get("uuid") == producer.run.plan.run].count("task-retried") == 1


def test_a_cancelled_run_is_revoked_and_a_run_without_work_says_nothing(
    desk: Desk, settings: Settings, client: redis.Redis, new_producer: NewProducer
) -> None:
    producer = new_producer(4)
    session = session_of(settings, client)

    def cancelled() -> Iterator[Any]:
        yield from islice(producer.gatherer.gather(), 1)
        raise RunCancelled("run inbox-1 was cancelled")

    with watching(settings) as (state, seen):
        with pytest.raises(RunCancelled):
            list(reported(session, producer.run, cancelled()))
        wait_until(lambda: getattr(run_task(state, producer), "result", None), 10)
        count = len(seen)
        with working(desk):
            producer.finish()
            list(reported(session, producer.run, producer.gatherer.gather()))

    assert run_task(state, producer).result == "run inbox-1 was cancelled"
    assert run_task(state, producer).state == "PENDING"  # nobody had begun
    assert not [event for event in seen[count:] if event.get("uuid") == producer.run.plan.run]


def test_a_redis_that_goes_away_takes_no_run_down_for_its_events(
    settings: Settings, client: redis.Redis, redis_server: RedisServer, new_producer: NewProducer
) -> None:
    producer = new_producer(4)
    session = session_of(settings, client)
    redis_server.kill()

    assert [progress.total for progress in islice(reported(session, producer.run, producer.gatherer.gather()), 1)] == [
        4
    ]
