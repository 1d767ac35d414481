"""Killed at any named step, a producer or worker leaves enough: the same command ends with the same bytes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.fleet import cluster, fleet
from tests.conftest import RedisServer, free_port, mostly_long, sortline, write_images
from tests.e2e.test_label import producer, rows_of

pytestmark = pytest.mark.slow

IMAGES = 96  # six chunks
OF_PRODUCER = [
    "inputs written",
    "inputs frozen",
    "before send:1",
    "before send:3",
    "after send:1",
    "after send:3",
    "after note:3",
    "after note:6",
    "before journal:1",
    "before journal:4",
    "after journal:1",
    "after journal:6",
    "after deletion:1",
    "report written",
    "report renamed",
]
OF_WORKER = ["fetched:2", "counted:2", "read photos/00020.png", "before publish:2", "before ack:2"]


@dataclass
class Cluster:
    """A Redis, a worker and what an undisturbed run of ``photos`` reports."""

    folder: Path
    env: dict[str, str]
    photos: Path
    calm: bytes


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, model_store: Path) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    photos = folder / "photos"
    write_images(photos, IMAGES)
    (photos / "00030.png").write_bytes(b"no picture")
    server = RedisServer(folder, free_port())
    server.start()
    env = cluster(server.url, model_store, folder)
    with fleet(1, folder, env):
        sortline("label", str(photos), "-o", str(folder / "calm.csv"), home=folder, env=env)
        yield Cluster(folder, env, photos, (folder / "calm.csv").read_bytes())
    server.kill()


@pytest.mark.parametrize("step", mostly_long(OF_PRODUCER, "after journal:1"))
def test_a_producer_killed_at_this_step_leaves_enough_to_go_on(running: Cluster, home: Path, step: str) -> None:
    command = ("label", str(running.photos), "-o", str(home / "report.csv"))

    sortline(*command, home=home, env={**running.env, "TEST_FAULT": step}, code=-signal.SIGKILL)
    sortline(*command, home=home, env=running.env)

    assert (home / "report.csv").read_bytes() == running.calm


@pytest.mark.parametrize("step", mostly_long(OF_WORKER, "before ack:2"))
def test_a_worker_killed_at_this_step_costs_no_row(
    running: Cluster, home: Path, redis_server: RedisServer, step: str
) -> None:
    env = {**running.env, "SORTLINE_BROKER": redis_server.url}
    command = ("label", str(running.photos), "-o", str(home / "report.csv"))
    with (
        producer(*command, home=home, env=env) as labelling,
        fleet(1, home, env, {"TEST_FAULT": step}, again=False) as mortal,
    ):
        assert mortal.code_of(0, 60) == -signal.SIGKILL
        with fleet(1, home, env):
            assert labelling.wait(60) == 0

    assert (home / "report.csv").read_bytes() == running.calm
    assert len(rows_of(home / "report.csv")) == IMAGES


@pytest.mark.long
def test_a_producer_killed_at_every_step_one_after_the_other_still_ends_with_the_same_bytes(
    running: Cluster, home: Path
) -> None:
    command = ("label", str(running.photos), "-o", str(home / "report.csv"))

    for step in OF_PRODUCER:
        sortline(*command, home=home, env={**running.env, "TEST_FAULT": step}, code=None)
    sortline(*command, home=home, env=running.env)

    assert (home / "report.csv").read_bytes() == running.calm
