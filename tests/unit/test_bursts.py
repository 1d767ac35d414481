"""What cameras wrote in reports, and bursts: photos of one camera in one folder that follow each other closely."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pyarrow.parquet as pq
import pytest

from jobs.label import Photo, Row
from producer.errors import UsageError
from producer.reports.bursts import Bursts, gap_of
from producer.reports.request import request_of, write_reports
from tests.unit.reported import ok, run_of

BROKEN = Row(error="truncated", detail="the file ends early")


def taken(row: Row, at: str = "", **more: Any) -> Row:
    photo = Photo(taken=f"2026-03-01T{at}" if at else "", **{"make": "Canon", "model": "EOS", **more})
    return row.model_copy(update={"photo": photo})


def reported(folder: Path, photos: dict[str, Row], *options: str, **more: Any) -> list[dict[str, str]]:
    """Return the rows of a CSV of such photos, with bursts of a minute."""
    request = request_of(folder / "out", ",".join(["csv", *options]), **{"bursts_s": 60.0, **more})
    with run_of(folder, [*photos], [*photos.values()], exif=True) as run:
        write_reports(run, request, max_pixels=1)
    return list(csv.DictReader((folder / "out" / "report.csv").read_text().splitlines()))


def test_what_cameras_wrote_stands_in_every_table(tmp_path: Path) -> None:
    photos = {
        "a.jpg": taken(ok(0), "12:00:00+02:00", latitude=-33.8584721, longitude=151.2, make="=Canon"),
        "b.jpg": BROKEN,
    }

    first, second = reported(tmp_path, photos, "jsonl", "parquet", "xlsx", bursts_s=None)

    columns = ["taken", "camera_make", "camera_model", "latitude", "longitude"]
    assert [*first][-5:] == columns
    assert [first[name] for name in columns] == [
        "2026-03-01T12:00:00+02:00",
        "'=Canon",
        "EOS",
        "-33.858472",
        "151.200000",
    ]
    assert [second[name] for name in columns] == [""] * 5
    good, bad = map(json.loads, (tmp_path / "out" / "report.jsonl").read_text().splitlines())
    assert [good[name] for name in columns] == ["2026-03-01T12:00:00+02:00", "=Canon", "EOS", -33.858472, 151.2]
    assert [bad[name] for name in columns] == [None] * 5
    table = pq.read_table(tmp_path / "out" / "report.parquet")
    assert (str(table.schema.field("latitude").type), table["longitude"].to_pylist()) == ("double", [151.2, None])
    with ZipFile(tmp_path / "out" / "report.xlsx") as book:
        sheet, styles = (book.read(f"xl/{name}.xml").decode() for name in ("worksheets/sheet1", "styles"))
    assert "<v>-33.8584721</v>" in sheet
    assert "0.000000" in styles


def test_a_run_without_them_has_no_such_columns(tmp_path: Path) -> None:
    with run_of(tmp_path, ["a.jpg"], [ok(0)]) as run:
        write_reports(run, request_of(tmp_path / "r.csv", None), max_pixels=1)
        with pytest.raises(UsageError, match="did not keep when photos were taken; label again with --bursts"):
            request_of(tmp_path / "r.csv", None, bursts_s=60.0).check_rows(run)

    assert "taken" not in (tmp_path / "r.csv").read_text()


def test_a_burst_is_of_one_camera_in_one_folder_without_a_longer_gap(tmp_path: Path) -> None:
    photos = {
        "a/1.jpg": taken(ok(0), "12:00:00"),
        "a/2.jpg": taken(ok(0), "12:02:30"),  # later in time, but not in the report
        "a/3.jpg": taken(ok(0), "12:01:00"),  # to the second as long after the first as a gap may be
        "a/4.jpg": taken(ok(0), "12:02:00", serial="another body"),
        "a/5.jpg": taken(ok(0), "12:05:00"),
        "a/6.jpg": taken(ok(0), ""),
        "a/7.jpg": ok(0),
        "b/1.jpg": taken(ok(0), "12:00:30"),
        "b/2.jpg": taken(ok(0), "13:01:00+01:00"),  # 12:01 in UTC, as its neighbour shows it
    }

    rows = reported(tmp_path, photos)

    assert [row["burst"] for row in rows] == ["1", "2", "1", "3", "4", "", "", "5", "5"]


def test_the_vote_of_a_burst_is_what_most_of_its_photos_are(tmp_path: Path) -> None:
    photos = {
        "1.jpg": taken(ok(1, 0.99), "12:00:00"),
        "2.jpg": taken(ok(0, 0.5), "12:00:10"),
        "3.jpg": taken(ok(0, 0.6), "12:00:20"),
        "4.jpg": taken(BROKEN, "12:00:30"),  # no label, no vote; it has one all the same
        "5.jpg": taken(ok(1, 0.7), "14:00:00"),
        "6.jpg": taken(ok(2, 0.8), "14:00:01"),  # as many: the surer one
        "7.jpg": taken(BROKEN, "16:00:00"),
    }

    rows = reported(tmp_path, photos)

    votes = [(row["label"], row["burst"], row["burst_label"], row["burst_share"]) for row in rows]
    assert votes == [
        ("paper", "1", "glass", "0.6667"),
        ("glass", "1", "glass", "0.6667"),
        ("glass", "1", "glass", "0.6667"),
        ("", "1", "glass", "0.6667"),
        ("paper", "2", "tin", "0.5000"),
        ("tin", "2", "tin", "0.5000"),
        ("", "3", "", ""),
    ]


def test_labels_of_one_name_vote_together(tmp_path: Path) -> None:
    photos = {f"{best}.jpg": taken(ok(best), f"12:00:0{best}") for best in (1, 0, 2)}
    (tmp_path / "names.csv").write_text("label,name\nglass,hard\ntin,hard\n")

    rows = reported(tmp_path, photos, class_map=tmp_path / "names.csv")

    assert {(row["burst_label"], row["burst_share"]) for row in rows} == {("hard", "0.6667")}


def test_a_time_that_a_worker_made_up_is_in_no_burst(tmp_path: Path) -> None:
    rows = reported(tmp_path, {"1.jpg": taken(ok(0), "99:99:99")})

    assert rows[0]["burst"] == ""


def test_bursts_are_found_once_for_all_tables(tmp_path: Path) -> None:
    with run_of(tmp_path, ["1.jpg"], [taken(ok(0), "12:00:00")], exif=True) as run:
        bursts = Bursts(run, 60)
        bursts.find(["x", "y", "z"])
        assert bursts.of(0) == (1, "x", 1.0)
        bursts.find(["a", "b", "c"])
        assert bursts.of(0) == (1, "a", 1.0)


@pytest.mark.parametrize(("text", "seconds"), [("60s", 60), ("90", 90), ("2m", 120), ("1.5 min", 90), ("1h", 3600)])
def test_a_gap_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    assert gap_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1s", "60 days", "1e9", "nan"])
def test_another_gap_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="as in 60s or 2m"):
        gap_of(text)
