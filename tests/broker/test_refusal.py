"""Runs that no worker can label end soon and say why; what is only away is waited for, and not for ever."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import redis

from base.errors import UnavailableError
from configs.settings import Settings
from jobs.board import JobBoard
from jobs.label import ChunkResult
from jobs.messages import SCHEMA_VERSION, from_json, to_json
from jobs.train import JobEvent, TrainModel
from producer.errors import RunRefused
from tests.broker.conftest import (
    HOSTNAME,
    KEYS,
    Desk,
    NewProducer,
    Producer,
    chunk_of,
    enqueue,
    in_time,
    labelled,
    queued,
    really_working,
    stored_pin,
    waiting,
    with_arguments,
    working,
)
from tests.conftest import wait_until
from worker.runner import wait_s
from worker.runtime import ATTEMPTS
from worker.train.handler import TrainHandler


@pytest.fixture
def store(real_settings: Settings, tmp_path: Path) -> Path:
    """A copy of the store, to be spoilt."""
    copy = tmp_path / "store"
    shutil.copytree(real_settings.store_root, copy)
    return copy


def refused(producer: Producer, match: str, within_s: float = 15) -> float:
    started = time.monotonic()
    with pytest.raises(RunRefused, match=match):
        producer.finish(limit_s=within_s)
    assert producer.run.done == 0
    return time.monotonic() - started


def test_a_version_that_the_worker_does_not_have_is_refused(real_settings: Settings, new_producer: NewProducer) -> None:
    pin = stored_pin(real_settings).model_copy(update={"version": 7})
    producer = new_producer(pin=pin)

    with really_working(real_settings):
        refused(producer, r" refuses this run: model colours:7: model colours has no version 7 \(it has 1\)")


def test_a_model_that_the_worker_does_not_have_is_refused(real_settings: Settings, new_producer: NewProducer) -> None:
    producer = new_producer(pin=stored_pin(real_settings).model_copy(update={"name": "shapes"}))

    with really_working(real_settings):
        refused(producer, r"no model 'shapes' in .* \(it has colours\)")


def test_another_version_of_the_same_number_is_refused(real_settings: Settings, new_producer: NewProducer) -> None:
    producer = new_producer(pin=stored_pin(real_settings).model_copy(update={"digest": "ab" * 32}))

    with really_working(real_settings):
        refused(producer, "holds another colours:1 than the producer saw; use one store for both")


@pytest.mark.parametrize("filename", ["serving.onnx", "golden.npz", "manifest.json"])
def test_a_changed_byte_in_the_store_is_refused(
    real_settings: Settings, store: Path, new_producer: NewProducer, filename: str
) -> None:
    pin = stored_pin(real_settings)
    path = store / "colours" / "versions" / "0001" / filename
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    producer = new_producer(pin=pin)

    with really_working(real_settings.model_copy(update={"store": store})):
        refused(producer, "model colours:1: .*0001/" + filename)


def test_golden_images_answered_otherwise_are_refused(
    real_settings: Settings, new_producer: NewProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*_: object) -> float:
        from vision.errors import EngineError

        raise EngineError("mean answers the golden images with a difference of 0.4")

    monkeypatch.setattr("worker.runtime.replay", other)
    producer = new_producer(pin=stored_pin(real_settings))

    with really_working(real_settings):
        refused(producer, "model colours:1: mean answers the golden images with a difference of 0.4")


def test_a_missing_data_root_is_waited_for_longer_each_time_and_then_refused(
    desk: Desk, settings: Settings, new_producer: NewProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.run.refusals.PATIENCE_S", 2.5)
    assert isinstance(settings.data_root, Path)
    settings.data_root.rename(settings.data_root.with_name("unmounted"))
    looks: list[float] = []
    is_dir = Path.is_dir

    def watched(path: Path) -> bool:
        if path == settings.data_root:
            looks.append(time.monotonic())
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", watched)
    producer = new_producer(4)

    with working(desk):
        refused(producer, "UnavailableError: the data root .* is not there; is the share mounted")

    assert looks[1] - looks[0] >= 0.9
    assert looks[2] - looks[1] >= 1.9


def test_a_data_root_that_comes_back_costs_nothing_but_time(
    desk: Desk, settings: Settings, new_producer: NewProducer
) -> None:
    assert isinstance(settings.data_root, Path)
    away = settings.data_root.with_name("unmounted")
    settings.data_root.rename(away)
    producer = new_producer(8)

    with working(desk):
        gathering = producer.gatherer.gather()
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            next(gathering)
        away.rename(settings.data_root)
        for _ in in_time(gathering):
            pass

    assert len(labelled(producer.run)) == 8


def test_a_missing_store_is_waited_for_and_then_refused(
    real_settings: Settings, new_producer: NewProducer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.run.refusals.PATIENCE_S", 1)
    producer = new_producer(4, pin=stored_pin(real_settings))

    with really_working(real_settings.model_copy(update={"store": tmp_path / "unmounted"})):
        refused(producer, "StoreUnavailable: the model store .* does not exist; mount it")


@pytest.mark.parametrize(
    ("retries", "visibility_timeout_s", "wait"), [(0, 10, 1), (2, 10, 4), (3, 10, 5), (9, 3, 1.5), (9, 60, 15)]
)
def test_a_waiting_message_is_taken_up_before_its_lease_runs_out(
    retries: int, visibility_timeout_s: int, wait: float
) -> None:
    assert wait_s(retries, visibility_timeout_s) == wait


def test_an_engine_that_fails_is_tried_again_before_the_run_is_refused(
    desk: Desk, new_producer: NewProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.run.refusals.PATIENCE_S", 2)

    def broken(*_: object) -> None:
        desk.engine.chunks_started += 1
        raise MemoryError("out of device memory")

    monkeypatch.setattr(desk.engine, "submit", broken)

    with working(desk):
        refused(new_producer(4), "MemoryError: out of device memory")

    assert desk.engine.chunks_started >= 2


def test_a_refusal_left_by_an_earlier_try_does_not_end_the_next_one(
    desk: Desk, client: redis.Redis, new_producer: NewProducer
) -> None:
    producer = new_producer(12)
    refusal = ChunkResult(run="inbox-1", first=0, refused="model colours:1: not here yet", worker=HOSTNAME)
    client.xadd(producer.stream, {"json": to_json(refusal)})

    with working(desk):  # somebody has put the model there, and repeats the command
        producer.finish()

    assert len(labelled(producer.run)) == 12
    assert producer.warnings == []


def test_a_producer_newer_than_all_workers_is_refused_with_the_side_to_update_and_loses_nothing(
    desk: Desk, client: redis.Redis, new_producer: NewProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = new_producer(12)
    JobBoard(client, KEYS).add("inbox-1", kind="label", title="inbox")
    with working(desk):
        with monkeypatch.context() as newer:
            newer.setattr("producer.run.enqueue.to_json", lambda chunk: _of_later_schema(to_json(chunk)))
            refused(producer, rf" refuses this run: .* schema version {SCHEMA_VERSION + 1}, .* side of the worker")
        # They went back, for workers that know this version, and show no paths to who looks at the queue.
        wait_until(lambda: waiting(client) == 3, 5, "the queued chunks")
        assert set(queued(client)) == {f"inbox chunk {number}/3, 4 images" for number in (1, 2, 3)}
        client.flushdb()
        again = new_producer(run=producer.run, stale_s=2)
        again.finish()

    assert len(labelled(again.run)) == 12


def test_a_worker_newer_than_the_producer_is_named_and_loses_nothing(
    desk: Desk, client: redis.Redis, new_producer: NewProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = _of_later_schema(to_json(ChunkResult(run="inbox-1", first=0, worker="label-9@new")))
    with monkeypatch.context() as alone:
        alone.setattr("producer.local.session.Session.workers", lambda *_: ["label-9@new"])
        producer = new_producer(12)
        gathering = producer.gatherer.gather()
        next(gathering)
        next(gathering)
        client.xadd(producer.stream, {"json": newer})
        with pytest.raises(
            RunRefused,
            match=rf"worker label-9@new sent .* schema version {SCHEMA_VERSION + 1}, .* side of the producer",
        ):
            for _ in in_time(gathering):
                pass

    client.xadd(producer.stream, {"json": newer})  # what came meanwhile stops no later try
    again = new_producer(run=producer.run)
    with working(desk):
        again.finish()
    assert len(labelled(again.run)) == 12


def _of_later_schema(text: str) -> str:
    return text.replace(f'"schema_version":{SCHEMA_VERSION}', f'"schema_version":{SCHEMA_VERSION + 1},"more":[]')


def test_what_a_command_has_left_does_not_go_round_for_ever(
    desk: Desk, settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.runner.RETURNS", 3)
    assert isinstance(settings.data_root, Path)
    settings.data_root.rename(settings.data_root.with_name("unmounted"))

    with working(desk):
        enqueue(client, with_arguments(to_json(chunk_of(settings, 0))))
        wait_until(lambda: waiting(client) == client.hlen(KEYS.unacked) == 0 and desk.answered, 10, "the end of it")

    assert desk.answered == [0]  # that it could not be done


def test_a_training_job_that_waits_for_its_surroundings_is_not_taken_for_one_that_kills_its_processes(
    desk: Desk, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.runner.LONGEST_WAIT_S", 0)
    attempts: list[int] = []

    def work(handler: TrainHandler, attempt: int) -> JobEvent:
        attempts.append(attempt)
        if len(attempts) <= ATTEMPTS + 1:
            raise UnavailableError("the data root is not there")
        return JobEvent(job=handler.job.job, state="done", text="published m:1")

    monkeypatch.setattr(TrainHandler, "work", work)
    desk.board.add("train-1", kind="train", title="train")
    with working(desk):
        text = to_json(TrainModel(job="train-1", dataset="d", name="m", recipe={}))
        enqueue(client, with_arguments(text, task=TrainModel.task))
        wait_until(lambda: client.hget(KEYS.job("train-1"), "state") == "done", 20, "the end of the job")

    events = [from_json(JobEvent, values["json"]) for _, values in client.xrange(KEYS.results("train-1"))]
    assert attempts == [1] * (ATTEMPTS + 2)
    assert [event.text for event in events] == ["waiting: the data root is not there"] * (ATTEMPTS + 1) + [
        "published m:1"
    ]


def test_a_newer_training_job_ends_with_the_side_to_update(desk: Desk, client: redis.Redis) -> None:
    desk.board.add("train-1", kind="train", title="train")
    with working(desk):
        for job in ("train-1", "train-of-a-stranger"):
            text = json.dumps({"schema_version": SCHEMA_VERSION + 1, "job": job, "network": "of another time"})
            enqueue(client, with_arguments(text, task=TrainModel.task))
        wait_until(lambda: waiting(client) == client.hlen(KEYS.unacked) == 0, 10, "an empty queue")

    [(_, values)] = client.xrange(KEYS.results("train-1"))
    event = from_json(JobEvent, values["json"])
    assert event.state == "failed"
    assert "side of the worker" in event.text
    known = desk.board.get("train-1")
    assert known is not None
    assert known.state == "failed"
    assert client.exists(KEYS.results("train-of-a-stranger")) == 0
