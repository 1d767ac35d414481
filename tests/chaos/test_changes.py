"""What changes during a run: the model in production, twenty times. No report has rows of two versions."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model_store.store import ModelStore
from tests.chaos.fleet import cluster, fleet
from tests.conftest import RedisServer, write_images
from tests.e2e.test_label import producer, rows_done, rows_of

pytestmark = pytest.mark.long


def test_twenty_changes_and_rollbacks_of_production_mix_no_report(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    write_images(tmp_path / "photos", 320)
    root = tmp_path / "store"
    shutil.copytree(model_store, root)
    subprocess.run([sys.executable, "-m", "tests.seeded_model", str(root)], check=True, cwd=Path(__file__).parents[2])
    store = ModelStore(root)
    assert store.versions("colours") == [1, 2]
    env = cluster(redis_server.url, root, tmp_path)
    changes, models = 0, []
    with fleet(2, home, env, {"TEST_FAULT": "before publish=nap"}):
        for version in (1, 2):
            store.set_alias("colours", "production", version, who="tests", why="the run's")
            own = home / str(version)
            own.mkdir()
            with producer("label", str(tmp_path / "photos"), "-o", str(own / "r.csv"), home=own, env=env) as running:
                for turn in range(10):
                    while running.poll() is None and rows_done(own) < (turn + 1) * 24:
                        time.sleep(0.02)  # between two looks
                    if turn % 2:
                        store.rollback("colours", "production", who="tests", why=f"turn {turn}")
                    else:
                        store.set_alias("colours", "production", 3 - version, who="tests", why=f"turn {turn}")
                    changes += running.poll() is None
                assert running.wait(60) == 0
            models.append({row["model"] for row in rows_of(own / "r.csv")})

    assert changes == 20
    assert models == [{"colours:1"}, {"colours:2"}]
