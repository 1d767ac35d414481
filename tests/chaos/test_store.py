"""The model store under eight writers that are killed: versions without gaps, production always whole."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model_store.store import ModelStore
from tests.unit.test_model_store import writing

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
KILLS = 30


def start(store: Path, what: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tests.chaos.store_actor", str(store), what], cwd=ROOT)


def test_eight_publishers_and_promoters_with_kills_leave_a_whole_history_and_readers_see_no_half(
    tmp_path: Path,
) -> None:
    root = tmp_path / "store"
    store = ModelStore(root)
    first = store.publish("waste", writing())
    store.set_alias("waste", "production", first.version, who="tests", why="the first")
    chance = random.Random(1)  # noqa: S311
    kinds = ["publish", "promote"] * 4
    actors = [start(root, kind) for kind in kinds]
    reads, kills = 0, 0
    moved: set[int] = set()
    deadline = time.monotonic() + 120
    try:
        while (kills < KILLS or len(moved) < 20 or len(store.versions("waste")) < 40) and time.monotonic() < deadline:
            version = store.resolve("waste@production")
            moved.add(version.version)
            for name in version.manifest.files:
                assert store.open_file("waste", version.version, name)  # checked by its sha256
            reads += 1
            if reads % 5 == 0:
                place = chance.randrange(len(actors))
                actors[place].kill()
                actors[place].wait()
                actors[place] = start(root, kinds[place])
                kills += 1
    finally:
        for actor in actors:
            actor.kill()
            actor.wait()

    versions = store.versions("waste")
    assert kills >= KILLS
    assert versions == list(range(1, len(versions) + 1))
    for number in versions:
        manifest = store.resolve(f"waste:{number}").manifest
        for name in manifest.files:
            assert store.open_file("waste", number, name)
    history = store.history("waste")
    assert store.aliases("waste")["production"] in versions
    assert {move.new for move in history} <= set(versions)
    print(f"{len(versions)} versions, {len(history)} moves, {reads} reads, {kills} kills")
