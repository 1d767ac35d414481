"""Producers that meet at one run, on one host or on several: one report each, or a refusal that names the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from configs.settings import Settings
from jobs.board import JobBoard
from jobs.errors import MessageError
from jobs.label import LabelChunk
from producer.errors import RunHeld, UsageError
from producer.local.session import Session
from producer.run.detached import download, find_detached, upload
from producer.run.hold import Hold
from producer.runfile import RunFile
from tests.broker.conftest import (
    KEYS,
    Desk,
    NewProducer,
    Producer,
    in_time,
    labelled,
    new_run,
    plan_of,
    queued,
    waiting,
    working,
)
from tests.conftest import free_port


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.run.hold.RENEW_S", 0.1)
    monkeypatch.setattr("producer.run.hold.HOLD_S", 2)
    monkeypatch.setattr("producer.run.gather.CANCEL_CHECK_S", 0.1)
    monkeypatch.setattr("producer.run.window.SURE_LOST_S", 0.6)


@pytest.fixture
def first(client: redis.Redis, new_producer: NewProducer) -> Producer:
    """The host that sent a detached run."""
    made = new_producer(24)
    JobBoard(client, KEYS).add("inbox-1", kind="label", title="inbox")
    upload(client, KEYS, made.run)
    return made


@pytest.fixture
def second(client: redis.Redis, settings: Settings, tmp_path: Path, first: Producer) -> Iterator[Producer]:
    """Another host that gathers it."""
    run = download(client, KEYS, "inbox-1", tmp_path / "elsewhere" / "runs" / "inbox-1.run")
    made = Producer(settings, client, run)
    yield made
    made.close()


def test_a_run_that_was_gathered_elsewhere_is_labelled_anew_by_the_host_that_sent_it(
    desk: Desk, first: Producer, second: Producer
) -> None:
    with working(desk):
        second.finish()
        first.finish()

    assert labelled(first.run) == labelled(second.run)
    assert first.run.done == 24


def test_a_host_that_comes_third_learns_who_gathered_the_run(
    desk: Desk, client: redis.Redis, settings: Settings, tmp_path: Path, second: Producer
) -> None:
    with working(desk):
        second.finish()

    session = Session(settings.model_copy(update={"home": tmp_path / "third"}), client)
    with pytest.raises(UsageError, match=r"run inbox-1 was gathered by process \d+ on "):
        find_detached(session, "inbox-1")


def test_a_run_that_ends_elsewhere_while_its_inputs_are_read_is_no_damaged_one(
    client: redis.Redis, settings: Settings, tmp_path: Path, first: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = JobBoard(client, KEYS)

    def ends(*_: object) -> None:
        client.delete(KEYS.inputs("inbox-1"))
        with client.pipeline() as pipeline:
            board.end_work(pipeline, "inbox-1", "process 7 on \x1b[31mred")
            pipeline.execute()
        raise MessageError("its inputs are not those of its plan")

    monkeypatch.setattr("producer.run.detached._inputs", ends)
    session = Session(settings.model_copy(update={"home": tmp_path / "third"}), client)
    with pytest.raises(UsageError, match=r"run inbox-1 was gathered by process 7 on \\x1b\[31mred; only there"):
        find_detached(session, "inbox-1")


def test_of_two_producers_at_once_one_gathers_and_the_other_learns_of_it(
    desk: Desk, first: Producer, second: Producer
) -> None:
    gathering = first.gatherer.gather()
    next(gathering)
    next(gathering)
    with working(desk):
        refused = second.gatherer.gather()
        next(refused)
        with pytest.raises(RunHeld, match=r"run inbox-1 is in use by process \d+ on .*; wait for it or stop it"):
            all(next(gathering) and next(refused) for _ in range(40))
        for _ in in_time(gathering):
            pass

    assert len(labelled(first.run)) == 24
    assert second.run.done == 0


def test_a_producer_goes_on_where_another_host_has_died(desk: Desk, first: Producer, second: Producer) -> None:
    gathering = first.gatherer.gather()
    next(gathering)
    next(gathering)

    with working(desk):
        waits = {progress.waiting.partition(";")[0] for progress in in_time(second.gatherer.gather())}

    assert "another producer was at this run" in waits
    assert len(labelled(second.run)) == 24


def test_a_producer_that_stood_still_while_another_ended_its_run_labels_the_rest(
    desk: Desk, first: Producer, second: Producer
) -> None:
    gathering = first.gatherer.gather()
    next(gathering)
    next(gathering)
    time.sleep(2.2)  # its hold expires

    with working(desk):
        second.finish()
        for _ in in_time(gathering):
            pass

    assert labelled(first.run) == labelled(second.run)


def test_a_producer_that_lost_its_run_to_another_deletes_nothing_of_it(
    client: redis.Redis, first: Producer, second: Producer
) -> None:
    mine, theirs = (Hold(client, KEYS, producer.run) for producer in (first, second))
    assert mine.take()
    time.sleep(2.2)  # its hold expires
    assert theirs.take()

    mine.release(lambda pipeline: pipeline.delete(KEYS.inputs("inbox-1")))

    assert client.exists(KEYS.inputs("inbox-1"), KEYS.holder("inbox-1")) == 2
    theirs.release()
    assert not client.exists(KEYS.holder("inbox-1"))


def test_a_killed_producer_s_run_is_gathered_by_the_same_command_at_once(client: redis.Redis, first: Producer) -> None:
    assert Hold(client, KEYS, first.run).take()

    assert Hold(client, KEYS, first.run).take()


def others_chunks(settings: Settings, new_producer: NewProducer) -> None:
    """Chunks of another run, which no worker takes."""
    run = RunFile.create(settings.home / "runs" / "other.run", plan_of(settings, "other"), ["00000.png"] * 9)
    gathering = new_producer(run=run).gatherer.gather()
    next(gathering)
    next(gathering)


def test_a_chunk_lost_behind_another_run_s_is_sent_again_at_once(
    client: redis.Redis, settings: Settings, new_producer: NewProducer
) -> None:
    others_chunks(settings, new_producer)
    gathering = new_producer(12).gatherer.gather()
    next(gathering)
    next(gathering)
    assert client.lpop(KEYS.queue(LabelChunk.queue))  # the newest, before its worker could note it

    started, said = time.monotonic(), set()
    while waiting(client) < 6:
        said.add(next(gathering).waiting)
        assert time.monotonic() - started < 5
    assert [text.split(",")[0] for text in queued(client)][-3:] == [f"inbox chunk {number}/3" for number in (1, 2, 3)]
    assert "3 chunks of other runs are queued or at work too" in said


def test_what_redis_forgot_is_sent_again_at_once_though_another_run_has_chunks_there(
    client: redis.Redis, settings: Settings, new_producer: NewProducer
) -> None:
    run = new_run(settings, 12)
    for chunk in (0, 4, 8):
        run.note_sent(chunk, 4)  # by an earlier producer; Redis was flushed since
    others_chunks(settings, new_producer)

    gathering = new_producer(run=run).gatherer.gather()
    next(gathering)
    next(gathering)

    assert waiting(client) == 6


def test_a_redis_that_goes_away_while_the_hold_is_looked_at_is_no_other_producer(
    client: redis.Redis, first: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = redis.client.Pipeline.get

    def cut(pipeline: redis.client.Pipeline, name: str) -> object:
        pipeline.connection.disconnect()  # and it can't be reached again
        pipeline.connection.port = free_port()
        return get(pipeline, name)

    monkeypatch.setattr(redis.client.Pipeline, "get", cut)

    with pytest.raises(redis.ConnectionError, match="Connection refused"):
        Hold(client, KEYS, first.run).take()
