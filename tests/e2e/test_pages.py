"""The shell blocks of the pages by task, run as they stand and in order, each page in a folder of its own.

What a page can't know is replaced: the host of a Redis, the folders of a share, the name of a run.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from model_store.store import ModelStore
from tests.conftest import LABELS, RedisServer, end, environment, made_once, seeded_models, sortline
from tests.e2e.test_label import rows_of
from tests.e2e.test_readme import run_block

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("images", "labelling", "models", "precision", "reports", "scaling")
# Blocks that begin so are not run here, and why.
NOT_HERE = {
    "magick mogrify": "needs ImageMagick, and pictures of a phone",
    "sortline label SOURCE": "the command's form",
    "SORTLINE_BROKER=redis://queue-0": "a Redis for each shard is as one Redis for all",
    "sortline models import": "tests/e2e/test_waste.py does, with weights",
}


@pytest.fixture(scope="session")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with three versions of the model that the pages name."""

    def make(root: Path) -> None:
        seeded_models(root, "kitchen", 3)
        ModelStore(root).set_alias("kitchen", "candidate", 2, who="tests", why="the page compares it")

    return made_once(tmp_path_factory, "kitchen", make)


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page: str, kitchen: Path, open_redis_server: RedisServer, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    for number in range(24):
        label = LABELS[number % 4]
        write_photo(folder / "photos" / label / f"{number:02}.jpg", number)
        write_photo(folder / "photos" / "test" / label / f"{number:02}.jpg", 100 + number)
        write_photo(folder / "inbox" / f"{number:02}.jpg", 200 + number)
        write_photo(folder / "scans" / f"{number:02}.jpg", 300 + number)
        write_photo(folder / "trap" / f"{number:02}.jpg", 400 + number)
    if page == "images":
        (folder / "photos" / "broken.jpg").write_text("no image")
    (folder / "names.toml").write_text(f'{LABELS[0]} = "PET"\n')
    home = folder / "home"
    home.mkdir()
    shutil.copytree(kitchen, home / "store")
    settings = {"SORTLINE_BROKER": open_redis_server.url, "SORTLINE_DATA_ROOT": str(folder)}
    replaced = {
        "redis://queue:6379/0": open_redis_server.url,
        "/mnt/photos": str(folder),
        "shard-0[1-3]": "shard-01",  # the other hosts' reports
        "--max-failures 0": "--max-failures 0 || test $? = 4",
        "SORTLINE_PRECISION=bf16": "SORTLINE_PRECISION=f32",
        "--detach": "--detach > run.txt",  # what it prints is the name that the next line needs
        "inbox-4d5e6f70-20260301-1a2b3c": "$(cat run.txt)",
        "sorted/undo-photos-4d5e6f70-20260301-1a2b3c.jsonl": "$(ls sorted/undo-*)",
    }

    with worker(home, settings):
        sortline("label", str(folder / "photos"), "-o", str(folder / "monday.csv"), home=home, env=settings)
        sortline("label", str(folder / "inbox"), "-o", str(folder / "inbox.csv"), home=home, env=settings)
        run = json.loads((folder / "inbox.summary.json").read_text(encoding="utf-8"))["run"]
        (folder / "run.txt").write_text(run)
        said = [run_block(block, folder, replaced, settings) for block in blocks_of(page)]

    assert said
    if page == "models":
        assert (folder / "kitchen.xml").is_file()
        assert ModelStore(home / "store").resolve("kitchen-copy").manifest.version == 1
    if page == "precision":
        assert {row["model"] for row in rows_of(folder / "report.csv")} == {"kitchen:2"}
    broken = [row["path"] for report in folder.glob("report.csv") for row in rows_of(report) if row["status"] != "ok"]
    assert broken == ["broken.jpg"] * (page == "images")


def test_every_block_of_these_pages_is_run_or_named() -> None:
    passed_over = dict.fromkeys(NOT_HERE, 0)
    for page in PAGES:
        for block in all_blocks_of(page):
            passed_over.update({start: 1 for start in NOT_HERE if block.startswith(start)})

    assert all(passed_over.values()), passed_over


def all_blocks_of(page: str) -> list[str]:
    (path,) = ROOT.glob(f"docs/*/{page}.md")
    text = path.read_text(encoding="utf-8")
    return re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def blocks_of(page: str) -> list[str]:
    """The blocks to run here."""
    return [block for block in all_blocks_of(page) if not block.startswith(tuple(NOT_HERE))]


def write_photo(path: Path, seed: int) -> None:
    """Write a small JPEG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8))


@contextmanager
def worker(home: Path, settings: Mapping[str, str]) -> Iterator[None]:
    """A label worker of the Redis of this test."""
    with (home / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", "--queues", "label"],
            env=environment(home, settings),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        end(process)
