"""The first table of a report is written while rows come in: the same bytes, all of them or no file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from jobs.label import ChunkResult, Row
from producer.errors import ProducerError
from producer.reports import request as requests
from producer.reports.request import EarlyReport, Request, request_of, write_reports
from producer.runfile import RunFile, RunFileError, StoredRow
from producer.runfile.rows import ROWS_A_BATCH
from tests.conftest import wait_until
from tests.unit.reported import ok, run_of

CHUNK = 700
IMAGES = 5 * CHUNK
PATHS = [f"glass/{number:05d}.jpg" for number in range(IMAGES)]
ROWS = [
    Row(error="truncated", detail="cut off") if n % 97 == 5 else ok(n % 3, 0.4 + n % 50 / 100) for n in range(IMAGES)
]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "FIRST_S", 0.0)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFile]:
    with run_of(tmp_path, PATHS, []) as made:
        yield made


def record(run: RunFile, chunk: int) -> None:
    rows = tuple(ROWS[chunk * CHUNK : (chunk + 1) * CHUNK])
    run.record(ChunkResult(run="inbox-1", first=chunk * CHUNK, rows=rows, worker="w", engine="e", seconds={}))


def drafts(request: Request) -> list[Path]:
    return [path for path in request.main.parent.iterdir() if path.name.endswith(".new")]


def test_rows_that_come_in_any_order_make_the_bytes_and_counts_of_a_report_at_the_end(
    run: RunFile, tmp_path: Path
) -> None:
    early_request = request_of(tmp_path / "early.csv", "csv,jsonl,html")
    late_request = request_of(tmp_path / "late.csv", "csv,jsonl,html")
    with EarlyReport(run, early_request) as early:
        for chunk in (1, 0, 3, 4):
            record(run, chunk)
        wait_until(lambda: sum(draft.stat().st_size for draft in drafts(early_request)), 10, "the first lines")
        assert not early_request.main.exists()
        record(run, 2)
    counts = early.counts()
    assert counts is not None
    assert early_request.main.exists()

    early_counts = write_reports(run, early_request, max_pixels=1, counts=counts)
    late_counts = write_reports(run, late_request, max_pixels=1)

    assert early_counts == late_counts
    for name in ("csv", "jsonl", "errors"):
        assert early_request.path(name).read_bytes() == late_request.path(name).read_bytes()
    assert len(early_request.main.read_text().splitlines()) == IMAGES + 1


def test_only_the_first_table_is_early_and_without_one_only_the_counts(run: RunFile, tmp_path: Path) -> None:
    request = request_of(tmp_path / "page.html", None)
    with EarlyReport(run, request) as early:
        for chunk in range(5):
            record(run, chunk)

    counts = early.counts()

    assert counts is not None
    assert counts.ok + counts.failed == IMAGES
    assert not request.main.exists()


def test_a_run_that_ends_before_its_rows_are_there_leaves_no_table(run: RunFile, tmp_path: Path) -> None:
    request = request_of(tmp_path / "report.csv", None)
    record(run, 0)
    with EarlyReport(run, request) as early:
        pass

    assert early.counts() is None
    assert not request.main.exists()
    assert not drafts(request)


def test_an_interrupted_command_does_not_wait_for_the_rows_that_are_there(
    run: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, asked = request_of(tmp_path / "report.csv", None), list[int]()
    record(run, 0)
    row = next(run.rows())

    def many(*_: object) -> Iterator[StoredRow]:
        over = time.monotonic() + 5
        while time.monotonic() < over:
            asked.append(1)
            yield row

    def interrupted() -> None:
        with EarlyReport(run, request):
            wait_until(lambda: asked, 10, "rows")
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFile, "rows_as_they_come", many)
    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert not request.main.exists()
    assert not drafts(request)


def test_a_table_that_can_not_be_written_early_is_tried_again_and_then_said(run: RunFile, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    request = request_of(tmp_path / "file" / "report.csv", None)
    with EarlyReport(run, request) as early:
        for chunk in range(5):
            record(run, chunk)

    assert early.counts() is None
    with pytest.raises(ProducerError, match="can't be written"):
        write_reports(run, request, max_pixels=1, counts=early.counts())


def test_a_run_with_duplicates_is_reported_at_its_end(tmp_path: Path) -> None:
    with run_of(tmp_path, PATHS, ROWS) as run:
        run.plan = replace(run.plan, duplicates=True)
        with EarlyReport(run, request_of(tmp_path / "report.csv", None)) as early:
            pass

        assert early.counts() is None


def test_rows_are_read_in_batches_and_a_missing_one_is_an_error(run: RunFile, tmp_path: Path) -> None:
    over = Event()
    for chunk in (0, 1, 3):
        record(run, chunk)
    over.set()
    rows = run.rows_as_they_come(over)

    assert [next(rows).input_index for _ in range(2 * CHUNK)] == list(range(2 * CHUNK))
    assert ROWS_A_BATCH < 2 * CHUNK
    with pytest.raises(RunFileError, match=f"no row of input {2 * CHUNK}"):
        next(rows)
