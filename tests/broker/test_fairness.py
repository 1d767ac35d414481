"""Runs beside each other: a small one does not wait for a large one, and none waits for ever."""

from __future__ import annotations

import json

import pytest
import redis

from base.names import Priority
from configs.settings import Settings
from jobs.fairness import Waiting, level_of
from jobs.standstill import look_at_label_queue
from jobs.transport import TAKES_A_TURN
from producer.__main__ import run as run_command
from producer.local.session import Session
from producer.run.connection import announce
from producer.run.detached import send_all, upload
from producer.runfile import RunFile
from tests.broker.conftest import KEYS, Desk, NewProducer, Producer, look, plan_of, working
from tests.conftest import wait_until

pytestmark = pytest.mark.usefixtures("in_environment")
LISTS = KEYS.queues("label")


def new_run(settings: Settings, images: int, name: str) -> RunFile:
    paths = [f"{number % 24:05d}.png" for number in range(images)]
    return RunFile.create(settings.home / "runs" / f"{name}.run", plan_of(settings, name), paths)


def detached(producer: Producer, session: Session, window: int) -> None:
    announce(session, producer.run)
    upload(session.client, KEYS, producer.run)
    send_all(producer.run, producer.sender, tuple, window)


def lengths(client: redis.Redis) -> list[int]:
    return [client.llen(name) for name in LISTS]


def labelled(client: redis.Redis, run: str) -> int:
    return max(0, client.hlen(KEYS.labelled(run)) - 1)  # chunks; one field is a time


@pytest.mark.parametrize(
    ("priority", "images", "level"),
    [
        ("normal", 1, 0),
        ("normal", 256, 0),
        ("normal", 257, 1),
        ("normal", 4096, 1),
        ("normal", 4097, 2),
        ("high", 10**6, 0),
        ("low", 1, 3),
    ],
)
def test_a_run_s_level_is_of_its_size_and_priority(priority: Priority, images: int, level: int) -> None:
    assert level_of(priority, images) == level


def test_a_small_run_goes_before_all_that_is_queued_of_larger_ones(
    desk: Desk,
    settings: Settings,
    client: redis.Redis,
    new_producer: NewProducer,
    session: Session,
) -> None:
    for number in range(3):
        detached(new_producer(run=new_run(settings, 300, f"large-{number}")), session, window=5)
    detached(new_producer(run=new_run(settings, 4, "small")), session, window=5)
    assert lengths(client) == [1, 15, 0, 0]
    assert look_at_label_queue(client, KEYS).waiting == 16
    desk.engine.seconds = 0.05

    with working(desk):
        wait_until(lambda: labelled(client, "small") == 1, 20, "the small run")
        others = sum(labelled(client, f"large-{number}") for number in range(3))

    assert others <= 1
    assert look(session, "small").state == "labelled"


def test_a_run_of_low_priority_goes_on_while_others_keep_coming(
    desk: Desk, client: redis.Redis, settings: Settings, new_producer: NewProducer
) -> None:
    many = new_producer(run=new_run(settings, 4, "many"))
    low = new_producer(run=new_run(settings, 4, "low"))
    low.sender.level = level_of("low", 4)
    low.sender.send(0, ["00000.png"])
    for first in range(TAKES_A_TURN * 6):
        many.sender.send(first, ["00000.png"])
    assert lengths(client) == [TAKES_A_TURN * 6, 0, 0, 1]

    with working(desk):
        wait_until(lambda: labelled(client, "low") == 1, 20, "the low run")
        seen = labelled(client, "many")

    assert 0 < seen <= TAKES_A_TURN * 4


def test_only_a_window_of_a_detached_run_is_queued_and_workers_queue_the_rest(
    desk: Desk,
    settings: Settings,
    client: redis.Redis,
    new_producer: NewProducer,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Waiting, "release_if_idle", lambda _: None)  # what a worker does that finds nothing queued
    producer = new_producer(run=new_run(settings, 300, "large"))
    detached(producer, session, window=3)
    assert (lengths(client), client.llen(KEYS.waiting("large"))) == ([0, 3, 0, 0], 72)
    most = 0

    def is_labelled() -> bool:
        nonlocal most
        most = max(most, sum(lengths(client)))
        return labelled(client, "large") == 75

    with working(desk):
        wait_until(is_labelled, 30, "all chunks")
    assert most <= 3
    assert not client.exists(KEYS.waiting("large"), KEYS.waiting_runs)
    producer.finish()
    assert producer.run.done == 300


def test_a_run_whose_queued_chunks_were_lost_goes_on_without_its_command(
    desk: Desk,
    settings: Settings,
    client: redis.Redis,
    new_producer: NewProducer,
    session: Session,
) -> None:
    detached(new_producer(run=new_run(settings, 300, "large")), session, window=3)
    client.delete(*LISTS)

    with working(desk):
        wait_until(lambda: labelled(client, "large") == 72, 30, "what waited")

    assert look(session, "large").state == "running"


def test_a_message_that_has_waited_is_one_like_all_others(
    client: redis.Redis, settings: Settings, new_producer: NewProducer
) -> None:
    producer = new_producer(run=new_run(settings, 300, "large"))
    producer.sender.send(0, ["00000.png"], waits=True)
    producer.sender.send(4, ["00001.png"])

    Waiting(client, KEYS).release("large", 1)

    newer, older = (json.loads(text) for text in client.lrange(LISTS[1], 0, -1))
    assert newer["headers"].keys() == older["headers"].keys()
    assert newer["properties"]["delivery_info"] == older["properties"]["delivery_info"]
    assert newer["headers"]["first"] == 0  # it came last, so it is taken last


def test_a_gatherer_finds_chunks_whose_index_was_lost_and_waits_for_those_that_wait(
    desk: Desk,
    settings: Settings,
    client: redis.Redis,
    new_producer: NewProducer,
    session: Session,
) -> None:
    producer = new_producer(run=new_run(settings, 40, "inbox-1"))
    detached(producer, session, window=2)
    client.delete(KEYS.waiting_runs)  # its command died after the first chunk that waits

    with working(desk):
        producer.finish(30)

    assert producer.run.done == 40
    assert sorted(desk.answered) == list(range(0, 40, 4))  # none was sent twice


def test_a_redis_that_lost_a_large_run_is_not_flooded_with_it(
    settings: Settings,
    client: redis.Redis,
    new_producer: NewProducer,
    session: Session,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("producer.run.window.SURE_LOST_S", 0.3)
    monkeypatch.setattr("producer.run.gather.MOST_FIXED", 4)
    producer = new_producer(run=new_run(settings, 300, "large"))
    detached(producer, session, window=3)
    gathering = producer.gatherer.gather()
    next(gathering)
    next(gathering)

    client.flushall()

    most = 0
    for _ in range(12):
        next(gathering)
        most = max(most, sum(lengths(client)))
    assert most == 4
    with working(desk):
        for _ in gathering:
            pass
    assert producer.run.done == 300


def test_what_waits_of_a_cancelled_run_is_removed(
    client: redis.Redis,
    settings: Settings,
    new_producer: NewProducer,
    session: Session,
) -> None:
    detached(new_producer(run=new_run(settings, 300, "large")), session, window=3)

    assert run_command(["jobs", "cancel", "large"]) == 0

    assert not client.exists(KEYS.waiting("large"), KEYS.waiting_runs)


@pytest.mark.parametrize("level", [float("inf"), -1.0, 1.5, 1e300])
def test_a_level_that_no_sortline_wrote_moves_nothing(level: float, client: redis.Redis) -> None:
    client.lpush(KEYS.waiting("x"), "text")
    client.zadd(KEYS.waiting_runs, {"x": level})

    Waiting(client, KEYS).release_if_idle()

    assert client.llen(KEYS.waiting("x")) == 1
