"""Work longer than the visibility timeout stays with its worker, and a message that was given back is let go."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis

from configs.settings import Settings
from jobs.app import make_app
from jobs.label import LabelChunk
from tests.broker.conftest import KEYS, Desk, NewProducer, in_time, labelled, waiting, working
from tests.conftest import RedisServer, wait_until
from worker.lease import Lease

TASK_S = 6.5  # more than twice the visibility timeout of these tests


def lease_of(client: redis.Redis, tag: str | None = "tag", *, timeout_s: float = 0.4, **more: object) -> Lease:
    return Lease(client, KEYS, tag, visibility_timeout_s=timeout_s, **more)  # type: ignore[arg-type]


def score(client: redis.Redis, tag: str = "tag") -> float | None:
    found = client.zscore(KEYS.unacked_index, tag)
    return None if found is None else float(found)


@contextmanager
def second_consumer(settings: Settings) -> Iterator[Callable[[], int]]:
    """Another worker as far as Redis can tell: waits on the queue and sweeps what is overdue. Call it to look."""
    # No second Celery worker: both would share the process's one event loop.
    app: Any = make_app(settings)
    taken: list[object] = []

    def look() -> int:
        with suppress(OSError):  # nothing within the time
            connection.drain_events(timeout=0.2)
        return len(taken)

    with (
        app.connection() as connection,
        connection.Consumer(app.amqp.queues[LabelChunk.queue], callbacks=[lambda _, message: taken.append(message)]),
    ):
        yield look


def test_a_chunk_longer_than_the_visibility_timeout_is_not_given_to_another(
    settings: Settings, client: redis.Redis, new_producer: NewProducer
) -> None:
    short = settings.model_copy(update={"visibility_timeout_s": 3})
    desk = Desk(short, TASK_S)
    producer = new_producer(4, visibility_timeout_s=3)
    gathering = producer.gatherer.gather()
    next(gathering)
    next(gathering)
    scores: set[float] = set()
    started = time.monotonic()

    with working(desk):
        wait_until(lambda: desk.engine.chunks_started == 1, 5)
        with second_consumer(short) as taken:
            for _ in in_time(gathering):
                assert taken() == 0
                scores |= {value for _, value in client.zrange(KEYS.unacked_index, 0, -1, withscores=True)}
        wait_until(lambda: client.hlen(KEYS.unacked) == 0, 3)
    desk.mean.close()
    desk.client.close()

    assert time.monotonic() - started >= TASK_S
    assert desk.engine.chunks_started == 1
    assert waiting(client) == 0
    assert len(scores) >= 6  # renewed every 0.75 s
    assert max(scores) - min(scores) > TASK_S - 2
    assert len(labelled(producer.run)) == 4


def test_an_overdue_message_without_a_lease_is_given_to_another(
    settings: Settings, client: redis.Redis, new_producer: NewProducer
) -> None:
    short = settings.model_copy(update={"visibility_timeout_s": 3})
    producer = new_producer(4, visibility_timeout_s=3)
    producer.sender.send(0, ["00000.png"])
    held = client.rpop(KEYS.queue(LabelChunk.queue))
    with client.pipeline() as pipeline:  # as a worker notes what it took, four seconds ago
        pipeline.hset(KEYS.unacked, "tag", json.dumps([json.loads(held), "", LabelChunk.queue]))
        pipeline.zadd(KEYS.unacked_index, {"tag": time.time() - 4})
        pipeline.execute()

    with second_consumer(short) as taken:
        wait_until(lambda: taken() == 1, 5)


def test_the_score_moves_inside_a_lease_and_no_longer_after_it(client: redis.Redis) -> None:
    client.zadd(KEYS.unacked_index, {"tag": 1.0, "other": 2.0})

    with lease_of(client):
        wait_until(lambda: (score(client) or 0) > time.time() - 5, 2, "the first renewal")
        first = score(client)
        wait_until(lambda: score(client) != first, 2, "the second renewal")
    after = score(client)
    time.sleep(0.4)  # longer than the period of a renewal that must not come

    assert score(client) == after
    assert score(client, "other") == 2.0


def test_a_lease_never_brings_back_an_acknowledged_message(client: redis.Redis) -> None:
    client.zadd(KEYS.unacked_index, {"tag": 1.0})

    with lease_of(client):
        wait_until(lambda: score(client) != 1.0, 2)
        client.zrem(KEYS.unacked_index, "tag")
        time.sleep(0.4)  # longer than the period of a renewal that must not come

        assert score(client) is None
    assert client.keys() == []


def test_a_lease_outlives_a_redis_that_is_away(client: redis.Redis, redis_server: RedisServer) -> None:
    client.zadd(KEYS.unacked_index, {"tag": 1.0})

    with lease_of(client):
        redis_server.kill()
        time.sleep(0.3)  # a renewal fails meanwhile
        redis_server.start()
        client.zadd(KEYS.unacked_index, {"tag": 1.0})
        wait_until(lambda: (score(client) or 0) > 1.0, 8)


def test_a_lease_without_a_tag_still_beats(client: redis.Redis) -> None:
    beaten = threading.Event()

    with lease_of(client, None, beat=beaten.set):
        assert beaten.wait(2)

    assert client.keys() == []


@pytest.mark.parametrize("timeout_s", [3, 60])
def test_a_lease_is_renewed_well_within_the_timeout(client: redis.Redis, timeout_s: float) -> None:
    assert lease_of(client, timeout_s=timeout_s)._period_s <= min(timeout_s / 4, 2)
