"""`sortline watch` as a service runs it: killed in mid-batch and started again, told to end."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.conftest import sortline, wait_until, write_images
from tests.e2e.test_label import SLOWED, expect_none_running, producer, rows_of

pytestmark = pytest.mark.slow


def test_kills_at_any_line_lose_no_row_and_double_none(home: Path, tmp_path: Path, model_store: Path) -> None:
    inbox, counts = tmp_path / "inbox", tmp_path / "counts.jsonl"
    images = write_images(inbox, 24)
    command = ["watch", str(inbox), "--once", "--settle", "0.1", "--then", f"cat >> {counts}; echo >> {counts}"]
    setting = {"SORTLINE_STORE": str(model_store), "SORTLINE_CHUNK_IMAGES": "8"}

    for step in ("after journal:2", "report written:1"):
        sortline(*command, home=home, env={**setting, "TEST_FAULT": f"{step}=kill"}, code=-signal.SIGKILL)
    (inbox / "00000.png").write_bytes(images[1].read_bytes())  # replaced while nobody looked
    done = sortline(*command, home=home, env=setting)

    rows = rows_of(home / "report.csv")
    assert [row["path"] for row in rows] == [image.name for image in images]
    assert all(row["status"] == "ok" for row in rows)
    assert rows[0]["confidence"] == rows[1]["confidence"]
    told = [json.loads(line) for line in counts.read_text().splitlines()]
    assert [(batch["images"], batch["total_images"]) for batch in told] == [(24, 24), (1, 24)]
    assert json.loads((home / "report.summary.json").read_text())["workers"].values()
    assert "24 images of inbox have their row" in done.stderr
    expect_none_running(home)


def test_a_service_labels_what_arrives_and_ends_when_it_is_told_to(
    home: Path, tmp_path: Path, model_store: Path
) -> None:
    inbox, report = tmp_path / "inbox", tmp_path / "report.csv"
    inbox.mkdir()
    setting = {**SLOWED, "SORTLINE_STORE": str(model_store)}

    with producer("watch", str(inbox), "-o", str(report), "--settle", "0.1", home=home, env=setting) as process:
        wait_until(report.exists, 30)  # with its header alone
        write_images(inbox / "card" / "DCIM", 2)  # a folder that was not there
        wait_until(lambda: len(rows_of(report)) == 2, 30)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)

    assert process.returncode == 0
    assert said[1].rstrip().splitlines()[-1].startswith("2 images of inbox have their row; to go on: the same command")
    assert "Traceback" not in said[1]
    expect_none_running(home)
