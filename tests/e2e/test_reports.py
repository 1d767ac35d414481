"""`sortline label --format`, `report` and `eval` as a person runs them."""

from __future__ import annotations

import csv
import json
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.conftest import LABELS, RedisServer, sortline, write_images
from tests.e2e.test_label import cluster, worker

pytestmark = pytest.mark.slow


def rows_of(report: Path) -> list[dict[str, str]]:
    with report.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_one_command_writes_every_report_and_another_makes_them_again(
    home: Path, tmp_path: Path, model_store: Path
) -> None:
    photos, env = tmp_path / "photos", {"SORTLINE_STORE": str(model_store)}
    write_images(photos, 40)
    (photos / "bad.jpg").write_text("not a picture")
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0x9003: "2026:03:01 12:00:05", 0x9011: "+02:00"})
    for name in ("00000", "00001"):
        Image.open(photos / f"{name}.png").save(photos / f"{name}.png", exif=exif.tobytes())
    command = [
        "label",
        str(photos),
        "-o",
        "out",
        "--format",
        "csv,parquet,jsonl,xlsx,html",
        "--file-info",
        "--bursts",
        "60s",
        "--prob-columns",
        "--top-k",
        "2",
    ]

    done = sortline(*command, home=home, env=env)

    out = home / "out"
    names = ["errors.csv", *(f"report.{name}" for name in ("csv", "html", "jsonl", "parquet", "xlsx")), "summary.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    rows = rows_of(out / "report.csv")
    assert len(rows) == 41
    assert {f"p:{label}" for label in LABELS} < set(rows[0])
    assert "label_3" not in rows[0]
    for row in rows:  # the broken one too
        data = (photos / row["path"]).read_bytes()
        assert (row["bytes"], row["sha256"]) == (str(len(data)), sha256(data).hexdigest())
        assert row["modified"].endswith("Z")
    assert [(row["taken"], row["burst"]) for row in rows[:3]] == [("2026-03-01T12:00:05+02:00", "1")] * 2 + [("", "")]
    assert (rows[0]["burst_label"], rows[0]["burst_share"]) == (rows[1]["burst_label"], rows[1]["burst_share"])
    assert sum(float(rows[0][f"p:{label}"]) for label in LABELS) == pytest.approx(1, abs=3e-4)
    assert pq.read_table(out / "report.parquet").num_rows == 41
    assert len((out / "report.jsonl").read_text().splitlines()) == 41
    assert [row["path"] for row in rows_of(out / "errors.csv")] == ["bad.jpg"]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["images"], summary["ok"], summary["reasons"]) == (41, 40, {"not_an_image": 1})
    assert summary["seconds"] > 0
    assert summary["engines"][0]["engine"] == "openvino"
    assert summary["engines"][0]["images"] == 41
    assert "report: out/report.csv, beside it report.parquet, report.jsonl, report.xlsx, report.html" in done.stderr

    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for path in list(out.iterdir()):
        if path.name != "report.csv":
            path.unlink()
    sortline("report", "out/report.csv", home=home)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    refused = sortline("report", "out/other.csv", home=home, code=2)
    assert "no run out/other.csv: pass a run file, the name of a run, or a report" in refused.stderr
    sortline("report", summary["run"], "-o", "elsewhere.jsonl", home=home)
    assert len((home / "elsewhere.jsonl").read_text().splitlines()) == 41
    sortline("report", str(next((home / "runs").glob("*.run"))), home=home)


def test_eval_compares_with_the_folders_and_lists_what_does_not_count(
    home: Path, tmp_path: Path, model_store: Path
) -> None:
    env = {"SORTLINE_STORE": str(model_store)}
    write_images(tmp_path / "others" / "cats", 2)
    refused = sortline("eval", str(tmp_path / "others"), home=home, env=env, code=2)
    assert f"the folders are cats; the labels of colours:1 are {', '.join(sorted(LABELS))}" in refused.stderr
    assert not list(home.glob("evaluation.*"))

    for label in (*LABELS, "misc"):
        write_images(tmp_path / "test" / label, 6)
    (tmp_path / "test" / "red" / "bad.jpg").write_text("not a picture")

    done = sortline("eval", str(tmp_path / "test"), home=home, env=env)

    assert "accuracy against the folders' names: " in done.stderr
    assert "not counted, could not be labelled: 1" in done.stderr
    assert "not counted, in folders that are no label: 6 (misc 6)" in done.stderr
    found = json.loads((home / "evaluation.summary.json").read_text())["evaluation"]
    assert (found["images"], found["unreadable"], found["other_folders"]) == (24, 1, {"misc": 6})
    assert found["top1"]["right"] == sum(item["right"] for item in found["classes"].values())
    assert found["group"]["share"] == 1.0  # one group in this model
    text = (home / "evaluation.html").read_text(encoding="utf-8")
    assert "Confusion matrix" in text
    assert "misc (6)" in text


def test_images_are_sorted_and_brought_back(home: Path, tmp_path: Path, model_store: Path) -> None:
    photos = tmp_path / "photos"
    before = {path.name: path.read_bytes() for path in write_images(photos, 20)}
    (photos / "bad.jpg").write_text("not a picture")

    done = sortline(
        "label", str(photos), "--sort-into", str(tmp_path / "sorted"), "--by", "move", home=home,
        env={"SORTLINE_STORE": str(model_store)},
    )  # fmt: skip

    assert f"sorted by move into {tmp_path / 'sorted'}: 20 images" in done.stderr
    assert [path.name for path in photos.iterdir()] == ["bad.jpg"]
    for row in rows_of(home / "report.csv"):
        if row["status"] == "ok":
            assert (tmp_path / "sorted" / row["label"] / row["path"]).read_bytes() == before[row["path"]]
    command = done.stderr.strip().splitlines()[-1].removeprefix("to undo it: sortline ")
    undone = sortline(*command.split(), home=home)
    assert "taken back: 20 images" in undone.stdout
    assert {path.name: path.read_bytes() for path in photos.glob("*.png")} == before
    assert list((tmp_path / "sorted").iterdir()) == []


def test_what_can_not_be_fails_before_anything_is_labelled(home: Path, tmp_path: Path, model_store: Path) -> None:
    write_images(tmp_path / "photos", 2)
    (tmp_path / "map.csv").write_text("label,name\nrde,crimson\n")
    env = {"SORTLINE_STORE": str(model_store)}
    photos = str(tmp_path / "photos")

    for arguments, message in (
        (["--format", "csv,xls"], "--format xls: no such format"),
        (["--class-map", str(tmp_path / "map.csv")], "'rde', which is no label of colours:1; did you mean 'red'?"),
        (["--sort-into", photos + "/sorted"], "is inside the labelled folder"),
    ):
        done = sortline("label", photos, *arguments, home=home, env=env, code=2)
        assert message in done.stderr
    assert not (home / "report.csv").exists()


def test_a_detached_run_is_gathered_into_the_reports_it_was_sent_for(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    write_images(tmp_path / "photos", 50)
    env = cluster(redis_server, model_store, tmp_path)
    job = sortline(
        "label", str(tmp_path / "photos"), "--detach", "-o", "out", "--format", "jsonl,csv", home=home, env=env
    ).stdout.strip()
    with worker(redis_server, home, model_store, tmp_path):
        sortline("jobs", "gather", job, home=home, env=env)

    names = ["errors.csv", "report.csv", "report.jsonl", "summary.json"]
    assert sorted(path.name for path in (home / "out").iterdir()) == names


def test_each_picture_of_a_file_has_one_row_also_after_a_kill(home: Path, tmp_path: Path, model_store: Path) -> None:
    photos = tmp_path / "photos"
    pages = [Image.open(path) for path in write_images(photos, 30)]
    pages[0].save(photos / "scan.tif", save_all=True, append_images=pages[1:])
    env = {"SORTLINE_STORE": str(model_store), "SORTLINE_CHUNK_IMAGES": "8"}
    command = ["label", str(photos), "-o", "report.csv", "--top-k", "1", "--pages", "all"]

    sortline(*command, home=home, env={**env, "TEST_FAULT": "after journal:3=kill"}, code=-9)
    resumed = sortline(*command, home=home, env=env)

    assert "of 60 images have their row" in resumed.stderr
    rows = rows_of(home / "report.csv")
    expected = [(f"{number:05d}.png", "1") for number in range(30)]
    expected += [("scan.tif", str(page)) for page in range(1, 31)]
    assert [(row["path"], row["page"]) for row in rows] == expected
    assert [row["label"] for row in rows[:30]] == [row["label"] for row in rows[30:]]
    again = sortline(*command, home=home, env=env)
    assert "nothing new: all 60 images have their row" in again.stderr
    refused = sortline(*command, "--duplicates", home=home, env=env, code=2)
    assert "--duplicates: not with --pages all" in refused.stderr
