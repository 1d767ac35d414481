"""What Redis may do: lose a popped message, go back in time, stand still, run full, hang half-open."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest
import redis

from tests.chaos.fleet import cluster, fleet
from tests.conftest import RedisServer, sortline, wait_until, write_images
from tests.e2e.test_label import producer, rows_done, rows_of

pytestmark = pytest.mark.slow

QUEUE, HELD = "sortline:label", "sortline:unacked"


def is_whole(report: Path, images: int) -> bool:
    rows = rows_of(report)
    return len(rows) == images and {row["status"] for row in rows} == {"ok"}


@pytest.mark.parametrize("time_number", [0, *(pytest.param(number, marks=pytest.mark.long) for number in range(1, 5))])
def test_a_message_that_a_dying_worker_popped_is_sent_again(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer, time_number: int
) -> None:
    write_images(tmp_path / "photos", 8)
    env = cluster(redis_server.url, model_store, tmp_path)
    with fleet(1, home, env, again=False) as doomed:
        wait_until(lambda: "ready." in doomed.log, 60, "an idle worker")
        doomed.workers[0].suspend()
        with producer("label", str(tmp_path / "photos"), "-o", str(home / "report.csv"), home=home, env=env) as running:
            # Redis hands the message to the worker's waiting BRPOP, and knows nothing of it any more.
            wait_until(lambda: _is_sent(redis_server), 30, "a message")
            with redis_server.client() as client:
                wait_until(lambda: _is_popped_by(doomed.workers[0], client), 30, "a message in nobody's hands")
            doomed.workers[0].kill()
            with fleet(1, home, env):
                assert running.wait(60) == 0

    assert is_whole(home / "report.csv", 8)


def _is_sent(server: RedisServer) -> bool:
    with server.client() as client:
        return "cmdstat_lpush" in client.info("commandstats")


def _is_popped_by(worker: psutil.Popen, client: redis.Redis) -> bool:
    """Whether the suspended ``worker`` was handed the message; if its BRPOP had run out before, it gets another one."""
    message = client.rpop(QUEUE)
    if message is not None:
        worker.resume()
        wait_until(lambda: any("b" in one["flags"] for one in client.client_list() if one["cmd"] == "brpop"), 30)
        worker.suspend()
        client.lpush(QUEUE, message)
    return client.llen(QUEUE) == 0 and client.hlen(HELD) == 0


@pytest.mark.long
def test_a_redis_that_goes_back_in_time_costs_work_and_no_row(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    write_images(tmp_path / "photos", 320)
    env = cluster(redis_server.url, model_store, tmp_path)
    with (
        fleet(2, home, env, {"TEST_FAULT": "before publish=nap"}),
        producer("label", str(tmp_path / "photos"), "-o", str(home / "report.csv"), home=home, env=env) as running,
    ):
        wait_until(lambda: rows_done(home) >= 48, 60, "some rows")
        with redis_server.client() as client:
            client.save()
        wait_until(lambda: rows_done(home) >= 200, 60, "more rows")
        redis_server.kill()
        redis_server.start()  # with what it had after 48 rows
        assert running.wait(90) == 0

    assert is_whole(home / "report.csv", 320)


@pytest.mark.long
def test_a_redis_that_stands_still_is_waited_for(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    write_images(tmp_path / "photos", 320)
    env = cluster(redis_server.url, model_store, tmp_path)
    assert redis_server.process is not None
    with (
        fleet(2, home, env, {"TEST_FAULT": "before publish=nap"}),
        producer("label", str(tmp_path / "photos"), "-o", str(home / "report.csv"), home=home, env=env) as running,
    ):
        wait_until(lambda: rows_done(home) >= 48, 60, "some rows")
        redis_server.process.send_signal(signal.SIGSTOP)
        time.sleep(6)  # longer than the leases
        redis_server.process.send_signal(signal.SIGCONT)
        assert running.wait(90) == 0

    assert is_whole(home / "report.csv", 320)


def test_a_redis_without_memory_slows_the_producer_and_loses_nothing(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    write_images(tmp_path / "photos", 640)
    env = cluster(redis_server.url, model_store, tmp_path, window_chunks=1000, chunk_images=1)
    with redis_server.client() as client, fleet(1, home, env) as workers:
        wait_until(lambda: "ready." in workers.log, 60, "a worker")
        # 640 chunks take some 1 MB, connections and rows on their way 500 kB.
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 1_600_000)
        with producer("label", str(tmp_path / "photos"), "-o", str(home / "report.csv"), home=home, env=env) as running:
            most = 0
            while running.poll() is None:
                most = max(most, int(client.llen(f"{QUEUE}:1")))  # of a run of so many images
                time.sleep(0.01)  # between two looks
            assert running.wait() == 0
        assert 100 < most < 600
        assert client.info("stats")["evicted_keys"] == 0

    assert is_whole(home / "report.csv", 640)


@pytest.mark.long
def test_an_evicting_redis_costs_time_and_is_warned_of(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    write_images(tmp_path / "photos", 640)
    env = cluster(redis_server.url, model_store, tmp_path, chunk_images=1, window_chunks=1000)
    with redis_server.client() as client, fleet(1, home, env) as workers:
        wait_until(lambda: "ready." in workers.log, 60, "a worker")
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 1_600_000)
        done = sortline("label", str(tmp_path / "photos"), home=home, env=env)

    assert "warning: Redis evicts by allkeys-lru when it is full, which loses queued work" in done.stderr
    assert is_whole(home / "report.csv", 640)


def test_a_killed_workers_chunk_starts_anew_within_15_s_in_the_default_configuration(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    write_images(tmp_path / "photos", 16)
    env = cluster(redis_server.url, model_store, tmp_path)
    for name in ("SORTLINE_VISIBILITY_TIMEOUT_S", "SORTLINE_STALE_S", "SORTLINE_CHUNK_IMAGES"):
        del env[name]
    with (
        fleet(1, home, env, {"TEST_FAULT": "before publish=hang"}, again=False) as doomed,
        producer("label", str(tmp_path / "photos"), "-o", str(home / "report.csv"), home=home, env=env) as running,
    ):
        wait_until(lambda: "model loaded" in doomed.log, 60, "a chunk at work")
        other = home / "other"
        other.mkdir()
        with fleet(1, other, env) as idle:
            wait_until(lambda: "ready." in idle.log, 60, "an idle worker")
            killed = time.monotonic()
            doomed.workers[0].kill()
            assert running.wait(60) == 0
            took_s = time.monotonic() - killed

    print(f"anew after {took_s:.1f} s")
    assert took_s < 30  # 15 s, and room for a loaded machine
