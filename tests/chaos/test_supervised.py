"""`sortline up` and the private stack of one command start again what was killed, and say so."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.conftest import SORTLINE, environment, sortline, wait_until, write_images
from tests.e2e.test_label import expect_none_running, producer, rows_done, rows_of

pytestmark = pytest.mark.slow


def child_of(owner: int, word: str) -> psutil.Process | None:
    """The child of ``owner`` whose command line has ``word``."""
    for process in psutil.Process(owner).children():
        try:
            if any(word in part for part in process.cmdline()):
                return process
        except psutil.NoSuchProcess:
            continue
    return None


def kill(owner: int, word: str) -> int:
    found = child_of(owner, word)
    assert found is not None, word
    found.kill()
    return int(found.pid)


def is_replaced(owner: int, word: str, old: int) -> bool:
    return (found := child_of(owner, word)) is not None and found.pid != old


def test_a_stack_that_is_up_starts_its_workers_and_its_redis_again(
    home: Path, tmp_path: Path, model_store: Path
) -> None:
    write_images(tmp_path / "photos", 20)
    env = {"SORTLINE_STORE": str(model_store)}
    log = home / "up.log"
    with log.open("w") as output:
        up = subprocess.Popen(
            [SORTLINE, "up", "--no-train"], env=environment(home, env), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until(lambda: "now, in another terminal" in log.read_text(), 30, "the stack")
        worker, redis = kill(up.pid, "worker"), kill(up.pid, "-server")
        wait_until(lambda: is_replaced(up.pid, "worker", worker), 30, "another worker")
        wait_until(lambda: is_replaced(up.pid, "-server", redis), 30, "another Redis")
        sortline("label", str(tmp_path / "photos"), home=home, env=env)
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(60) == 0

    said = log.read_text()
    assert "the label worker ended with SIGKILL; it starts again in 1 s (log: " in said
    assert "the redis ended with SIGKILL; it starts again in 1 s (log: " in said
    assert len(rows_of(home / "report.csv")) == 20
    expect_none_running(home)


@pytest.mark.long
def test_one_command_starts_its_private_worker_and_redis_again(home: Path, tmp_path: Path, model_store: Path) -> None:
    write_images(tmp_path / "photos", 320)
    env = {
        "SORTLINE_STORE": str(model_store),
        "SORTLINE_CHUNK_IMAGES": "8",
        "SORTLINE_VISIBILITY_TIMEOUT_S": "4",
        "TEST_FAULT": "before publish=nap",
    }
    with producer("label", str(tmp_path / "photos"), "-o", str(home / "report.csv"), home=home, env=env) as running:
        wait_until(lambda: rows_done(home) >= 40, 60, "some rows")
        kill(running.pid, "worker")
        before = rows_done(home)
        wait_until(lambda: rows_done(home) > before + 40, 60, "more rows")
        kill(running.pid, "-server")
        _, said = running.communicate(timeout=120)

    assert running.returncode == 0
    assert "the label worker ended with SIGKILL; it starts again in 1 s" in said
    assert "the redis ended with SIGKILL; it starts again in 1 s" in said
    assert len(rows_of(home / "report.csv")) == 320
    assert {row["status"] for row in rows_of(home / "report.csv")} == {"ok"}
    expect_none_running(home)
