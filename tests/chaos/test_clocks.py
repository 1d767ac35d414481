"""Hosts whose clocks differ by minutes: the lease of a chunk goes by the one clock of Redis."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.fleet import cluster, fleet
from tests.conftest import RedisServer, wait_until, write_images
from tests.e2e.test_label import producer, rows_of

pytestmark = pytest.mark.long

CHUNKS = 300
SKEW = """
import os, time
_right = time.time
time.time = lambda: _right() + float(os.environ["SKEW_S"])
"""


@pytest.fixture
def skewed(tmp_path: Path) -> dict[str, str]:
    """Lets Python processes have another clock: ``SKEW_S`` says by how much."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SKEW)
    return {"PYTHONPATH": str(folder)}


def test_no_chunk_is_taken_from_a_worker_because_clocks_differ(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer, skewed: dict[str, str]
) -> None:
    write_images(tmp_path / "photos", CHUNKS)
    # A lease that is long enough for a loaded machine: what is given to another is so for the clocks alone.
    env = cluster(redis_server.url, model_store, tmp_path, chunk_images=1, visibility_timeout_s=8, stale_s=120)
    nap = {"TEST_FAULT": "before publish=nap"}
    fast, slow = home / "fast", home / "slow"
    fast.mkdir()
    slow.mkdir()
    with (
        fleet(1, home, env, nap, again=False) as right,
        fleet(1, fast, env, {**nap, **skewed, "SKEW_S": "300"}, again=False) as ahead,
        fleet(1, slow, env, {**nap, **skewed, "SKEW_S": "-300"}, again=False) as behind,
    ):
        fleets = (right, ahead, behind)
        wait_until(lambda: all("ready." in each.log for each in fleets), 90, "three workers")
        with producer("label", str(tmp_path / "photos"), "-o", str(home / "report.csv"), home=home, env=env) as running:
            assert running.wait(120) == 0
        labelled = [each.log.count("chunk labelled") for each in fleets]

    assert all(labelled)
    assert sum(labelled) == CHUNKS
    assert {row["status"] for row in rows_of(home / "report.csv")} == {"ok"}


def test_the_chunk_of_a_killed_worker_goes_on_though_all_other_clocks_are_slow(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer, skewed: dict[str, str]
) -> None:
    write_images(tmp_path / "photos", 8)
    env = cluster(redis_server.url, model_store, tmp_path, stale_s=600)  # the producer would wait for it
    behind = {**env, **skewed, "SKEW_S": "-300"}
    other = home / "other"
    other.mkdir()
    with (
        fleet(1, home, env, {"TEST_FAULT": "before publish=hang"}, again=False) as doomed,
        producer("label", str(tmp_path / "photos"), "-o", str(home / "report.csv"), home=home, env=behind) as running,
    ):
        wait_until(lambda: "model loaded" in doomed.log, 60, "a chunk at work")
        doomed.workers[0].kill()
        with fleet(1, other, behind):
            assert running.wait(60) == 0

    assert len(rows_of(home / "report.csv")) == 8
