"""A sick worker beside a sound one, and a SOURCE that goes away: every image is labelled, and the sick one is named."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from tests.chaos.fleet import cluster, fleet
from tests.conftest import RedisServer, mostly_long, wait_until, write_images
from tests.e2e.test_label import producer, rows_done, rows_of

pytestmark = pytest.mark.slow

IMAGES = 400
Spoil = Callable[[Path, Path], dict[str, str]]  # (empty folder, the photos) -> settings of the sick worker


def empty_store(folder: Path, _: Path) -> dict[str, str]:
    return {"SORTLINE_STORE": str(folder)}


def no_engine(_: Path, __: Path) -> dict[str, str]:
    return {"SORTLINE_DEVICE": "cuda"}


def unmounted(folder: Path, _: Path) -> dict[str, str]:
    return {"SORTLINE_DATA_ROOT": str(folder)}


def no_root(folder: Path, _: Path) -> dict[str, str]:
    return {"SORTLINE_DATA_ROOT": str(folder / "not-there")}


def another_root(folder: Path, photos: Path) -> dict[str, str]:
    """The same names, and other images."""
    shutil.copytree(photos, folder / photos.name)
    for path in (folder / photos.name).iterdir():
        path.write_bytes(path.read_bytes() + b"other")
    return {"SORTLINE_DATA_ROOT": str(folder)}


SPOILT = {spoil.__name__: spoil for spoil in (another_root, empty_store, no_engine, unmounted, no_root)}


@pytest.mark.parametrize("what", mostly_long(list(SPOILT), "another_root"))
def test_a_sick_worker_beside_a_sound_one_costs_no_row(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer, what: str
) -> None:
    photos, other = tmp_path / "photos", tmp_path / "other"
    write_images(photos, IMAGES)
    other.mkdir()
    env = cluster(redis_server.url, model_store, tmp_path, chunk_images=8)
    spoilt = SPOILT[what](other, photos)
    report = home / "report.csv"
    with (
        fleet(1, home, env, {"TEST_FAULT": "before publish=nap"}),
        fleet(1, home, env, spoilt, name="sick") as sick,
        producer("label", str(photos), "-o", str(report), "-q", home=home, env=env) as running,
    ):
        said = running.communicate(timeout=120)[1]

    assert running.returncode == 0
    assert {row["status"] for row in rows_of(report)} == {"ok"}
    assert rows_done(home) == IMAGES
    assert "keeps away from run" in sick.log
    assert said.startswith("warning: sick-0@")


def test_no_row_is_of_another_folder_that_comes_to_lie_at_the_data_root_of_a_proven_worker(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    right, other, root = tmp_path / "right", tmp_path / "other", tmp_path / "root"
    names = [path.name for path in write_images(right / "photos", IMAGES)]
    (other / "photos").mkdir(parents=True)
    for name, another in zip(names, names[1:] + names[:1], strict=True):
        shutil.copy(right / "photos" / another, other / "photos" / name)
    root.symlink_to(right)
    report = home / "report.csv"
    env = cluster(redis_server.url, model_store, right, chunk_images=4) | {"TEST_FAULT": "before publish=nap"}
    with (
        fleet(1, home, env, {"SORTLINE_DATA_ROOT": str(root)}) as swapped,
        producer("label", str(right), "-o", str(report), "-q", "--file-info", home=home, env=env) as running,
    ):
        wait_until(lambda: rows_done(home) > 20, 60, "the first rows")
        (tmp_path / "new").symlink_to(other)
        (tmp_path / "new").replace(root)
        wait_until(lambda: "keeps away from run" in swapped.log, 30, "a worker that notices")
        with fleet(1, home, env, name="sound"):
            assert running.wait(90) == 0

    read = {row["path"]: row["sha256"] for row in rows_of(report)}
    assert read == {f"photos/{name}": sha256((right / "photos" / name).read_bytes()).hexdigest() for name in names}


def test_a_store_that_catches_up_makes_its_worker_sound(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    write_images(tmp_path / "photos", 64)
    env = cluster(redis_server.url, model_store, tmp_path)
    late = tmp_path / "late"
    late.mkdir()
    with (
        fleet(1, home, env, {"TEST_FAULT": "before publish=hang"}, name="held") as held,  # so that it is not refused
        fleet(1, home, env, {"SORTLINE_STORE": str(late)}) as workers,
        producer("label", str(tmp_path / "photos"), "-o", str(home / "report.csv"), home=home, env=env) as running,
    ):
        wait_until(lambda: "keeps away from run" in workers.log, 30, "the first failure")
        shutil.copytree(model_store, late, dirs_exist_ok=True)
        wait_until(lambda: rows_done(home) >= 32, 60, "rows of the worker whose store has caught up")
        held.close()
        assert running.wait(60) == 0

    assert {row["status"] for row in rows_of(home / "report.csv")} == {"ok"}


@pytest.mark.parametrize("what", mostly_long(["folder", "folder within", "list"], "folder"))
def test_a_source_that_goes_away_and_comes_back_costs_no_row(
    home: Path, tmp_path: Path, model_store: Path, what: str
) -> None:
    photos = tmp_path / "photos"
    write_images(photos / "a", IMAGES)
    write_images(photos / "b", IMAGES)
    source = tmp_path / "list.txt" if what == "list" else photos
    if what == "list":
        source.write_text("".join(f"{path}\n" for path in sorted(photos.rglob("*.png"))))
    moved = photos / "b" if what == "folder within" else photos
    env = {"SORTLINE_STORE": str(model_store), "SORTLINE_CHUNK_IMAGES": "8", "TEST_FAULT": "before publish=nap"}
    with producer("label", str(source), "-o", str(home / "report.csv"), home=home, env=env) as running:
        wait_until(lambda: rows_done(home) > 20, 60, "the first rows")
        moved.rename(tmp_path / "away")
        time.sleep(3)  # long enough for workers to fail on it
        assert running.poll() is None
        assert rows_done(home) < 2 * IMAGES
        (tmp_path / "away").rename(moved)
        assert running.wait(90) == 0

    rows = rows_of(home / "report.csv")
    assert len(rows) == 2 * IMAGES
    assert {row["status"] for row in rows} == {"ok"}
