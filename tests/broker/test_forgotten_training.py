"""Training jobs that Redis loses: queued again by whoever follows them, or told with what to do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import producer.training.events
from configs.settings import Settings
from jobs.messages import to_json
from jobs.train import JobEvent, TrainModel
from producer.local.session import Session, open_session
from producer.training.events import JobLost, follow
from producer.training.jobs import enqueue_training
from tests.conftest import RedisServer, wait_until

JOB = TrainModel(job="train-m-1", dataset="d", name="m", recipe={})
LONGER = JOB.model_copy(update={"job": "train-m-1-t01"})  # its name holds the other's


@pytest.fixture
def session(redis_server: RedisServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """An open connection without any worker, that misses a job after a second."""
    monkeypatch.setattr(producer.training.events, "BOARD_EVERY_S", 0.1)
    with open_session(Settings(home=home, broker=redis_server.url, data_root=Path("/"), stale_s=1.0)) as opened:
        yield opened


def silences(events: Iterator[object], count: int) -> None:
    """Follow until nothing was heard ``count`` times, a second each, in a row."""
    for _ in range(count):
        assert next(events) is None


def finish(session: Session) -> None:
    session.client.xadd(
        session.keys.results(JOB.job), {"json": to_json(JobEvent(job=JOB.job, state="done", text="published"))}
    )


def test_a_job_that_redis_forgot_is_queued_again(session: Session) -> None:
    enqueue_training(session, JOB)
    events = follow(session, [JOB.job], [JOB])
    silences(events, 3)  # longer than it takes to miss a job, but it is on the queue
    assert session.client.llen(session.keys.queue("train")) == 1

    session.client.flushall()
    enqueue_training(session, LONGER)  # another one on the queue is not this one
    said = next(event for event in events if event is not None)

    assert said.text == "Redis had lost this job; it is queued again"
    assert session.client.llen(session.keys.queue("train")) == 2
    board = session.board.get(JOB.job)
    assert board is not None
    assert board.state == "queued"
    finish(session)
    assert [event.state for event in events if event is not None] == ["done"]


def test_a_training_of_high_priority_is_the_next_and_one_of_low_priority_the_last(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.state.SILENT_S", 0.0)
    for name, priority in (("low", "low"), ("first", "normal"), ("second", "normal"), ("high", "high")):
        asked = replace(session, settings=session.settings.model_copy(update={"priority": priority}))
        enqueue_training(asked, JOB.model_copy(update={"job": name}))

    assert [state.state for state in session.board.jobs()] == ["queued"] * 4  # all are found in their lists
    silences(follow(session, ["low"]), 3)
    popped = [session.client.brpop(session.keys.queues("train"), timeout=1) for _ in range(4)]
    assert [json.loads(message)["headers"]["kwargsrepr"] for _, message in popped] == ["high", "first", "second", "low"]


def test_a_job_that_a_worker_holds_is_not_queued_again_however_silent_it_is(session: Session) -> None:
    enqueue_training(session, JOB)
    message = session.client.lpop(session.keys.queue("train"))
    session.client.hset(session.keys.unacked, "tag", f'[{message}, "", "train"]')
    session.client.delete(session.keys.job(JOB.job))

    silences(follow(session, [JOB.job], [JOB]), 4)

    assert session.client.llen(session.keys.queue("train")) == 0


def test_a_job_is_not_queued_again_while_its_worker_gives_signs_of_life(session: Session) -> None:
    enqueue_training(session, JOB)
    session.client.flushall()
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(0.3):
            session.board.keep(JOB.job, kind="train", title="train m")

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        wait_until(lambda: session.board.get(JOB.job) is not None, 10, "the worker's sign")
        silences(follow(session, [JOB.job], [JOB]), 4)
    finally:
        ended.set()
        worker.join(20)

    assert session.client.llen(session.keys.queue("train")) == 0


def test_whoever_can_not_queue_it_again_is_told_what_to_do(session: Session) -> None:
    enqueue_training(session, JOB)
    session.client.flushall()

    with pytest.raises(JobLost, match=r"lost job train-m-1: it was flushed.* run the same `sortline train` again"):
        list(follow(session, [JOB.job]))


def test_a_job_that_comes_back_on_the_board_keeps_a_cancel_that_came_before(session: Session) -> None:
    session.board.ask_to_cancel(JOB.job)

    session.board.keep(JOB.job, kind="train", title="train m on d")

    state = session.board.get(JOB.job)
    assert state is not None
    assert (state.state, state.title, session.board.is_cancelled(JOB.job)) == ("running", "train m on d", True)
    assert [found.job for found in session.board.jobs()] == [JOB.job]
