"""`sortline workers`: who is there, and a host that is taken out of service in the middle of its work."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from base.process import DRAINED
from base.supervisor import Supervisor
from tests.chaos.fleet import cluster, fleet
from tests.conftest import RedisServer, sortline, wait_until, write_images
from tests.e2e.test_label import producer, rows_done, rows_of

HOST = socket.gethostname()

pytestmark = pytest.mark.slow


def test_a_drained_host_finishes_its_chunk_and_ends_and_others_do_the_rest(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    write_images(tmp_path / "photos", 640)
    env = cluster(redis_server.url, model_store, tmp_path, visibility_timeout_s=600)  # a lost chunk would show
    with (
        fleet(1, home, env, {"TEST_FAULT": "before publish=nap", "TEST_NAP_S": "2"}, again=False) as workers,
        producer("label", str(tmp_path / "photos"), "-o", str(home / "report.csv"), home=home, env=env) as running,
    ):
        wait_until(lambda: rows_done(home) >= 16, 60, "some rows")
        listed = sortline("workers", "list", home=home, env=env).stdout
        unknown = sortline("workers", "drain", "elsewhere", home=home, env=env, code=2).stderr
        said = sortline("workers", "drain", HOST, home=home, env=env).stdout
        assert workers.code_of(0, 30) == DRAINED
        with redis_server.client() as client:
            assert client.hlen("sortline:unacked") == 0
        assert rows_done(home) < 640, "the host was not drained in the midst of its work"
        with fleet(1, home, env, name="other"):
            assert running.wait(60) == 0

    assert said == f"label-0@{HOST} finishes what it has at hand, and ends\n"
    assert "no worker on elsewhere answers" in unknown
    header, worker = (line.split() for line in listed.splitlines())
    assert header[:3] == ["worker", "jobs", "sortline"]
    assert worker[0] == f"label-0@{HOST}"
    assert worker[1] in ("0", "1")  # it may have been between two chunks
    assert "colours:1" in worker
    assert {row["status"] for row in rows_of(home / "report.csv")} == {"ok"}
    assert rows_done(home) == 640


def test_a_supervisor_leaves_what_was_drained_and_keeps_the_others(tmp_path: Path) -> None:
    said: list[str] = []
    processes = Supervisor(tmp_path, said.append, persistent=True)
    processes.start("label worker", [sys.executable, "-c", f"raise SystemExit({DRAINED})"], {})
    processes.start("redis", [sys.executable, "-c", "import time; time.sleep(60)"], {})  # until the test ends it
    try:
        wait_until(lambda: len(processes.living) == 1, 10, "its end")
        for _ in range(3):
            processes.check()
        assert said == ["the label worker was drained, and stays down"]
        assert (len(processes.living), processes.is_drained) == (1, False)
    finally:
        processes.kill()
