"""Somebody who reads only the README: its shell blocks run as they stand, in order, in one folder.

What a page can't know is replaced: the host of a Redis, the folders of a share. A command that stays in the foreground
goes to the background, as a second terminal would be. `make demo` and `make test` are what CI and its demo run.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import NOTHING, SHARED, SORTLINE, RedisServer, environment, free_port
from tests.e2e.test_label import rows_of

pytestmark = [pytest.mark.long, pytest.mark.shared]

README = Path(__file__).resolve().parents[2] / "README.md"
SECTIONS = ("Label your own photos", "Retrain", "Monitor")
STAYING = re.compile(r"^(sortline (?:worker|up)\b[^#\n]*).*$", re.MULTILINE)
# The next command of the README needs what `up` starts; a worker may come later than its work.
BACKGROUND = r"\1 & for try in $(seq 300); do sortline jobs list >/dev/null 2>&1 && break; sleep 0.2; done"
LIMIT_S = 280


def blocks_of(section: str) -> list[str]:
    text = README.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if not block.startswith("sortline models import best.onnx")]


def run_block(block: str, folder: Path, replaced: Mapping[str, str], more: Mapping[str, str] = NOTHING) -> str:
    """Run one block to its end; return all that it said."""
    for name, value in replaced.items():
        block = block.replace(name, value)
    ending = "trap 'for job in $(jobs -p); do kill $job || true; done; wait' EXIT"
    script = f"set -euo pipefail\n{ending}\n{STAYING.sub(BACKGROUND, block)}"
    own = {"FLOWER_PORT": str(free_port())}  # another test's may take the first free one at the same moment
    env = environment(folder / "home", {**own, **more})
    env["PATH"] = f"{Path(SORTLINE).parent}{os.pathsep}{env['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_all_blocks_of_the_sections_for_users_are_run() -> None:
    everywhere = re.findall(r"^```sh\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)

    run = [block for section in SECTIONS for block in blocks_of(section)]
    # tests/compose/test_compose.py installs in a clean environment, tests/unit/test_imported.py imports classifiers,
    # tests/browser/test_review_page.py corrects, trains and labels again.
    assert [" ".join(block.split()[:2]) for block in everywhere if block not in run] == [
        "make demo",
        "sortline models",
        "pip install",
        "sortline review",
        "make quick",
    ]


@pytest.mark.skipif(not SHARED.exists() and os.environ.get("CI") != "true", reason="needs ../shared")
def test_a_newcomer_labels_own_photos_retrains_and_looks_at_the_jobs(
    open_redis_server: RedisServer, tmp_path: Path
) -> None:
    for label in ("00_07", "01_02", "03_03"):
        photos = sorted((SHARED / "data" / "waste" / "train" / label).iterdir())[:24]
        for number, photo in enumerate(photos):
            folder = tmp_path / ("photos" if number < 20 else "inbox") / (label if number < 20 else "")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{label}-{number:02}.jpg").write_bytes(photo.read_bytes())
    replaced = {
        "redis://queue:6379/0": open_redis_server.url,
        "/mnt/photos/inbox": str(tmp_path / "inbox"),
        "/mnt/photos": str(tmp_path),
        "/mnt/models": str(tmp_path / "home" / "store"),
    }

    first, cluster = (run_block(block, tmp_path, replaced) for block in blocks_of("Label your own photos"))
    (retrain,) = (run_block(block, tmp_path, replaced) for block in blocks_of("Retrain"))
    (monitor,) = (run_block(block, tmp_path, replaced) for block in blocks_of("Monitor"))

    assert "importing the weights efficientnet-lite1 into the store, once" in first
    assert "published kitchen:1; in production" in first
    rows = rows_of(tmp_path / "monday" / "report.csv")
    assert len(rows) == 12
    assert sum(row["path"].startswith(row["label"]) for row in rows) >= 10
    assert (tmp_path / "monday" / "report.html").stat().st_size > 10_000
    assert "12 images: 12 labelled, 0 failed" in cluster
    assert [row["label"] for row in rows_of(tmp_path / "report.csv")] == [row["label"] for row in rows]
    assert "kitchen:2" in retrain
    assert "kitchen@production is 1 again" in retrain
    assert "up: Redis at" in monitor
    assert "Flower at http://127.0.0.1:" in monitor
    assert "ok   broker: the stack of `sortline up`" in monitor
