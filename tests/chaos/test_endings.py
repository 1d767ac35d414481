"""How a label worker ends: stuck, too large, asked to, twice, by strangers' messages not at all."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.broker.test_hostile import ENTRIES, RAW
from tests.chaos.fleet import cluster, fleet
from tests.conftest import RedisServer, sortline, wait_until, write_images
from tests.e2e.test_label import producer, rows_done, rows_of

pytestmark = pytest.mark.slow

QUEUE = "sortline:label"


def test_a_stuck_worker_writes_its_stacks_and_ends_with_70_and_its_chunk_goes_on(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    write_images(tmp_path / "photos", 48)
    env = cluster(redis_server.url, model_store, tmp_path, stuck_s=3)
    # The 20th image that a process reads hangs; what is left then is fewer than 20.
    with (
        fleet(1, home, env, {"TEST_FAULT": "read photos/00019.png:1=hang"}, again=False) as workers,
        producer("label", str(tmp_path / "photos"), "-o", str(home / "report.csv"), home=home, env=env) as running,
    ):
        assert workers.code_of(0, 60) == 70
        said = workers.log
        with fleet(1, home, env):
            assert running.wait(60) == 0

    assert "stuck for 3 s in chunk 16 of run photos-" in said
    assert "Thread 0x" in said
    assert 'base/fault.py"' in said  # the thread that hangs
    assert {row["status"] for row in rows_of(home / "report.csv")} == {"ok"}


def test_a_worker_above_its_memory_ends_with_0_after_its_chunk_and_loses_nothing(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    write_images(tmp_path / "photos", 48)
    env = cluster(redis_server.url, model_store, tmp_path, max_memory_bytes=1_000_000)
    with fleet(1, home, env) as workers:
        sortline("label", str(tmp_path / "photos"), home=home, env=env)
        wait_until(lambda: len(workers.ended) == 3, 30, "the end after the third chunk")

    assert workers.ended == [0, 0, 0]
    assert workers.log.count("above max_memory_bytes 1000000") == 3
    assert {row["status"] for row in rows_of(home / "report.csv")} == {"ok"}
    assert rows_done(home) == 48


def test_sigterm_finishes_the_chunk_at_hand_and_leaves_the_rest_to_others(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    write_images(tmp_path / "photos", 160)
    env = cluster(redis_server.url, model_store, tmp_path, visibility_timeout_s=600)  # a lost chunk would show
    with (
        fleet(1, home, env, {"TEST_FAULT": "before publish=nap"}, again=False) as workers,
        producer("label", str(tmp_path / "photos"), "-o", str(home / "report.csv"), home=home, env=env) as running,
    ):
        wait_until(lambda: rows_done(home) >= 32, 60, "some rows")
        workers.workers[0].send_signal(signal.SIGTERM)
        assert workers.code_of(0, 30) == 0
        with redis_server.client() as client:
            assert client.hlen("sortline:unacked") == 0
        with fleet(1, home, env):
            assert running.wait(60) == 0

    assert len(rows_of(home / "report.csv")) == 160
    assert {row["status"] for row in rows_of(home / "report.csv")} == {"ok"}


def test_a_worker_that_wakes_after_the_report_is_final_changes_nothing_and_works_on(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    write_images(tmp_path / "photos", 32)
    env = cluster(redis_server.url, model_store, tmp_path)
    report, other = home / "report.csv", home / "other"
    other.mkdir()
    with fleet(1, home, env, {"TEST_FAULT": "before publish=nap"}, again=False) as sleepy:
        with producer("label", str(tmp_path / "photos"), "-o", str(report), home=home, env=env) as running:
            wait_until(lambda: "model loaded" in sleepy.log, 60, "a chunk at work")
            sleepy.workers[0].suspend()
            with fleet(1, other, env):
                assert running.wait(60) == 0
        final = report.read_bytes()
        assert len(rows_of(report)) == 32
        sleepy.workers[0].resume()
        write_images(tmp_path / "more", 16)
        sortline("label", str(tmp_path / "more"), "-o", str(home / "more.csv"), home=home, env=env)
        assert sleepy.workers[0].poll() is None

    assert report.read_bytes() == final
    assert len(rows_of(home / "more.csv")) == 16
    with redis_server.client() as client:
        assert client.keys("sortline:results:*") == client.keys("sortline:attempts:*") == []


@pytest.mark.long
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_second_signal_during_the_warm_stop_loses_nothing(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer, second: signal.Signals
) -> None:
    write_images(tmp_path / "photos", 96)
    env = cluster(redis_server.url, model_store, tmp_path)
    with (
        fleet(1, home, env, {"TEST_FAULT": "before publish=nap"}, again=False) as workers,
        producer("label", str(tmp_path / "photos"), "-o", str(home / "report.csv"), home=home, env=env) as running,
    ):
        wait_until(lambda: rows_done(home) >= 32, 60, "some rows")
        workers.workers[0].send_signal(signal.SIGTERM)
        workers.workers[0].send_signal(second)
        code = workers.code_of(0, 30)
        with fleet(1, home, env):
            assert running.wait(60) == 0

    assert code in (0, 1), f"{code}"
    assert len(rows_of(home / "report.csv")) == 96
    assert {row["status"] for row in rows_of(home / "report.csv")} == {"ok"}


def test_a_real_worker_outlives_every_hostile_entry(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    target = tmp_path / "made-by-a-message"
    write_images(tmp_path / "photos", 16)
    env = cluster(redis_server.url, model_store, tmp_path)
    entries = [json.dumps(make(target)).encode() for make in ENTRIES.values()] + list(RAW.values())
    with fleet(1, home, env, again=False) as workers, redis_server.client() as client:
        for entry in entries:
            client.lpush(QUEUE, entry)
        wait_until(lambda: client.llen(QUEUE) == client.hlen("sortline:unacked") == 0, 60, "an empty queue")
        sortline("label", str(tmp_path / "photos"), home=home, env=env)
        assert workers.workers[0].poll() is None

    assert not target.exists()
    assert len(rows_of(home / "report.csv")) == 16
