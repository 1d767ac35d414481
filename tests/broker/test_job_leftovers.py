"""Checkpoints and scratch files are there until their job has ended, and no longer, however it ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from configs.settings import Settings
from jobs.board import KEPT_S, JobBoard
from jobs.errors import SchemaMismatch
from jobs.train import JobEvent, TrainModel
from tests.broker.conftest import KEYS
from worker.handler import Delivery
from worker.runtime import Runtime
from worker.train.handler import TrainHandler

JOB = TrainModel(job="train-m-1", dataset="d", name="m", recipe={})


@pytest.fixture
def runtime(settings: Settings) -> Runtime:
    return Runtime(settings)


@pytest.fixture
def handler(runtime: Runtime) -> TrainHandler:
    runtime.board.add(JOB.job, kind="train", title="train")
    delivery = Delivery(retries=0, worker="w", tag=None, queued_at=0.0, show=lambda text: None)
    return TrainHandler(runtime, JOB, delivery)


def leave(home: Path, *jobs: str) -> None:
    for job in jobs:
        for kind in ("checkpoints", "scratch"):
            (home / kind / job).mkdir(parents=True)
            (home / kind / job / "epoch-000001.npz").write_bytes(b"x")


def left(home: Path) -> set[str]:
    folders = {path.name for path in (home / "checkpoints").iterdir()}
    assert folders == {path.name for path in (home / "scratch").iterdir()}
    return folders


ENDS: dict[str, Callable[[TrainHandler], None]] = {
    "done": lambda handler: handler.publish(JobEvent(job=JOB.job, state="done", text="published")),
    "cancelled": lambda handler: handler.publish(JobEvent(job=JOB.job, state="cancelled", text="cancelled")),
    "failed": lambda handler: handler.refuse(ValueError("diverged")),
    "revoked": lambda handler: TrainHandler.end_revoked(handler.runtime, JOB, "revoked in Flower"),
    "outdated": lambda handler: TrainHandler.refuse_mismatch(handler.runtime, SchemaMismatch("old", JOB.job, 0), "w"),
}


@pytest.mark.parametrize("how", ENDS)
def test_nothing_of_a_job_that_has_ended_stays(how: str, handler: TrainHandler, settings: Settings) -> None:
    leave(settings.home, JOB.job, "train-m-2")
    handler.runtime.board.add("train-m-2", kind="train", title="another, which waits")

    ENDS[how](handler)

    assert left(settings.home) == {"train-m-2"}


def test_a_job_that_redis_forgot_while_it_ended_leaves_nothing(handler: TrainHandler, settings: Settings) -> None:
    leave(settings.home, JOB.job, "train-m-2")
    handler.runtime.client.flushall()

    ENDS["done"](handler)

    assert left(settings.home) == {"train-m-2"}  # it may come back


def test_a_job_that_waits_for_another_try_keeps_its_checkpoints(handler: TrainHandler, settings: Settings) -> None:
    leave(settings.home, JOB.job)

    handler.wait(OSError("share is away"), 1.0)

    assert left(settings.home) == {JOB.job}


def test_a_worker_that_starts_removes_what_ended_elsewhere_or_is_long_forgotten(
    settings: Settings, client: redis.Redis
) -> None:
    board = JobBoard(client, KEYS)
    for state in ("queued", "running", "done", "failed", "cancelled"):
        board.add(state, kind="train", title=state)
        board.update(state, state=state)
    leave(settings.home, "queued", "running", "done", "failed", "cancelled", "forgotten", "old")
    for kind in ("checkpoints", "scratch"):
        os.utime(settings.home / kind / "old", (time.time(), time.time() - KEPT_S - 60))

    TrainHandler.tidy(settings, board)

    assert left(settings.home) == {"queued", "running", "forgotten"}


def test_a_worker_without_a_home_or_redis_has_nothing_to_remove(settings: Settings, client: redis.Redis) -> None:
    TrainHandler.tidy(settings, JobBoard(client, KEYS))
    leave(settings.home, JOB.job)
    away = redis.Redis(port=1, decode_responses=True)

    TrainHandler.tidy(settings, JobBoard(away, KEYS))

    assert left(settings.home) == {JOB.job}
