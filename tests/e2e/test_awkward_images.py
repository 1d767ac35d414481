"""`sortline label` on a folder of files that no one expects: every row of the report, and the worker lives on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from base.paths import path_to_text
from base.text import safe_cell
from tests.conftest import LABELS, RedisServer, sortline
from tests.e2e.test_label import cluster, rows_of, worker
from tests.unit.awkward_images import corpus

pytestmark = pytest.mark.slow

MEMORY_MB = 900  # a worker with OpenVINO and the network has about 200


def test_every_awkward_file_has_its_row_and_the_worker_stays_alive_and_small(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    photos = tmp_path / "photos"
    expected = {}
    for file in corpus():
        file.write(photos)
        if file.found:
            expected[safe_cell(path_to_text(file.name))] = file

    with worker(redis_server, home, model_store, photos) as labelling:
        env = cluster(redis_server, model_store, photos)
        sortline("label", str(photos), "-o", "report.csv", home=home, env=env, limit_s=240)
        memory = Path(f"/proc/{labelling.pid}/status").read_text(encoding="utf-8")
        assert labelling.is_running()
        assert int(re.findall(r"VmHWM:\s+(\d+) kB", memory)[0]) < MEMORY_MB * 1024

    rows = {row["path"]: row for row in rows_of(home / "report.csv")}
    assert len(rows_of(home / "report.csv")) == len(rows) == len(expected)
    for path, file in expected.items():
        row = rows[path]
        assert (row["status"], row["error"]) == ("error" if file.reason else "ok", file.reason or ""), row
        if file.reason is None:
            assert (int(row["width"]), int(row["height"])) == file.size, row
            assert row["label"] in LABELS
