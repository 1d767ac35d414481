"""What a stranger could put into the keys of kombu, Celery and Sortline that are not queues: the worker goes on."""

from __future__ import annotations

import json

import pytest
import redis

from configs.settings import Settings
from jobs.label import LabelChunk
from jobs.messages import to_json
from producer.local.session import Session
from tests.broker.conftest import HOSTNAME, KEYS, Desk, NewProducer, chunk_of, envelope, with_arguments, working
from tests.conftest import wait_until

pytestmark = pytest.mark.timeout(60)  # a worker that ended would be waited for

UNACKNOWLEDGED = {
    "no text": b"\xff\xfe",
    "no JSON": b"{",
    "a number": b"7",
    "a short list": b"[1, 2]",
    "three numbers": b"[1, 2, 3]",
    "a deep list": b"[" * 200_000,
    "a message without headers": json.dumps([{"body": ""}, "", "label"]).encode(),
    "a queue that is a list": json.dumps([envelope(), "", [1]]).encode(),
}


@pytest.mark.parametrize("what", UNACKNOWLEDGED)
def test_an_unacknowledged_entry_that_is_no_message_is_dropped_and_the_others_are_given_back(
    what: str, desk: Desk, settings: Settings, client: redis.Redis
) -> None:
    sound = json.dumps([with_arguments(to_json(chunk_of(settings, 4))), "", LabelChunk.queue])
    for tag, entry in (("a", UNACKNOWLEDGED[what]), ("b", sound), ("c", UNACKNOWLEDGED[what])):
        client.hset(KEYS.unacked, tag, entry)
        client.zadd(KEYS.unacked_index, {tag: 1.0})

    with working(desk):
        wait_until(lambda: desk.answered == [4], 10)
        wait_until(lambda: client.hlen(KEYS.unacked) == client.zcard(KEYS.unacked_index) == 0, 10)


def test_messages_to_all_workers_that_are_none_stop_no_worker(
    desk: Desk, client: redis.Redis, settings: Settings, new_producer: NewProducer
) -> None:
    session = Session(settings, client)
    client.sadd(f"{KEYS.prefix}_kombu.binding.reply.celery.pidbox", b"\xff\xfe", b"x", b"a\x06\x16b\x06\x16c\x06\x16d")
    hostile = (b"\xff\xfe", b"{", b"7", b"null", b'{"body": 7}', b"[" * 200_000, json.dumps(envelope()).encode())
    with working(desk):
        wait_until(client.pubsub_numpat, 10)
        for data in hostile:
            client.publish(f"{KEYS.prefix}/0.celery.pidbox", data)
        new_producer(4).finish()
        # After the last one Celery opens the worker's mailbox anew; what is asked in that moment is lost.
        wait_until(lambda: session.workers("label") == [HOSTNAME], 10)

    assert desk.answered == [0]
