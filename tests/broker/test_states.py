"""What `sortline jobs` and Flower say of a job is true, whoever is gone."""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from jobs.board import JobBoard
from jobs.broker import passwords
from jobs.state import images_labelled
from jobs.train import TrainModel
from producer.__main__ import run as run_command
from producer.local.session import Session
from producer.run.connection import announce
from producer.run.detached import send_all, upload
from producer.run.events import reported
from tests.broker.conftest import KEYS, Desk, NewProducer, Producer, in_time, look, waiting, working
from tests.conftest import wait_until

RUN = "inbox-1"
pytestmark = pytest.mark.usefixtures("in_environment")


def passwords_of(session: Session) -> str:
    (password,) = passwords(session.settings)
    return password


def detached(session: Session, producer: Producer) -> None:
    """What `sortline label --detach` does."""
    run = producer.run
    announce(session, run)
    upload(session.client, KEYS, run)
    send_all(run, producer.sender, tuple, window=2)


def test_a_detached_run_shows_what_workers_have_labelled_and_that_it_waits_for_gather(
    desk: Desk, session: Session, new_producer: NewProducer, capsys: pytest.CaptureFixture[str]
) -> None:
    producer = new_producer(24)
    detached(session, producer)
    before = look(session)
    desk.engine.seconds = 0.2
    middle = None

    with working(desk):
        wait_until(lambda: len(desk.answered) > 1, 20, "some chunks")
        middle = look(session)
        desk.engine.seconds = 0.0
        wait_until(lambda: len(desk.answered) == 6, 20, "all chunks")
        assert run_command(["jobs", "watch", RUN]) == 0
    watched = capsys.readouterr().out.strip()
    after = look(session)
    assert run_command(["jobs", "list"]) == run_command(["jobs", "show", RUN]) == 0
    listed = capsys.readouterr().out

    assert (before.state, before.text) == ("queued", "0 of 24 images")
    assert middle.state == "running"
    assert middle.text in {f"{done} of 24 images" for done in (8, 12, 16, 20)}
    assert (after.state, after.done) == ("labelled", 24)
    assert after.text == "24 of 24 images are labelled; to get the report: sortline jobs gather inbox-1"
    assert after.updated >= before.updated
    assert watched == f"inbox-1 labelled: {after.text}"
    assert listed.count("labelled") >= 2
    assert listed.count(after.text) == 2
    producer.finish()
    assert not session.client.exists(KEYS.labelled(RUN))


def test_a_cancelled_run_stays_cancelled_when_gather_is_refused(
    desk: Desk, session: Session, new_producer: NewProducer, capsys: pytest.CaptureFixture[str]
) -> None:
    producer = new_producer(24)
    detached(session, producer)
    producer.run.close()
    assert run_command(["jobs", "cancel", RUN]) == 0

    with working(desk):
        assert run_command(["jobs", "gather", RUN, "-o", "report.csv"]) == 1
        wait_until(lambda: not waiting(session.client), 20, "workers to drop its chunks")
    assert "run inbox-1 was cancelled after 0 of 24 images" in capsys.readouterr().err
    assert run_command(["jobs", "watch", RUN]) == 1

    found = look(session)
    assert (found.state, found.text) == ("cancelled", "0 of 24 images were labelled")
    assert session.board.get(RUN).state == "cancelled"  # type: ignore[union-attr]


def test_a_run_cancelled_while_it_is_gathered_says_how_far_it_came(
    session: Session, new_producer: NewProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.run.gather.CANCEL_CHECK_S", 0.0)
    producer = new_producer(24)
    announce(session, producer.run)
    gathering = reported(session, producer.run, producer.gatherer.gather())
    next(gathering)
    next(gathering)
    session.board.ask_to_cancel(RUN)
    assert look(session).state == "cancelled"  # at once
    with pytest.raises(Exception, match="was cancelled"):
        list(in_time(gathering))

    found = look(session)
    assert (found.state, found.text) == ("cancelled", "run inbox-1 was cancelled after 0 of 24 images")


@pytest.mark.parametrize("how", ["interrupted", "failed", "killed"])
def test_a_command_that_is_gone_says_how_far_it_came_and_what_goes_on_with_it(
    how: str, desk: Desk, session: Session, new_producer: NewProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["sortline", "label", "my photos", "--broker", session.settings.broker or ""]
    monkeypatch.setattr(sys, "argv", argv)
    desk.engine.seconds = 0.1
    producer = new_producer(24)
    announce(session, producer.run)
    gathering = reported(session, producer.run, producer.gatherer.gather())
    with working(desk):
        wait_until(lambda: next(gathering).done >= 8, 20)
        assert look(session).state == "running"
        if how == "interrupted":
            gathering.close()  # type: ignore[attr-defined]
        elif how == "failed":
            monkeypatch.setattr(producer.gatherer, "_step", lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                next(gathering)
        else:  # what `kill -9` leaves, once its signs are old
            session.client.delete(KEYS.holder(RUN))
            assert look(session).state == "queued"  # it may be about to begin
            session.client.hset(KEYS.job(RUN), "updated", str(time.time() - 60))
        wait_until(lambda: not waiting(session.client), 20, "the end of what was queued")

    found = look(session)
    done = found.done
    assert (found.state, 8 <= done <= 24) == ("interrupted", True)
    command = shlex.join(["sortline", *argv[1:]]).replace(passwords_of(session), "***")  # the password of the broker
    why = "; division by zero" if how == "failed" else ""
    assert found.text.startswith(f"{done} of 24 images{why}; to go on, on ")
    assert found.text.endswith(f": {command}")
    assert run_command(["jobs", "watch", RUN]) == 1
    gathering.close()  # type: ignore[attr-defined]


def test_a_run_that_goes_on_elsewhere_is_running_and_is_followed(
    desk: Desk, session: Session, new_producer: NewProducer, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.engine.seconds = 0.05
    producer = new_producer(24)
    announce(session, producer.run)
    codes: list[int] = []
    watching = threading.Thread(target=lambda: codes.append(run_command(["jobs", "watch", RUN])), daemon=True)
    with working(desk):
        for number, _ in enumerate(in_time(reported(session, producer.run, producer.gatherer.gather()))):
            if number == 1:
                watching.start()
    session.board.update(RUN, state="done", text="24 rows, 0 failed")
    watching.join(20)

    assert codes == [0]
    assert capsys.readouterr().out.strip() == "inbox-1 done: 24 rows, 0 failed"


@pytest.mark.parametrize("where", ["nowhere", "queued"])
def test_a_training_that_no_worker_is_at_is_interrupted_unless_it_is_queued(where: str, session: Session) -> None:
    session.board.add("train-1", kind="train", title="train digits")
    session.board.update("train-1", state="running", text="epoch 3 of 9")
    if where == "queued":
        session.client.lpush(KEYS.queue(TrainModel.queue), '{"headers": {"kwargsrepr": "train-1"}}')
    assert look(session, "train-1").state == "running"
    session.client.hset(KEYS.job("train-1"), "updated", str(time.time() - 100))

    found = look(session, "train-1")

    assert found.state == ("interrupted" if where == "nowhere" else "running")
    assert found.text.startswith("epoch 3 of 9; no worker is at it" if where == "nowhere" else "epoch 3 of 9")


@pytest.mark.parametrize(
    ("chunks", "done"),
    [
        ({}, 0),
        ({"0": "4", "8": "4"}, 8),
        ({"0": "8", "4": "8", "4.5": "7", "x": "1", "2": "-1"}, 12),  # overlapping; and what no Sortline wrote
        ({"0": "4", "20": "999"}, 8),
    ],
)
def test_images_that_two_chunks_have_are_counted_once(chunks: dict[str, str], done: int) -> None:
    assert images_labelled(chunks, 24) == done


@pytest.mark.parametrize("key", ["labelled", "inputs"])
def test_a_strangers_key_hides_no_run(key: str, session: Session, new_producer: NewProducer) -> None:
    announce(session, new_producer(24).run)
    session.client.set(getattr(KEYS, key)(RUN), "text")

    assert [job.job for job in session.board.jobs()] == [RUN]


def test_flower_shows_the_states_of_the_board(
    desk: Desk, session: Session, new_producer: NewProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = os.umask(0o022)
    try:
        from jobs import monitored
    finally:
        os.umask(mask)  # Flower's process has one of its own

    monkeypatch.setattr(monitored, "board", monitored.Board(session.settings))
    detached(session, new_producer(24))
    with working(desk):
        wait_until(lambda: len(desk.answered) == 6, 20, "all chunks")

    task = SimpleNamespace(
        name="sortline.label_run", uuid=RUN, state="PENDING", args="'label inbox'", kwargs=None, result=None,
        exception=None, root=None, parent=None,
    )  # fmt: skip
    shown = monitored.shown(task)

    assert (shown.state, shown.args) == ("SUCCESS", "label inbox")
    assert shown.result.startswith("labelled: 24 of 24 images are labelled")
    JobBoard(session.client, KEYS).update(RUN, state="cancelled", text="0 of 24 images were labelled")
    assert monitored.shown(task).state == "REVOKED"


def test_a_detached_run_is_announced_to_flower(session: Session, new_producer: NewProducer) -> None:
    from producer.run.events import announce

    pubsub = session.client.pubsub()
    pubsub.psubscribe("*celeryev*")
    wait_until(lambda: session.client.pubsub_numpat(), 10, "the subscription")

    announce(session, new_producer(4).run)

    seen = [str(pubsub.get_message(timeout=2)) for _ in range(3)]
    assert any("sortline.label_run" in text or "task.sent" in text for text in seen)
