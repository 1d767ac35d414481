"""A training job far longer than its lease runs once, though others wait for it; killed, it goes on and ends once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.conftest import RedisServer, environment, sortline, wait_until
from tests.e2e.test_train import QUICK, write_shades

pytestmark = pytest.mark.long

LEASE_S = 3
EPOCHS = 150  # of 0.1 s at least


@contextmanager
def trainer(number: int, home: Path, env: dict[str, str]) -> Iterator[psutil.Popen]:
    log = home / f"train-{number}.log"
    with log.open("wb") as output:
        process = psutil.Popen(
            [sys.executable, "-m", "worker", "--queues", "train", "--name", f"train-{number}"],
            env=environment(home, env),
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=home,
        )
    try:
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):  # it may have ended by itself
            for child in [*process.children(recursive=True), process]:
                child.kill()
        process.wait()
        print(log.read_text(encoding="utf-8")[-2000:])


@pytest.mark.timeout(600)
def test_a_job_of_five_leases_runs_once_beside_idle_workers_and_goes_on_when_killed(
    home: Path, tmp_path: Path, redis_server: RedisServer
) -> None:
    photos = write_shades(tmp_path / "photos")
    env = {
        "SORTLINE_BROKER": redis_server.url,
        "SORTLINE_DATA_ROOT": "/",
        "SORTLINE_VISIBILITY_TIMEOUT_S": str(LEASE_S),
        "TEST_FAULT": "event=nap",
    }
    with ExitStack() as stack, redis_server.client() as client:
        workers = [stack.enter_context(trainer(number, home, env)) for number in range(3)]
        started = time.monotonic()
        job = sortline(
            "train",
            str(photos),
            *QUICK,
            "--set",
            f"epochs={EPOCHS}",
            "--name",
            "shades",
            "--detach",
            home=home,
            env=env,
        ).stdout.strip()

        def attempts() -> str | None:
            return str(client.hget(f"sortline:job:{job}", "attempts"))

        def said(text: str) -> bool:
            return any(text in entry["json"] for _, entry in client.xrange(f"sortline:results:{job}"))

        wait_until(lambda: said(f"epoch {EPOCHS // 3}/"), 300, "a third of the epochs")
        assert attempts() == "1"
        # The one that trains is the child that has worked most.
        children = [child for worker in workers for child in worker.children(recursive=True)]
        max(children, key=lambda child: sum(child.cpu_times()[:2])).kill()
        watched = sortline("jobs", "watch", job, home=home, env=env, limit_s=300)
        assert attempts() == "2"
        took_s = time.monotonic() - started

    assert took_s > 5 * LEASE_S
    assert watched.stdout == "shades:1\n"
    assert watched.stderr.count(f"\nepoch 1/{EPOCHS},") == 1  # the second process went on at the checkpoint
    assert sorted(path.name for path in (home / "store" / "shades" / "versions").iterdir()) == ["0001"]


@pytest.mark.timeout(400)
def test_sigterm_lets_a_training_worker_end_its_job_and_then_itself(
    home: Path, tmp_path: Path, redis_server: RedisServer
) -> None:
    photos = write_shades(tmp_path / "photos")
    env = {"SORTLINE_BROKER": redis_server.url, "SORTLINE_DATA_ROOT": "/", "TEST_FAULT": "event=nap"}
    with trainer(0, home, env) as worker, redis_server.client() as client:
        job = sortline("train", str(photos), *QUICK, "--name", "shades", "--detach", home=home, env=env).stdout.strip()
        wait_until(lambda: client.xlen(f"sortline:results:{job}") > 2, 120, "a training that runs")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(200) == 0
        assert client.hget(f"sortline:job:{job}", "state") == "done"
        assert client.hget(f"sortline:job:{job}", "attempts") == "1"
        assert client.hlen("sortline:unacked") == client.llen("sortline:train") == 0

    assert sorted(path.name for path in (home / "store" / "shades" / "versions").iterdir()) == ["0001"]
