"""A disk that is full: a clear error, nothing half-written, and the same command goes on once there is room."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.fleet import cluster, fleet
from tests.conftest import SORTLINE, RedisServer, environment, sortline, write_images
from tests.e2e.test_label import rows_done, rows_of

pytestmark = pytest.mark.slow


def only(file_bytes: int) -> Callable[[], None]:
    """Let a process write no file larger than this: to it, the disk is full."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    return limit


@pytest.mark.parametrize("file_bytes", [4_000, 30_000, 60_000, 90_000])
def test_a_producer_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer, file_bytes: int
) -> None:
    write_images(tmp_path / "photos", 640)
    env = cluster(redis_server.url, model_store, tmp_path)
    command = ("label", str(tmp_path / "photos"), "-o", str(home / "report.csv"))
    with fleet(1, home, env):
        full = subprocess.run(
            [SORTLINE, *command],
            env=environment(home, env),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=home,
            preexec_fn=only(file_bytes),
        )
        print(full.stderr)
        assert full.returncode == 1
        assert "Traceback" not in full.stderr
        assert "is its disk full, read-only or gone?" in full.stderr
        assert not (home / "report.csv").exists()
        assert rows_done(home) < 640
        sortline(*command, home=home, env=env)

    assert len(rows_of(home / "report.csv")) == 640
    assert {row["status"] for row in rows_of(home / "report.csv")} == {"ok"}


PUBLISH = """
import sys, pathlib
from model_store.store import ModelStore
from model_store.errors import StoreError
from tests.unit.test_model_store import writing
try:
    ModelStore(pathlib.Path(sys.argv[1])).publish("waste", writing(b"x" * 100_000))
except (StoreError, OSError) as error:
    sys.exit(f"refused: {error}")
"""


def test_a_store_on_a_full_disk_shows_no_half_version_and_takes_the_next(tmp_path: Path) -> None:
    from model_store.store import ModelStore

    def publish(limit: Callable[[], None] | None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", PUBLISH, str(tmp_path / "store")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=Path(__file__).parents[2],
            preexec_fn=limit,
        )

    full = publish(only(50_000))

    assert full.returncode == 1
    assert "refused: " in full.stderr
    store = ModelStore(tmp_path / "store")
    assert store.names() == []
    assert publish(None).returncode == 0
    assert store.versions("waste") == [1]
    assert store.open_file("waste", 1, "weights.safetensors") == b"x" * 100_000
