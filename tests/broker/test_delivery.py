"""What a broker may do to messages: lose them, repeat them, forget everything, hold what isn't ours. No row suffers."""

from __future__ import annotations

import json
import time
from collections.abc import Collection

import pytest
import redis
from kombu.transport.redis import QoS

from configs.settings import Settings
from jobs.board import JobBoard
from jobs.label import ChunkResult, LabelChunk
from jobs.messages import to_json
from producer.errors import RunCancelled
from producer.runfile import RunFile
from tests.broker.conftest import (
    KEYS,
    Desk,
    NewProducer,
    Producer,
    answer,
    in_time,
    labelled,
    new_run,
    queued,
    waiting,
    working,
)
from tests.conftest import RedisServer, wait_until

BY_HAND = [(0, 1.0)]  # the row that ``answer`` gives


@pytest.fixture(autouse=True)
def _quickly_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.run.window.SURE_LOST_S", 0.6)


def rows_of(run: RunFile) -> list[list[tuple[int, float]]]:
    return [row.top for row in run.rows()]


def step(producer: Producer, count: int = 3) -> None:
    """Let a new gatherer look ``count`` times, and leave it as a killed producer would."""
    gathering = producer.gatherer.gather()
    for _ in range(count):
        next(gathering)
    gathering.close()


@pytest.mark.parametrize("error", [redis.TimeoutError, redis.ConnectionError])
def test_a_worker_whose_acknowledgement_does_not_get_through_goes_on(
    desk: Desk, new_producer: NewProducer, monkeypatch: pytest.MonkeyPatch, error: type[redis.RedisError]
) -> None:
    acknowledge = QoS.ack
    lost: list[str] = []

    def ack(held: QoS, tag: str) -> None:
        if not lost:
            lost.append(tag)
            raise error("as of a half-open connection")
        acknowledge(held, tag)

    monkeypatch.setattr(QoS, "ack", ack)
    producer = new_producer(12)

    with working(desk):
        for _ in in_time(producer.gatherer.gather()):
            pass

    assert len(lost) == 1
    assert len(labelled(producer.run)) == 12


def test_a_chunk_popped_and_never_noted_is_sent_again(
    desk: Desk, client: redis.Redis, new_producer: NewProducer
) -> None:
    producer = new_producer(12)
    gathering = producer.gatherer.gather()
    next(gathering)
    next(gathering)
    assert waiting(client) == 3
    assert client.lpop(KEYS.queue(LabelChunk.queue))  # kombu's loss window: BRPOP, and then the worker dies

    with working(desk):
        for _ in in_time(gathering):
            pass

    assert desk.answered == [0, 4, 8]
    assert len(labelled(producer.run)) == 12


def test_a_lost_chunk_is_sent_again_although_the_queue_is_never_empty(
    client: redis.Redis, new_producer: NewProducer
) -> None:
    producer = new_producer(12, stale_s=1)
    gathering = producer.gatherer.gather()
    next(gathering)
    next(gathering)
    lost = client.rpop(KEYS.queue(LabelChunk.queue))  # the oldest
    assert "chunk 1/3" in json.loads(lost)["headers"]["argsrepr"]
    answer(client, 4)  # a younger chunk overtakes it; chunk 3 stays on the queue, and so does 2

    wait_until(lambda: next(gathering) and waiting(client) == 3, 5, "chunk 1 comes back")

    assert [text.split(",")[0] for text in queued(client)] == ["inbox chunk 2/3", "inbox chunk 3/3", "inbox chunk 1/3"]


def test_a_chunk_that_only_waits_is_not_sent_again(client: redis.Redis, new_producer: NewProducer) -> None:
    producer = new_producer(12, stale_s=0.5)
    gathering = producer.gatherer.gather()
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        next(gathering)

    assert waiting(client) == 3


def test_a_chunk_answered_twice_has_its_first_rows(client: redis.Redis, new_producer: NewProducer) -> None:
    producer = new_producer(8)
    answer(client, 0)
    answer(client, 0, class_index=3)
    answer(client, 4)
    answer(client, 4, class_index=3)

    producer.finish()

    assert rows_of(producer.run) == [BY_HAND] * 8
    assert (producer.run.done, producer.run.failed) == (8, 0)


def test_a_late_answer_to_a_chunk_sent_twice_changes_nothing(
    desk: Desk, client: redis.Redis, new_producer: NewProducer
) -> None:
    producer = new_producer(12)
    gathering = producer.gatherer.gather()
    next(gathering)
    next(gathering)
    copies = client.lrange(KEYS.queue(LabelChunk.queue), 0, -1)
    client.rpush(KEYS.queue(LabelChunk.queue), *copies[1:])  # the first two chunks twice, before the third

    with working(desk):
        for _ in in_time(gathering):
            pass
        wait_until(lambda: desk.answered == [0, 4, 0, 4, 8], 5)

    assert producer.run.done == 12
    assert len(labelled(producer.run)) == 12


def test_answers_that_came_before_the_producer_are_taken_in_and_not_asked_for_again(
    desk: Desk, client: redis.Redis, new_producer: NewProducer
) -> None:
    producer = new_producer(12)
    answer(client, 0)
    answer(client, 8)

    with working(desk):
        producer.finish()

    assert desk.answered == [4]
    rows = rows_of(producer.run)
    assert rows[:4] == rows[8:] == [BY_HAND] * 4
    assert all(row and row != BY_HAND for row in rows[4:8])


def test_a_resumed_producer_waits_for_what_the_first_one_left_on_the_queue(
    desk: Desk, client: redis.Redis, settings: Settings, new_producer: NewProducer
) -> None:
    first = new_producer(12)
    step(first)
    assert waiting(client) == 3
    first.run.close()
    second = new_producer(run=RunFile(first.run.path))

    step(second)
    assert waiting(client) == 3  # nothing sent twice
    third = new_producer(run=second.run)
    with working(desk):
        third.finish()

    assert sorted(desk.answered) == [0, 4, 8]
    assert len(labelled(third.run)) == 12


def test_nothing_spoils_the_run_that_lies_on_its_stream(
    desk: Desk, client: redis.Redis, new_producer: NewProducer
) -> None:
    producer = new_producer(12)
    gathering = producer.gatherer.gather()
    next(gathering)
    next(gathering)
    answer(client, 0, images=3)  # a row too few
    answer(client, 4, images=5)  # one too many
    answer(client, 8, run="another", stream=producer.stream, class_index=3)
    client.xadd(producer.stream, {"json": "not JSON"})
    client.xadd(producer.stream, {"json": '{"schema_version": 99}'})
    client.xadd(producer.stream, {"json": to_json(ChunkResult(run="inbox-1", first=0))})  # no rows at all
    client.xadd(producer.stream, {"other": "field"})
    client.xadd(producer.stream, {"json": "[" * 100_000})
    next(gathering)
    assert producer.run.done == 0
    assert client.xlen(producer.stream) == 0

    with working(desk):
        for _ in in_time(gathering):
            pass

    assert BY_HAND not in rows_of(producer.run)
    assert len(labelled(producer.run)) == 12


@pytest.mark.parametrize(
    ("first", "class_index", "why"),
    [
        *((first, 0, "it sent rows past the end of run inbox-1") for first in (12, 9, 2**40)),
        (0, 4, "it sent labels that colours:1 does not have; is it up to date?"),
    ],
)
def test_rows_that_can_t_be_of_the_run_are_left_out_and_their_sender_named(
    desk: Desk, client: redis.Redis, new_producer: NewProducer, first: int, class_index: int, why: str
) -> None:
    producer = new_producer(12)
    answer(client, first, class_index=class_index)  # before the command looks: of an earlier try
    gathering = producer.gatherer.gather()
    while producer.gatherer._journal.catching_up:
        next(gathering)
    answer(client, first, class_index=class_index)

    with working(desk):
        for _ in in_time(gathering):
            pass

    assert BY_HAND not in rows_of(producer.run)
    assert len(labelled(producer.run)) == 12
    assert producer.warnings == [f"warning: by hand keeps away from this run: {why}"]


def test_rows_are_deleted_from_redis_only_once_the_run_file_has_them(
    client: redis.Redis, new_producer: NewProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = new_producer(8)
    answer(client, 0)
    left_in_redis = []
    record = RunFile.record

    def watched(run: RunFile, result: ChunkResult, without: Collection[int]) -> int:
        left_in_redis.append(client.xlen(producer.stream))
        return record(run, result, without)

    monkeypatch.setattr(RunFile, "record", watched)
    gathering = producer.gatherer.gather()
    next(gathering)
    next(gathering)

    assert left_in_redis == [1]
    assert client.xlen(producer.stream) == 0
    assert producer.run.done == 4


@pytest.mark.filterwarnings("ignore::kombu.transport.virtual.base.UndeliverableWarning")
def test_a_redis_that_forgets_everything_costs_no_row(
    desk: Desk, client: redis.Redis, new_producer: NewProducer
) -> None:
    producer = new_producer(24)
    desk.engine.seconds = 0.05
    wipes = 0

    with working(desk):
        for progress in in_time(producer.gatherer.gather()):
            if wipes < 2 and progress.done >= 4 * (wipes + 1):
                client.flushall()
                wipes += 1

    assert wipes == 2
    assert len(labelled(producer.run)) == 24


def test_a_redis_that_restarts_empty_costs_no_row(
    desk: Desk, redis_server: RedisServer, new_producer: NewProducer
) -> None:
    producer = new_producer(24)
    desk.engine.seconds = 0.05
    restarted, waited_for = False, set()

    with working(desk):
        for progress in in_time(producer.gatherer.gather()):
            waited_for.add(progress.waiting.split(",")[0])
            if not restarted and progress.done >= 4:
                redis_server.kill()
                redis_server.start()
                restarted = True

    assert restarted
    assert waited_for <= {"", "Redis is away or full"}
    assert len(labelled(producer.run)) == 24


def test_a_redis_that_goes_away_after_the_last_row_does_not_spoil_the_run(
    desk: Desk, redis_server: RedisServer, new_producer: NewProducer
) -> None:
    producer = new_producer(4)
    with working(desk):
        gathering = producer.gatherer.gather()
        while next(gathering).done < 4:
            pass

    redis_server.kill()

    assert [progress.done for progress in in_time(gathering)][-1] == 4


def test_cancelling_ends_the_producer_and_the_worker_skips_what_is_queued(
    desk: Desk, client: redis.Redis, new_producer: NewProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.run.gather.CANCEL_CHECK_S", 0.1)
    producer = new_producer(24, window_chunks=6)
    board = JobBoard(client, KEYS)
    board.add("inbox-1", kind="label", title="inbox")
    gathering = producer.gatherer.gather()
    next(gathering)
    next(gathering)
    assert waiting(client) == 6
    board.ask_to_cancel("inbox-1")

    with working(desk):
        wait_until(lambda: waiting(client) == 0 and client.hlen(KEYS.unacked) == 0, 5)
        with pytest.raises(RunCancelled, match="run inbox-1 was cancelled after 0 of 24 images"):
            for _ in in_time(gathering):
                pass

    assert desk.engine.chunks_started == 0
    assert desk.answered == []


def test_a_cancelled_run_that_is_put_on_the_board_again_goes_on(
    desk: Desk, client: redis.Redis, new_producer: NewProducer
) -> None:
    board = JobBoard(client, KEYS)
    board.add("inbox-1", kind="label", title="inbox")
    board.ask_to_cancel("inbox-1")
    producer = new_producer(8)
    with pytest.raises(RunCancelled):
        producer.finish()

    board.add("inbox-1", kind="label", title="inbox")  # the same command again
    with working(desk):
        producer.finish()

    assert len(labelled(producer.run)) == 8


def test_the_run_file_alone_decides_what_is_missing(
    desk: Desk, client: redis.Redis, settings: Settings, new_producer: NewProducer
) -> None:
    run = new_run(settings, 12)
    run.note_sent(0, 4)  # an earlier producer sent these, and Redis has forgotten them
    run.note_sent(4, 4)
    producer = new_producer(run=run)

    with working(desk):
        producer.finish()

    assert sorted(desk.answered) == [0, 4, 8]
