"""A worker that can't do a run leaves it to others; what only one worker says of an image is not taken for true."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import redis

from configs.settings import Settings
from jobs.label import ChunkResult, Row
from jobs.messages import to_json
from producer.errors import RunRefused
from producer.run.witness import SourceAway
from producer.runfile import RunFile
from producer.sources.since import InputFilter
from tests.broker.conftest import HOSTNAME, Desk, NewProducer, Producer, in_time, labelled, plan_of, working

IMAGES = 12


@pytest.fixture
def seen(settings: Settings, new_producer: NewProducer) -> Producer:
    """A producer whose run file has size and time of every image, as each command's has."""
    base = str(settings.data_root)
    paths = [f"{number:05d}.png" for number in range(IMAGES)]
    plan = plan_of(settings)
    return new_producer(run=RunFile.create(settings.home / "runs" / "seen.run", plan, paths, InputFilter(base)))


def folder(settings: Settings) -> Path:
    assert isinstance(settings.data_root, Path)
    return settings.data_root


def rooted(settings: Settings, root: Path) -> AbstractContextManager[Any]:
    """A worker whose data root is ``root``."""
    return working(Desk(settings.model_copy(update={"data_root": root})))


def answers(producer: Producer, client: redis.Redis, error: str = "not_found", worker: str = HOSTNAME) -> None:
    """Put onto the stream that a worker finds none of the first four images."""
    rows = tuple(Row(error=error, detail="it does not exist") for _ in range(4))
    message = ChunkResult(run=producer.run.plan.run, first=0, rows=rows, worker=worker)
    client.xadd(producer.stream, {"json": to_json(message)})


def begun(producer: Producer) -> Iterator[Any]:
    """Start to gather: three chunks are sent, and nobody has answered."""
    gathering = producer.gatherer.gather()
    next(gathering)
    next(gathering)
    return gathering


@pytest.mark.parametrize("kind", ["other images", "the same names", "nothing", "no folder"])
def test_a_worker_with_another_data_root_takes_no_chunk(
    seen: Producer, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("producer.run.refusals.PATIENCE_S", 1)
    other = tmp_path / "other"
    if kind != "no folder":
        other.mkdir()
    if kind == "other images":
        (other / "else.png").write_bytes(b"else")
    if kind == "the same names":
        shutil.copytree(folder(settings), other, dirs_exist_ok=True)
        for number, path in enumerate(sorted(other.iterdir())):
            path.write_bytes(path.read_bytes() + bytes([number]))

    with (
        rooted(settings, other),
        pytest.raises(RunRefused, match=f"{HOSTNAME} refuses this run: .* is the share mount"),
    ):
        seen.finish()

    assert seen.run.done == 0
    assert [line for line in seen.warnings if HOSTNAME in line] == seen.warnings != []


def test_a_worker_whose_data_root_comes_back_is_no_longer_kept_from_the_run(
    desk: Desk, seen: Producer, settings: Settings, tmp_path: Path
) -> None:
    root = folder(settings)
    mount = tmp_path / "mount"
    mount.mkdir()
    with rooted(settings, mount):
        gathering = seen.gatherer.gather()
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            next(gathering)
        shutil.copytree(root, mount, dirs_exist_ok=True)
        for _ in in_time(gathering):
            pass

    assert len(labelled(seen.run)) == IMAGES


def test_a_deleted_image_is_not_found(desk: Desk, seen: Producer, settings: Settings) -> None:
    (folder(settings) / "00001.png").unlink()

    with working(desk):
        seen.finish()

    assert [row.error for row in seen.run.rows()] == [None, "not_found"] + [None] * (IMAGES - 2)


def test_an_image_that_is_here_is_not_lost_by_a_workers_word(desk: Desk, seen: Producer, client: redis.Redis) -> None:
    gathering = begun(seen)
    answers(seen, client)
    with working(desk):
        for _ in in_time(gathering):
            pass

    assert len(labelled(seen.run)) == IMAGES


def test_a_worker_that_never_finds_what_is_here_is_refused_and_named(
    seen: Producer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.run.refusals.PATIENCE_S", 1)
    monkeypatch.setattr("producer.run.witness.AGAIN_AFTER_S", 0.1)
    monkeypatch.setattr(seen.gatherer._refusals, "_workers", lambda: [HOSTNAME])

    def answered() -> None:
        for _ in in_time(seen.gatherer.gather()):
            answers(seen, client)

    with pytest.raises(RunRefused, match=f"{HOSTNAME} refuses this run: it does not find .*00000.png: is the share"):
        answered()

    assert seen.run.done == 0


def test_a_source_that_is_away_is_waited_for(desk: Desk, seen: Producer, settings: Settings) -> None:
    desk.engine.seconds = 0.1
    away = folder(settings).with_name("away")
    with working(desk):
        gathering = in_time(seen.gatherer.gather(), 30)
        while not next(gathering).done:
            pass
        folder(settings).rename(away)
        until, said = time.monotonic() + 2, ""
        while time.monotonic() < until:
            said = next(gathering).waiting or said
        away.rename(folder(settings))
        for _ in gathering:
            pass

    assert "none of the images of inbox is there any more" in said
    assert len(labelled(seen.run)) == IMAGES
    assert seen.warnings == []  # no worker is to blame


def test_a_source_that_stays_away_ends_the_command_and_no_row_is_lost(
    desk: Desk, seen: Producer, settings: Settings, monkeypatch: pytest.MonkeyPatch, new_producer: NewProducer
) -> None:
    monkeypatch.setattr("producer.run.gather.SOURCE_LIMIT_S", 1)
    away = folder(settings).with_name("away")
    folder(settings).rename(away)
    folder(settings).mkdir()  # what an unmounted share leaves

    with working(desk), pytest.raises(SourceAway, match="is its disk or share there"):
        seen.finish()
    assert seen.run.done == 0

    folder(settings).rmdir()
    away.rename(folder(settings))
    again = new_producer(run=seen.run)
    with working(desk):
        again.finish()
    assert len(labelled(again.run)) == IMAGES


def test_a_folder_within_the_source_that_is_gone_for_a_while_costs_no_row(
    desk: Desk, settings: Settings, new_producer: NewProducer
) -> None:
    root = folder(settings)
    for name in ("a", "b"):
        (root / name).mkdir()
        for number in range(4):
            shutil.copy(root / f"{number:05d}.png", root / name / f"{number:05d}.png")
    paths = [f"{name}/{number:05d}.png" for name in ("a", "b") for number in range(4)]
    run = RunFile.create(settings.home / "runs" / "seen.run", plan_of(settings), paths, InputFilter(str(root)))
    producer = new_producer(run=run)
    (root / "b").rename(root.with_name("b-away"))

    with working(desk):
        gathering = in_time(producer.gatherer.gather(), 30)
        until = time.monotonic() + 3
        while time.monotonic() < until:
            next(gathering)
        assert run.done == 4
        root.with_name("b-away").rename(root / "b")
        for _ in gathering:
            pass

    assert len(labelled(run)) == 8


def test_a_folder_that_stays_away_is_deleted_images(
    desk: Desk, settings: Settings, new_producer: NewProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.run.witness.FOLDER_AWAY_S", 1)
    root = folder(settings)
    (root / "b").mkdir()
    for number in range(4):
        shutil.copy(root / f"{number:05d}.png", root / "b" / f"{number:05d}.png")
    paths = [f"{number:05d}.png" for number in range(4)] + [f"b/{number:05d}.png" for number in range(4)]
    run = RunFile.create(settings.home / "runs" / "seen.run", plan_of(settings), paths, InputFilter(str(root)))
    producer = new_producer(run=run)
    shutil.rmtree(root / "b")

    with working(desk):
        producer.finish()

    assert [row.error for row in run.rows()] == [None] * 4 + ["not_found"] * 4


def test_what_cannot_be_read_is_tried_once_more(
    desk: Desk, seen: Producer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathering = begun(seen)
    answers(seen, client, error="unreadable")  # a share that fails for a moment
    with working(desk):
        for _ in in_time(gathering):
            pass
    assert len(labelled(seen.run)) == IMAGES


def test_what_no_worker_may_read_is_unreadable(seen: Producer, client: redis.Redis) -> None:
    gathering = begun(seen)
    for _ in range(2):
        answers(seen, client, error="unreadable")
        next(gathering)
        next(gathering)

    assert [row.error for row in seen.run.rows(failed=True)] == ["unreadable"] * 4


def test_a_share_that_stands_still_here_does_not_hold_the_run(
    desk: Desk, seen: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = threading.Event()
    monkeypatch.setattr("producer.run.witness.LOOK_S", 0)
    monkeypatch.setattr("producer.run.witness.LOOK_LIMIT_S", 0.1)
    monkeypatch.setattr("producer.run.witness.state_of", lambda _: still.wait(60) and None)
    try:
        with working(desk):
            seen.finish(10)
    finally:
        still.set()

    assert len(labelled(seen.run)) == IMAGES
