"""Runs through a real queue, undisturbed: the rows, the window, what is left in Redis."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import redis

from configs.settings import Settings
from jobs.board import JobBoard
from tests.broker.conftest import (
    KEYS,
    PREFIX,
    Desk,
    NewProducer,
    Watcher,
    chunk_of,
    in_time,
    labelled,
    really_working,
    stored_pin,
    working,
)
from tests.conftest import RedisServer
from worker.label.chunk import label_chunk
from worker.runtime import Runtime


def test_rows_through_the_queue_are_those_of_label_chunk(real_settings: Settings, new_producer: NewProducer) -> None:
    assert isinstance(real_settings.data_root, Path)
    pin = stored_pin(real_settings)
    (real_settings.data_root / "00002.png").write_bytes(b"no picture, and long enough to be one")
    producer = new_producer(18, pin=pin)
    runtime = Runtime(real_settings)
    chunks = [chunk_of(real_settings, first, min(4, 18 - first), pin) for first in range(0, 18, 4)]
    classifier = runtime.classifier(pin)
    direct = [row for chunk in chunks for row in label_chunk(chunk, classifier, real_settings.data_root).rows]
    classifier.close()

    with really_working(real_settings):
        producer.finish()

    rows = list(producer.run.rows())
    assert [row.path for row in rows] == [f"{number:05d}.png" for number in range(18)]
    assert [(tuple(row.top), row.error, row.detail, row.width, row.height) for row in rows] == [
        (row.top, row.error, row.detail, row.width, row.height) for row in direct
    ]
    assert [row.input_index for row in rows if row.error] == [2]
    assert producer.run.sent() == []


def test_a_finished_run_leaves_only_the_board_and_kombus_bindings(
    desk: Desk, client: redis.Redis, new_producer: NewProducer
) -> None:
    producer = new_producer(20)
    JobBoard(client, KEYS).add("inbox-1", kind="label", title="inbox")
    client.rpush(KEYS.inputs("inbox-1"), "a detached run's inputs")
    with working(desk):
        lives = [client.ttl(KEYS.results("inbox-1")) for _ in in_time(producer.gatherer.gather())]

    assert producer.run.done == 20
    assert max(lives) > 6 * 24 * 3600  # rows that nobody gathers go away by themselves
    left = [key for key in client.scan_iter() if "_kombu.binding" not in key and key != f"{PREFIX}unacked_mutex"]
    assert sorted(left) == sorted([KEYS.job("inbox-1"), KEYS.jobs, KEYS.newest])
    assert all(key.startswith(PREFIX) for key in client.scan_iter())


def test_never_more_than_the_window_waits_in_redis(
    desk: Desk, new_producer: NewProducer, redis_server: RedisServer
) -> None:
    producer = new_producer(24, chunk_images=1)
    desk.engine.seconds = 0.04
    watcher = Watcher(redis_server)
    watcher.start()

    with working(desk):
        producer.finish()
    watcher.stop()

    assert len(desk.answered) == 24
    # One more may be lent: its rows are out, and its worker is about to acknowledge it.
    assert max(waits for waits, _ in watcher.seen) <= 3
    assert 3 <= max(both for _, both in watcher.seen) <= 4


def test_a_window_of_one_chunk_still_ends(desk: Desk, new_producer: NewProducer) -> None:
    producer = new_producer(10, window_chunks=1)

    with working(desk):
        producer.finish()

    assert sorted(desk.answered) == [0, 4, 8]


def test_two_runs_on_one_worker_both_end_with_their_own_rows(
    desk: Desk, settings: Settings, new_producer: NewProducer
) -> None:
    long, short = new_producer(24, name="long"), new_producer(6, name="short", chunk_images=2)
    runtime = Desk(settings)
    assert isinstance(settings.data_root, Path)
    expected = [row.top[0] for row in label_chunk(chunk_of(settings, 0, 24), runtime.mean, settings.data_root).rows]
    runtime.mean.close()

    with working(desk):
        for _ in zip_longest(long.gatherer.gather(), short.gatherer.gather()):
            pass

    assert labelled(long.run) == expected
    assert labelled(short.run) == expected[:6]
    assert len(set(expected)) > 12  # rows in a wrong order would be seen


def test_a_small_run_that_starts_later_ends_before_a_large_one(desk: Desk, new_producer: NewProducer) -> None:
    desk.engine.seconds = 0.05
    large = new_producer(24, name="large")
    small = new_producer(8, name="small")
    runs = {"large": large.gatherer.gather(), "small": small.gatherer.gather()}
    next(runs["large"])
    next(runs["large"])  # its window is on the queue
    ended = []

    with working(desk):
        while runs:
            for name, gathering in list(runs.items()):
                if next(gathering, None) is None:
                    ended.append(name)
                    del runs[name]

    assert ended == ["small", "large"]
    assert len(labelled(large.run)) == 24
    assert len(labelled(small.run)) == 8


def test_a_run_with_nothing_left_to_do_asks_no_worker(client: redis.Redis, new_producer: NewProducer) -> None:
    producer = new_producer(0)

    producer.finish(limit_s=1)

    assert client.keys() == []


def test_a_worker_reads_nothing_outside_its_data_root(
    desk: Desk, settings: Settings, new_producer: NewProducer, tmp_path: Path
) -> None:
    (tmp_path / "secret.png").write_bytes((tmp_path / "data" / "00000.png").read_bytes())
    producer = new_producer(3)
    producer.run._db.execute("UPDATE inputs SET path = '../secret.png' WHERE idx = 1")

    with working(desk):
        producer.finish()

    assert [row.error for row in producer.run.rows()] == [None, "outside_data_root", None]
