"""A run file that grows: batches are taken over whole, once, and each path keeps one row."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import ChunkResult, ModelPin, Photo, Row
from producer.reports.summary import summary
from producer.reports.tally import Tally
from producer.runfile import Batch, GrowingRun, Plan, RunFile
from producer.sources.arrivals import NO_FILE
from producer.sources.since import FileState, InputFilter

PLAN = Plan(
    run="inbox-1a2b3c4d-20260301-1a2b3c",
    source="inbox",
    base="/nowhere",
    data_root="/",
    walked=True,
    model=ModelPin(name="pets", version=1, digest="0f" * 32),
    labels=["cat", "dog"],
    groups=[None, None],
    top_k=1,
    chunk_images=0,
    file_info=True,
    exif=True,
)
BAD = Row(error="truncated", detail="the file ends early")


def cat(confidence: float) -> Row:
    return Row(
        top=((0, confidence),), width=8, height=8, bytes=1, sha256="ab" * 32, photo=Photo(make="Acme", latitude=1.5)
    )


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def run(tmp_path: Path, inbox: Path) -> Iterator[GrowingRun]:
    with closing(GrowingRun.begin(tmp_path / "inbox.run", replace(PLAN, base=str(inbox)))) as run:
        yield run


@pytest.fixture
def batch(run: GrowingRun, inbox: Path) -> Callable[..., RunFile]:
    def labelled(name: str, paths: Sequence[str], rows: Sequence[Row]) -> RunFile:
        found = RunFile.create(
            run.path.with_suffix(".batch"), replace(run.plan, run=name, total=0), paths, InputFilter(str(inbox))
        )
        found.begin_work()
        found.record(ChunkResult(run=name, first=0, rows=tuple(rows), worker="w", engine="e/cpu/f32"))
        return found

    return labelled


def rows(run: RunFile) -> list[tuple[str, float | str]]:
    return [(row.path, row.error or row.top[0][1]) for row in run.rows()]


def always(path: str, state: FileState) -> bool:
    return True


def test_a_path_that_comes_again_keeps_its_place_and_has_the_newer_row(
    run: GrowingRun, batch: Callable[..., RunFile], inbox: Path
) -> None:
    (inbox / "b.jpg").write_text("b")
    with closing(batch("first", ["a.jpg", "b.jpg"], [BAD, cat(0.5)])) as first:
        run.take_over(first, always, {".txt": 2})
    (inbox / "b.jpg").write_text("another")
    with closing(batch("second", ["b.jpg", "c.jpg"], [cat(0.75), cat(0.25)])) as second:
        run.take_over(second, always, {".txt": 3})

    assert rows(run) == [("a.jpg", "truncated"), ("b.jpg", 0.75), ("c.jpg", 0.25)]
    assert (run.done, run.failed, run.total) == (3, 1, 3)
    state = run.state("b.jpg")
    assert (run.state("a.jpg"), state and state.size, run.state("d.jpg")) == (NO_FILE, len("another"), None)
    told = summary(run, Tally(images=run.total))
    assert (told["workers"], told["skipped"]) == ({"w": 4}, {".txt": 3})
    run.close()
    with closing(RunFile(run.path)) as again:  # as `sortline report` opens it
        assert (again.total, again.done, len(list(again.rows()))) == (3, 3, 3)


def test_a_batch_that_is_taken_over_twice_counts_once(run: GrowingRun, batch: Callable[..., RunFile]) -> None:
    with closing(batch("first", ["a.jpg", "b.jpg"], [BAD, cat(0.5)])) as first:
        for _ in range(2):  # killed before its file was deleted
            run.take_over(first, always, {})

    assert rows(run) == [("a.jpg", "truncated"), ("b.jpg", 0.5)]
    assert summary(run, Tally(images=run.total))["workers"] == {"w": 2}
    (found,) = run.unfinished()
    assert found == Batch("first", 2, 1, found.at)
    run.finish(found)
    assert run.unfinished() == []


def test_a_batch_is_taken_over_whole_or_not_at_all(run: GrowingRun, batch: Callable[..., RunFile]) -> None:
    with closing(batch("first", ["a.jpg"], [cat(0.5)])) as first:
        run._db.execute("CREATE TRIGGER trap BEFORE UPDATE ON plan BEGIN SELECT RAISE(ABORT, 'no space'); END")
        with pytest.raises(Exception, match="no space"):
            run.take_over(first, always, {})
        assert (rows(run), run.unfinished()) == ([], [])
        run._db.execute("DROP TRIGGER trap")
        run.take_over(first, always, {})

    assert rows(run) == [("a.jpg", 0.5)]


def test_an_error_that_does_not_count_yet_has_no_row(
    run: GrowingRun, batch: Callable[..., RunFile], inbox: Path
) -> None:
    (inbox / "half.jpg").write_bytes(b"half")
    asked: list[tuple[str, int]] = []

    def counts(path: str, state: FileState) -> bool:
        asked.append((path, state.size))
        return path != "half.jpg"

    with closing(batch("first", ["a.jpg", "gone.jpg", "half.jpg"], [cat(0.5), BAD, BAD])) as first:
        assert run.take_over(first, counts, {}) == ["half.jpg"]

    assert asked == [("gone.jpg", NO_FILE.size), ("half.jpg", 4)]
    assert rows(run) == [("a.jpg", 0.5), ("gone.jpg", "truncated")]
    with closing(batch("second", ["half.jpg"], [BAD])) as second:
        run.take_over(second, counts, {})
    assert [found.run for found in run.unfinished()] == ["first"]  # nothing came of the second


def test_all_that_a_batch_knows_of_a_file_is_taken_over_and_what_was_known_before_goes(
    run: GrowingRun, batch: Callable[..., RunFile]
) -> None:
    with closing(batch("first", ["a.jpg", "b.jpg"], [cat(0.5), cat(0.5)])) as first:
        run.take_over(first, always, {})
    with closing(batch("second", ["b.jpg"], [BAD])) as second:
        run.take_over(second, always, {})

    first_row, second_row = run.rows()
    assert (first_row.sha256, first_row.bytes, first_row.camera_make, first_row.latitude) == ("ab" * 32, 1, "Acme", 1.5)
    assert (second_row.sha256, second_row.bytes, second_row.camera_make, second_row.latitude) == ("", 0, "", None)
    found = {name for (name,) in run._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    taken_over = {"inputs", "rows", "files", "contents", "photos", "chunks", "work", "plan"}
    of_one_command = {"sent", "unchanged", "places", "reports", "batches", "shadow", "shadow_answers"}
    assert found == taken_over | of_one_command, "a new table: `take_over` must know it"


def test_a_million_paths_are_looked_up_by_an_index(run: GrowingRun) -> None:
    plan = run._db.execute("EXPLAIN QUERY PLAN SELECT idx FROM inputs WHERE path = 'x'").fetchall()
    assert "inputs_by_path" in str(plan)
    assert isinstance(run._db, sqlite3.Connection)
