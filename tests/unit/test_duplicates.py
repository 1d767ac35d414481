"""Byte-identical images: which are found, and that what is reported depends on the files alone."""

from __future__ import annotations

import csv
import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet

from jobs.label import ChunkResult, Photo, Row
from producer.reports.csv import write_csv
from producer.reports.jsonl import write_jsonl
from producer.reports.layout import Layout
from producer.reports.parquet import write_parquet
from producer.runfile import RunFile
from producer.runfile.duplicates import HEAD_BYTES
from producer.sources.since import InputFilter
from tests.unit.test_run_file import plan

BAD = Row(error="unreadable", detail="no")
FILES = {
    "a.jpg": b"one",
    "b.jpg": b"two",
    "c.jpg": b"one",
    "d.jpg": b"",
    "e.jpg": b"",
    "f/50 %.jpg": b"two",
    "g.jpg": b"one",
    "h.jpg": b"alone in its size",
    "i.jpg": b"x" * HEAD_BYTES + b"1",
    "j.jpg": b"x" * HEAD_BYTES + b"2",
    "k.jpg": b"x" * HEAD_BYTES + b"1",
}
COPIES = {"c.jpg": "a.jpg", "f/50 %25.jpg": "b.jpg", "g.jpg": "a.jpg", "k.jpg": "i.jpg"}


def start(folder: Path, name: str = "inbox.run") -> RunFile:
    base = folder / "photos"
    for path, data in FILES.items():
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_bytes(data)
    asked = replace(plan(chunk_images=2), base=str(base), duplicates=True)
    return RunFile.create(folder / name, asked, list(FILES), InputFilter(str(base)))


def row_of(path: str) -> Row:
    """What a worker says of a file: it depends on the path, so that a row of another file would be seen."""
    return Row(top=((0, 0.5 + len(path) / 100 + ord(path[0]) / 1000), (1, 0.1)), width=8, height=8)


def answer(run: RunFile, chunk: tuple[int, list[str]], fails: frozenset[str] = frozenset()) -> None:
    first, paths = chunk
    rows = tuple(BAD if path in fails else row_of(path) for path in paths)
    run.record(ChunkResult(run=run.plan.run, first=first, rows=rows))


def todo(run: RunFile, size: int = 2) -> list[tuple[int, list[str]]]:
    return list(run.missing_chunks(lambda: size))


def cells(run: RunFile, folder: Path) -> list[dict[str, str]]:
    write_csv(run, folder / "report.csv")
    with (folder / "report.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_content_is_sent_once_and_the_rows_stand_in_input_order(tmp_path: Path) -> None:
    run = start(tmp_path)
    asked = todo(run, 3)
    for chunk in asked:
        answer(run, chunk)
    rows = cells(run, tmp_path)
    inputs = (run.done, run.total, run.duplicates)
    run.close()

    texts = [path.replace("%", "%25") for path in FILES]
    assert [path for _, paths in asked for path in paths] == [path for path in texts if path not in COPIES]
    assert [len(paths) for _, paths in asked] == [3, 3, 1]  # copies between them make no small chunks
    assert inputs == (11, 11, 4)
    assert [row["path"] for row in rows] == texts
    assert {row["path"]: row["duplicate_of"] for row in rows if row["duplicate_of"]} == COPIES
    confidence = {row["path"]: row["confidence"] for row in rows}
    assert all(confidence[copy] == confidence[first] for copy, first in COPIES.items())


def test_what_is_known_of_a_file_stands_beside_its_duplicates_too(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_text("the same")
    whole = replace(plan(), base=str(tmp_path), duplicates=True, exif=True, file_info=True)
    run = RunFile.create(tmp_path / "d.run", whole, ["a.jpg", "b.jpg"], InputFilter(str(tmp_path)))
    row = Row(top=((0, 0.9), (1, 0.1)), bytes=8, sha256="ab" * 32, photo=Photo(taken="2026-03-01T12:00:00", model="X"))

    run.record(ChunkResult(run=whole.run, first=0, rows=(row,)))

    known = [(found.duplicate_of, found.bytes, found.taken, found.camera_model) for found in run.rows()]
    run.close()
    assert known == [("", 8, "2026-03-01T12:00:00", "X"), ("a.jpg", 8, "2026-03-01T12:00:00", "X")]


def test_any_order_of_chunks_and_any_kill_gives_the_same_bytes(tmp_path: Path) -> None:
    calm = start(tmp_path, "calm.run")
    for chunk in todo(calm):
        answer(calm, chunk)
    write_csv(calm, tmp_path / "calm.csv")
    calm.close()
    for seed in range(5):
        run = start(tmp_path, f"{seed}.run")
        chunks = todo(run) * 2  # delivered twice, too
        random.Random(seed).shuffle(chunks)  # noqa: S311
        for chunk in chunks:
            answer(run, chunk)
            run.close()
            run = RunFile(run.path)
        write_csv(run, tmp_path / "disturbed.csv")
        assert (run.done, run.failed, todo(run)) == (11, 0, [])
        run.close()

        assert (tmp_path / "disturbed.csv").read_bytes() == (tmp_path / "calm.csv").read_bytes()


def test_copies_of_an_image_that_failed_are_tried_themselves(tmp_path: Path) -> None:
    run = start(tmp_path)
    for chunk in todo(run):
        answer(run, chunk, frozenset({"a.jpg"}))
    again = todo(run)
    assert (sorted(path for _, paths in again for path in paths), run.failed) == (["c.jpg", "g.jpg"], 1)
    for chunk in again:
        answer(run, chunk, frozenset({"g.jpg"}))
    rows = {row["path"]: row for row in cells(run, tmp_path)}
    run.close()

    assert [rows[path]["status"] for path in ("a.jpg", "c.jpg", "g.jpg")] == ["error", "ok", "error"]
    assert {rows[path]["duplicate_of"] for path in ("a.jpg", "c.jpg", "g.jpg")} == {""}
    assert rows["k.jpg"]["duplicate_of"] == "i.jpg"


def test_every_format_has_the_column_and_a_run_without_the_option_has_it_nowhere(tmp_path: Path) -> None:
    run = start(tmp_path)
    for chunk in todo(run):
        answer(run, chunk)
    layout = Layout.of(run.plan)
    write_jsonl(run, tmp_path / "r.jsonl", layout)
    write_parquet(run, tmp_path / "r.parquet", layout)
    run.close()

    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines()]
    table = pyarrow.parquet.read_table(tmp_path / "r.parquet").to_pylist()
    for found in (lines, table):
        assert {row["path"]: row["duplicate_of"] for row in found if row["duplicate_of"] is not None} == COPIES
    assert not Layout.of(plan()).duplicates


def test_a_pipe_and_a_missing_file_are_no_copies(tmp_path: Path) -> None:
    base = tmp_path / "photos"
    base.mkdir()
    os.mkfifo(base / "a.jpg")
    (base / "b.jpg").write_bytes(b"one")
    asked = replace(plan(), base=str(base), duplicates=True)

    run = RunFile.create(tmp_path / "r.run", asked, ["a.jpg", "gone.jpg", "b.jpg", "b.jpg"], InputFilter(str(base)))

    assert todo(run, 9) == [(0, ["a.jpg", "gone.jpg", "b.jpg"])]
    run.close()
