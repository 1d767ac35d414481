"""Disks that are full, read-only or gone: a clear error, nothing half-written, and work goes on once that is cured."""

from __future__ import annotations

import gc
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from model_store.errors import StoreUnavailable
from model_store.store import ModelStore
from producer.runfile import RunFile
from tests.chaos.fleet import cluster, fleet
from tests.conftest import SORTLINE, RedisServer, environment, mostly_long, sortline, wait_until, write_images
from tests.e2e.test_label import producer, rows_done, rows_of
from tests.e2e.test_train import QUICK, write_shades
from tests.unit.test_feature_cache import assert_holds, features, keys, opened
from tests.unit.test_model_store import writing

pytestmark = pytest.mark.slow


def only(file_bytes: int) -> Callable[[], None]:
    """Let a process write no file larger than this: to it, the disk is full."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    return limit


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nobody write below ``folder`` inside the block: by its mode, or by a mount where we are root."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:  # root may write whatever the mode says
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
    else:
        folder.chmod(0o500)
    try:
        yield
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", "-l", folder], check=True)
        else:
            folder.chmod(0o700)


REFUSED = r"(Read-only file system|Permission denied)"


@pytest.mark.parametrize(
    "file_bytes", [30_000, *(pytest.param(size, marks=pytest.mark.long) for size in (4_000, 60_000, 90_000))]
)
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


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[int], None]]:
    """A disk of 8 MB inside the block; give what fills it but for some bytes."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=False).returncode:
        pytest.skip("mounting a disk takes root")

    def fill(left: int) -> None:
        with (folder / "fill").open("wb", buffering=0) as file:
            with suppress(OSError):
                while True:
                    file.write(bytes(4096))
            file.truncate(file.tell() - left)

    try:
        yield fill
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_sound_run_file_on_a_full_disk_is_not_called_broken(
    tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    write_images(tmp_path / "photos", 640)
    env = cluster(redis_server.url, model_store, tmp_path)
    with small_disk(tmp_path / "small") as fill, fleet(1, tmp_path, env, {"TEST_FAULT": "before publish=nap"}):
        home = tmp_path / "small" / "home"
        home.mkdir()
        command = ("label", str(tmp_path / "photos"), "-o", str(tmp_path / "report.csv"))
        with producer(*command, home=home, env=env) as running:
            wait_until(lambda: rows_done(home) >= 32, 60, "some rows")
            running.send_signal(signal.SIGINT)
            running.wait(60)
        (run,) = (home / "runs").glob("*.run")
        gc.collect()  # what the test has open of it
        RunFile(run).close()
        assert not run.with_name(f"{run.name}-shm").exists()
        fill(8192)
        for words in (command, *(("report", name, "-o", str(tmp_path / "late.csv")) for name in (str(run), run.stem))):
            full = sortline(*words, home=home, env=env, code=None)
            assert not re.search("Traceback|delete|overwrite|damaged", full.stderr)
            if full.returncode:
                assert "is its disk full, read-only or gone? Every row that it has is safe" in full.stderr
        (tmp_path / "small" / "fill").unlink()
        sortline(*command, home=home, env=env)

    assert len(rows_of(tmp_path / "report.csv")) == 640


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


@pytest.mark.parametrize("where", mostly_long(["home", "report"], "report"))
def test_a_producer_that_may_not_write_says_where_and_goes_on_when_it_may(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer, where: str
) -> None:
    write_images(tmp_path / "photos", 64)
    env = cluster(redis_server.url, model_store, tmp_path)
    folder = home / "runs" if where == "home" else home / "reports"
    command = ("label", str(tmp_path / "photos"), "-o", str(home / "reports" / "report.csv"))
    with fleet(1, home, env):
        with read_only(folder):
            refused = sortline(*command, home=home, env=env, code=1 if where == "home" else 2)
            left = list(folder.iterdir())
        again = sortline(*command, home=home, env=env)

    assert "Traceback" not in refused.stderr
    assert re.search(REFUSED, refused.stderr)
    assert str(folder) in refused.stderr
    assert left == []
    assert len(rows_of(home / "reports" / "report.csv")) == 64
    assert "nothing new" not in again.stderr  # it was refused before anything was labelled


def test_a_run_file_whose_folder_goes_away_is_finished_all_the_same(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    write_images(tmp_path / "photos", 160)
    env = cluster(redis_server.url, model_store, tmp_path)
    command = ("label", str(tmp_path / "photos"), "-o", str(tmp_path / "report.csv"))
    with (
        fleet(1, home, env, {"TEST_FAULT": "before publish=nap"}),
        producer(*command, home=home, env=env) as running,
    ):
        wait_until(lambda: rows_done(home) >= 16, 60, "some rows")
        (home / "runs").rename(home / "away")
        assert running.wait(60) == 0
    (home / "away").rename(home / "runs")

    assert len(rows_of(tmp_path / "report.csv")) == 160
    assert "nothing new" in sortline(*command, home=home, env=env).stderr


@pytest.mark.parametrize("gone", mostly_long(["data", "data, its mount point left", "store"], "data"))
def test_a_worker_waits_for_a_share_that_went_away(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer, gone: str
) -> None:
    data, store = tmp_path / "data", tmp_path / "store"
    write_images(data / "photos", 320)
    shutil.copytree(model_store, store)
    env = cluster(redis_server.url, store, data)
    share = store if gone == "store" else data
    started = 0 if gone == "store" else 1  # a store is read when a worker loads its model
    with (
        producer("label", str(data / "photos"), "-o", str(home / "report.csv"), home=home, env=env) as running,
        ExitStack() as workers,
    ):
        if started:
            first = workers.enter_context(fleet(1, home, env, {"TEST_FAULT": "before publish=nap"}))
            wait_until(lambda: rows_done(home) >= 32, 60, "some rows")
        else:
            with redis_server.client() as client:
                wait_until(lambda: client.llen("sortline:label:1"), 60, "chunks on the queue")
        share.rename(tmp_path / "away")
        if "mount point" in gone:
            share.mkdir()
        if not started:
            first = workers.enter_context(fleet(1, home, env))
        said = "the model store" if gone == "store" else "is the share mounted"
        wait_until(lambda: first.log.count(said) >= 2, 60, "a worker that waits")
        before = rows_done(home)
        if "mount point" in gone:
            share.rmdir()
        (tmp_path / "away").rename(share)
        assert running.wait(120) == 0

    assert before < 320
    assert {row["status"] for row in rows_of(home / "report.csv")} == {"ok"}
    assert len(rows_of(home / "report.csv")) == 320


def test_workers_need_no_more_than_to_read_images_and_store(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    data, store = tmp_path / "data", tmp_path / "store"
    write_images(data / "photos", 32)
    shutil.copytree(model_store, store)
    env = cluster(redis_server.url, store, data)
    with read_only(data), read_only(store), fleet(1, home, env):
        sortline("label", str(data / "photos"), "-o", str(home / "report.csv"), home=home, env=env)

    assert {row["status"] for row in rows_of(home / "report.csv")} == {"ok"}


def test_a_read_only_store_takes_no_version_and_no_promotion_and_shows_what_it_has(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    store.publish("waste", writing(b"1"))
    store.set_alias("waste", "production", 1, who="me", why="test")
    with read_only(tmp_path / "store"):
        with pytest.raises(
            StoreUnavailable, match=f"{REFUSED}.*(check the disk or mount|let user [0-9]+ read and write there)"
        ):
            store.publish("waste", writing(b"2"))
        with pytest.raises(
            StoreUnavailable, match=f"{REFUSED}.*(check the disk or mount|let user [0-9]+ read and write there)"
        ):
            store.set_alias("waste", "production", 1, who="me", why="test")
        assert store.versions("waste") == [1]
        assert store.resolve("waste").manifest.version == 1

    store.publish("waste", writing(b"2"))
    store.set_alias("waste", "production", 2, who="me", why="test")
    assert store.versions("waste") == [1, 2]
    assert store.resolve("waste").manifest.version == 2


@pytest.mark.long
def test_a_training_that_may_not_write_checkpoints_says_where_and_runs_when_it_may(home: Path, tmp_path: Path) -> None:
    command = ("train", str(write_shades(tmp_path / "photos")), *QUICK, "--name", "shades")
    with read_only(home / "checkpoints"):
        refused = sortline(*command, home=home, code=1)
        assert list((home / "checkpoints").iterdir()) == []
    sortline(*command, home=home)

    assert re.search(f"{REFUSED}.*{home}/checkpoints.*; nothing was published; mend that, then train", refused.stderr)
    assert len(list((home / "store").glob("shades/versions/*"))) == 1


@pytest.mark.long
def test_a_training_waits_for_a_store_that_it_may_not_write_and_publishes_once(home: Path, tmp_path: Path) -> None:
    photos, said = write_shades(tmp_path / "photos"), home / "said.txt"
    with read_only(home / "store"), said.open("w") as told:
        training = subprocess.Popen(
            [SORTLINE, "train", str(photos), *QUICK, "--name", "shades"],
            env=environment(home),
            stdout=told,
            stderr=told,
        )
        wait_until(lambda: "waiting: the model store fails" in said.read_text(), 90, "a training that waits")
        assert list((home / "store").iterdir()) == []
    assert training.wait(120) == 0

    assert re.search(f"waiting: the model store fails at {home}/store.*{REFUSED}", said.read_text())
    assert len(list((home / "store").glob("shades/versions/*"))) == 1


def test_a_read_only_feature_cache_says_where_and_takes_features_when_it_may(tmp_path: Path) -> None:
    cache = tmp_path / "features"
    with read_only(cache):
        with pytest.raises(OSError, match=f"{REFUSED}.*{cache}"), opened(cache):
            pass
        assert list(cache.iterdir()) == []
    with opened(cache) as space:
        space.add(keys(1, 2), features(1, 2))
    with read_only(cache), pytest.raises(OSError, match=f"{REFUSED}.*{cache}"), opened(cache) as space:
        space.add(keys(3), features(3))

    assert_holds(cache, 1, 2)
