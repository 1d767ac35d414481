"""A label worker of several processes: all start, share the work, are started again, and end with their parent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.chaos.fleet import cluster
from tests.conftest import SORTLINE, RedisServer, environment, sortline, wait_until, write_images
from tests.e2e.test_label import producer, rows_done, rows_of

pytestmark = pytest.mark.slow

COUNT = 3


class Family:
    """A worker's parent, its processes and what they wrote."""

    def __init__(self, parent: subprocess.Popen[bytes], log: Path) -> None:
        self.parent = parent
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    @property
    def processes(self) -> dict[str, psutil.Process]:
        """Those that live, by their names."""
        found = {}
        for process in psutil.Process(self.parent.pid).children():
            try:
                command = process.cmdline()
            except psutil.Error:
                continue
            if "--name" in command:
                found[command[command.index("--name") + 1]] = process
        return found

    def answering(self, home: Path, env: dict[str, str]) -> set[str]:
        """Which of them say by `sortline doctor` that they are there."""
        return {*re.findall(r"\b(gpu-\d)@", sortline("doctor", home=home, env=env).stdout)}


@contextmanager
def family(home: Path, env: dict[str, str], *options: str) -> Iterator[Family]:
    log = home / "worker.log"
    with log.open("w") as output:
        parent = subprocess.Popen(
            [SORTLINE, "worker", "--queues", "label", "--name", "gpu", "--processes", str(COUNT), *options],
            env=environment(home, env), stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    made = Family(parent, log)
    try:
        wait_until(lambda: made.answering(home, env) == {f"gpu-{n}" for n in range(1, COUNT + 1)}, 60, "all to answer")
        yield made
    finally:
        if parent.poll() is None:
            os.killpg(parent.pid, signal.SIGKILL)
            parent.wait()


@pytest.fixture
def env(redis_server: RedisServer, model_store: Path, tmp_path: Path) -> dict[str, str]:
    return cluster(redis_server.url, model_store, tmp_path)


def test_processes_share_the_work_and_one_that_is_killed_starts_again(
    home: Path, tmp_path: Path, env: dict[str, str]
) -> None:
    write_images(tmp_path / "photos", 240)
    report, slow = home / "report.csv", {**env, "TEST_FAULT": "before publish=nap"}
    with family(home, slow) as worker:
        before = worker.processes
        with producer("label", str(tmp_path / "photos"), "-o", str(report), home=home, env=env) as running:
            wait_until(lambda: rows_done(home) >= 24, 60, "some rows")
            before["gpu-2"].kill()
            wait_until(lambda: worker.processes.get("gpu-2") not in (None, before["gpu-2"]), 30, "another second one")
            assert running.wait(90) == 0
        after = worker.processes
        check = sortline("worker", "--queues", "label", "--name", "gpu", "--check", home=home, env=env, code=None)

    assert check.returncode == 0
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] != after[name]} == {"gpu-2"}
    assert "the label worker 2 ended with SIGKILL; it starts again in 1 s" in worker.log
    assert worker.log.count("processes of this worker processes=3 reason='asked for'") == 1
    rows = rows_of(report)
    assert len(rows) == 240
    assert {row["status"] for row in rows} == {"ok"}
    workers = set(re.findall(r'"(gpu-\d)@', (home / "report.summary.json").read_text()))
    assert workers == {"gpu-1", "gpu-2", "gpu-3"}


def test_sigterm_finishes_the_chunks_at_hand_and_none_stays(
    home: Path, tmp_path: Path, env: dict[str, str], redis_server: RedisServer
) -> None:
    write_images(tmp_path / "photos", 400)
    slow = {
        **env,
        "TEST_FAULT": "before publish=nap",
        "SORTLINE_VISIBILITY_TIMEOUT_S": "600",
    }  # a lost chunk would show
    with (
        family(home, slow) as worker,
        producer("label", str(tmp_path / "photos"), "-o", str(home / "report.csv"), home=home, env=slow),
    ):
        wait_until(lambda: rows_done(home) >= 24, 60, "some rows")
        processes = worker.processes
        worker.parent.send_signal(signal.SIGTERM)
        assert worker.parent.wait(30) == 0
        with redis_server.client() as client:
            assert client.hlen("sortline:unacked") == 0

    assert not any(process.is_running() for process in processes.values())


def test_ctrl_c_at_the_terminal_stops_as_gently_and_a_second_one_at_once(
    home: Path, tmp_path: Path, env: dict[str, str], redis_server: RedisServer
) -> None:
    write_images(tmp_path / "photos", 400)
    hanging = {**env, "TEST_FAULT": "before publish=hang"}
    with (
        family(home, hanging) as worker,
        producer("label", str(tmp_path / "photos"), "-o", str(home / "report.csv"), home=home, env=env),
    ):
        wait_until(lambda: "model loaded" in worker.log, 60, "work")
        processes = worker.processes
        os.killpg(worker.parent.pid, signal.SIGINT)  # as a terminal sends it, to the whole group
        with pytest.raises(subprocess.TimeoutExpired):  # they have chunks at hand
            worker.parent.wait(2)
        assert worker.processes.keys() <= processes.keys()
        os.killpg(worker.parent.pid, signal.SIGINT)
        assert worker.parent.wait(30) == 1

    assert not any(process.is_running() for process in processes.values())


def test_none_outlives_a_parent_that_is_killed(home: Path, env: dict[str, str]) -> None:
    with family(home, env) as worker:
        processes = worker.processes
        worker.parent.kill()
        worker.parent.wait()
        _, living = psutil.wait_procs(processes.values(), timeout=10)

    assert not living


def test_a_number_that_can_not_be_is_refused(home: Path, env: dict[str, str]) -> None:
    for given in ("0", "65", "many"):
        refused = sortline("worker", "--queues", "label", "--processes", given, home=home, env=env, code=2)
        assert f"--processes {given}: auto, or a number from 1 to 64" in refused.stderr
    refused = sortline("worker", "--queues", "train", "--processes", "2", home=home, env=env, code=2)
    assert "a training worker does one job at a time" in refused.stderr
