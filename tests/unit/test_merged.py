"""``--since --merge``: a report with the rows of earlier runs that still stand, and the new ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.label import ChunkResult, Photo, Row
from model_store.store import ModelVersion
from producer.errors import UsageError
from producer.run.opening import OpenedRun
from producer.runfile import RunFile
from tests.unit import test_since
from tests.unit.test_since import BAD, OK, Opener, finish

settings, store, version, photos, opened = (
    test_since.settings, test_since.store, test_since.version, test_since.photos, test_since.opened
)  # fmt: skip
OTHER = Row(top=((1, 0.6), (0, 0.4)), width=9, height=7)


def labels(run: RunFile) -> dict[str, int | str | None]:
    return {row.path: row.top[0][0] if row.top else row.error for row in run.rows()}


def answer(found: OpenedRun, row: Row) -> list[str]:
    """Give ``row`` to all inputs without one; return their paths."""
    done = []
    for first, paths in list(found.run.missing_chunks(lambda: 1)):
        found.run.record(ChunkResult(run=found.run.plan.run, first=first, rows=(row,) * len(paths)))
        done += paths
    return done


def keep(found: OpenedRun, report: Path, row: Row = OTHER) -> list[str]:
    labelled = answer(found, row)
    finish(found.run, report, done=0)
    return labelled


def test_the_report_has_the_rows_that_still_stand_and_the_new_ones(
    opened: Opener, photos: Path, tmp_path: Path
) -> None:
    finish(opened("1.csv").run, tmp_path / "1.csv", {"sub/c.jpg": BAD})
    (photos / "new.jpg").write_text("new")
    (photos / "b.jpg").write_text("other")  # as long as before
    (photos / "sub" / "50 % ü.jpg").unlink()

    found = opened("2.csv", str(tmp_path / "1.csv"), merged=True)

    assert found.note == f"1 unchanged since {tmp_path / '1.csv'}, 3 to label"
    assert (found.run.done, found.run.total) == (1, 4)
    assert answer(found, OTHER) == ["b.jpg", "new.jpg", "sub/c.jpg"]
    assert labels(found.run) == {"a.jpg": 0, "b.jpg": 1, "new.jpg": 1, "sub/c.jpg": 1}
    found.run.close()


def test_a_chain_is_followed_through_runs_that_left_rows_out(opened: Opener, photos: Path, tmp_path: Path) -> None:
    finish(opened("1.csv").run, tmp_path / "1.csv")
    (photos / "second.jpg").write_text("2")
    keep(opened("2.csv", str(tmp_path / "1.csv")), tmp_path / "2.csv")
    (photos / "third.jpg").write_text("3")

    found = opened("3.csv", str(tmp_path / "2.csv"), merged=True)

    assert answer(found, BAD) == ["third.jpg"]
    assert labels(found.run) == {
        "a.jpg": 0, "b.jpg": 0, "second.jpg": 1, "sub/50 %25 ü.jpg": 0, "sub/c.jpg": 0, "third.jpg": "truncated",
    }  # fmt: skip
    found.run.close()


def test_the_same_report_may_grow_day_by_day(opened: Opener, photos: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.csv"
    finish(opened("report.csv").run, report)
    for day in range(3):
        (photos / f"day-{day}.jpg").write_text(str(day))
        assert keep(opened("report.csv", str(report), merged=True), report) == [f"day-{day}.jpg"]
    again = opened("report.csv", str(report), merged=True)
    assert "nothing new: all 7 images have their row" in again.note
    again.run.close()
    with pytest.raises(UsageError, match="or keep its rows with --merge"):
        opened("report.csv", str(report))


def test_what_the_earlier_run_does_not_know_of_files_is_labelled_anew(
    opened: Opener, photos: Path, tmp_path: Path, version: ModelVersion
) -> None:
    finish(opened("1.csv").run, tmp_path / "1.csv")
    other = ModelVersion(manifest=version.manifest.model_copy(update={"version": 9}), folder=version.folder)
    cases: dict[str, Any] = {"exif": True, "file_info": True, "pages": True, "model": other}
    for name, value in cases.items():
        found = opened(f"{name}.csv", str(tmp_path / "1.csv"), merged=True, **{name: value})
        assert (name, found.run.done) == (name, 0)
        found.run.close()
    found = opened("k.csv", str(tmp_path / "1.csv"), merged=True, top_k=1)
    assert found.run.done == 4
    found.run.close()


def test_what_is_known_of_files_is_taken_over(opened: Opener, photos: Path, tmp_path: Path) -> None:
    row = OK.model_copy(update={"bytes": 3, "sha256": "ab" * 32, "photo": Photo(taken="2026-03-01T12:00:00", make="C")})
    asked = {"exif": True, "file_info": True}
    finish(opened("1.csv", **asked).run, tmp_path / "1.csv", dict.fromkeys(["a.jpg"], row))

    found = opened("2.csv", str(tmp_path / "1.csv"), merged=True, **asked)

    first = next(iter(found.run.rows()))
    assert (first.bytes, first.sha256, first.taken, first.camera_make) == (3, "ab" * 32, "2026-03-01T12:00:00", "C")
    found.run.close()


def test_an_interrupted_one_goes_on(opened: Opener, photos: Path, tmp_path: Path) -> None:
    finish(opened("1.csv").run, tmp_path / "1.csv")
    (photos / "new.jpg").write_text("new")
    opened("2.csv", str(tmp_path / "1.csv"), merged=True).run.close()

    found = opened("2.csv", str(tmp_path / "1.csv"), merged=True)

    assert "4 of 5 images have their row" in found.note
    found.run.close()
