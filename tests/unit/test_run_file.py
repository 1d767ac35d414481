"""Run files: every input keeps exactly one row, whatever arrives twice, out of order or after a crash."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.label import ChunkResult, Row
from jobs.messages import ModelPin
from producer.runfile import CURABLE, Plan, RowsMisfit, RunFile, RunFileError
from producer.runfile.inputs import digest_of
from producer.runfile.schema import VERSION
from producer.sources.since import InputFilter

ROOT = Path(__file__).resolve().parents[2]
OK = Row(top=((1, 0.75), (0, 0.25)), width=640, height=480)
BAD = Row(error="truncated", detail="the file ends early")


def plan(chunk_images: int = 4) -> Plan:
    return Plan(
        run="inbox-20260301-1a2b3c",
        source="inbox",
        base="/data/inbox",
        data_root="/data",
        walked=True,
        model=ModelPin(name="pets", version=3, digest="0f" * 32),
        labels=["cat", "dog"],
        groups=["animal", None],
        top_k=2,
        chunk_images=chunk_images,
    )


def names(count: int) -> list[str]:
    return [f"{number:05}.jpg" for number in range(count)]


def missing(run: RunFile, size: int = 4, queued: Iterable[tuple[int, int]] = ()) -> list[tuple[int, list[str]]]:
    return list(run.missing_chunks(lambda: size, queued))


def create(folder: Path, paths: Iterable[str], chunk_images: int = 4) -> RunFile:
    return RunFile.create(folder / "inbox.run", plan(chunk_images), paths)


def answer(first: int, *rows: Row) -> ChunkResult:
    return ChunkResult(run="inbox-20260301-1a2b3c", first=first, rows=rows, worker="label-1@host")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFile]:
    opened = create(tmp_path, names(10))
    yield opened
    opened.close()


def reopened(run: RunFile) -> RunFile:
    run.close()
    return RunFile(run.path)


def test_a_new_run_holds_its_inputs_and_no_row(run: RunFile) -> None:
    assert (run.total, run.done, run.failed, run.sent()) == (10, 0, 0, [])
    assert [row.path for row in run.rows()] == names(10)
    assert all((row.top, row.error) == ([], None) for row in run.rows())
    assert run.paths(3, 2) == names(10)[3:5]
    assert run.paths(9, 100) == names(10)[9:]


def test_a_plan_survives_the_file_and_gains_the_count_and_digest_of_its_inputs(run: RunFile) -> None:
    run = reopened(run)
    found = run.plan
    run.close()

    assert (found.total, found.inputs_digest) == digest_of(names(10), InputFilter("")) == (10, found.inputs_digest)
    assert replace(found, total=0, inputs_digest="") == plan()
    assert Plan.from_json(found.to_json()) == found


def test_the_digest_tells_a_renamed_an_added_and_a_moved_input() -> None:
    lists = [["a", "b"], ["a", "c"], ["a", "b", "c"], ["b", "a"], ["a\nb"], ["ab"], []]

    assert len({digest_of(paths, InputFilter("")) for paths in lists}) == len(lists)


def test_rows_come_in_input_order_however_the_chunks_arrive(run: RunFile) -> None:
    assert run.record(answer(8, OK, BAD)) == 2
    assert run.record(answer(0, BAD, OK, OK, OK)) == 4
    assert run.record(answer(4, OK, OK, OK, OK)) == 4

    assert [row.path for row in run.rows()] == names(10)
    assert [row.input_index for row in run.rows() if row.error] == [0, 9]
    assert next(row for row in run.rows() if row.input_index == 1)[2:7] == ([(1, 0.75), (0, 0.25)], None, "", 640, 480)
    assert (run.done, run.failed) == (10, 2)


def test_a_resumed_run_counts_what_it_had_and_asks_for_the_rest(run: RunFile) -> None:
    run.record(answer(4, OK, BAD, OK, OK))
    run = reopened(run)

    assert (run.done, run.failed, run.total) == (4, 1, 10)
    assert missing(run) == [(0, names(10)[:4]), (8, names(10)[8:])]
    run.close()


def test_a_run_with_all_rows_asks_for_nothing(run: RunFile) -> None:
    run.record(answer(0, *[OK] * 10))

    assert missing(run) == []


def test_a_chunk_recorded_twice_counts_once(run: RunFile) -> None:
    assert run.record(answer(0, OK, BAD, OK, OK)) == 4
    assert run.record(answer(0, OK, BAD, OK, OK)) == 0

    assert (run.done, run.failed) == (4, 1)
    run = reopened(run)
    assert (run.done, run.failed) == (4, 1)
    run.close()


def test_the_first_writer_of_a_row_wins(run: RunFile) -> None:
    run.record(answer(0, OK, BAD))
    new = run.record(answer(0, BAD, OK, BAD))

    assert new == 1
    assert [row.error for row in run.rows()][:3] == [None, "truncated", "truncated"]
    assert (run.done, run.failed) == (3, 2)


def test_after_partial_rows_missing_stretches_hold_what_lies_together(run: RunFile) -> None:
    run.record(answer(1, OK))
    run.record(answer(4, OK, OK, OK))

    assert missing(run) == [(0, names(10)[0:1]), (2, names(10)[2:4]), (7, names(10)[7:10])]
    assert missing(run, 2) == [(0, names(10)[0:1]), (2, names(10)[2:4]), (7, names(10)[7:9]), (9, names(10)[9:10])]


def test_what_is_queued_is_not_missing_whatever_its_size(run: RunFile) -> None:
    run.record(answer(9, OK))

    assert missing(run, 4, [(3, 2), (7, 1)]) == [(0, names(10)[0:3]), (5, names(10)[5:7]), (8, names(10)[8:9])]
    assert missing(run, 100, [(0, 10)]) == []
    assert missing(run, 1, [(1, 8)]) == [(0, names(10)[0:1])]


def test_missing_chunks_sees_rows_that_come_while_it_is_read(run: RunFile) -> None:
    found = run.missing_chunks(lambda: 4)

    assert next(found)[0] == 0
    run.record(answer(4, OK, OK, OK, OK))
    assert next(found)[0] == 8


def test_a_chunk_is_sent_until_its_rows_come(run: RunFile) -> None:
    run.note_sent(4, 4)
    run.note_sent(0, 4)
    run.note_sent(4, 4)  # sent again
    assert run.sent() == [(0, 4), (4, 4)]

    run.record(answer(4, OK, OK, OK, OK))
    assert run.sent() == [(0, 4)]
    run = reopened(run)
    assert run.sent() == [(0, 4)]
    run.close()


@pytest.mark.parametrize(("first", "count"), [(8, 3), (10, 1), (2**53 - 1, 1)])
def test_rows_past_the_end_are_refused_and_none_is_kept(run: RunFile, first: int, count: int) -> None:
    run.note_sent(first, count)
    with pytest.raises(RowsMisfit, match=r"^it sent rows past the end of run inbox-20260301-1a2b3c"):
        run.record(answer(first, *[OK] * count))

    assert (run.done, missing(run)[-1][0]) == (0, 8)
    assert run.sent() == [(first, count)]


def test_names_that_are_not_plain_text_are_kept_as_their_text(tmp_path: Path) -> None:
    with_oddities = [os.fsdecode(b"caf\xe9.jpg"), "two\nlines.jpg", "50%.jpg", "日本.jpg"]
    run = create(tmp_path, iter(with_oddities))

    assert run.paths(0, 9) == ["caf%E9.jpg", "two%0Alines.jpg", "50%25.jpg", "日本.jpg"]
    assert digest_of(with_oddities, InputFilter(""))[1] == run.plan.inputs_digest
    run.close()


def test_the_same_name_twice_has_two_rows(tmp_path: Path) -> None:
    run = create(tmp_path, ["a.jpg", "a.jpg"])

    assert [row.input_index for row in run.rows()] == [0, 1]
    run.close()


def test_a_plan_goes_round_through_json_with_any_name_of_a_folder() -> None:
    wanted = replace(plan(), source="caf%E9", base=os.fsdecode(b"/photos/caf\xe9"))

    assert Plan.from_json(wanted.to_json()) == wanted
    with pytest.raises(ValueError, match="surrogates not allowed"):
        Plan.from_json(replace(plan(), base="/\ud800").to_json())


def test_creating_again_replaces_inputs_and_rows(run: RunFile) -> None:
    run.record(answer(0, OK))
    run.note_sent(4, 4)
    run.close()

    run = RunFile.create(run.path, plan(), names(3))
    assert (run.total, run.done, run.sent(), missing(run)) == (3, 0, [], [(0, names(3))])
    run.close()


@pytest.mark.parametrize("content", [b"", b"hello", b"SQLite format 3\0" + b"\0" * 100])
def test_what_is_no_run_file_is_named_and_can_be_tried_again(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.run"
    path.write_bytes(content)

    for _ in range(2):  # the second time as well: the first left no lock behind
        with pytest.raises(RunFileError, match=r"odd\.run is not a run file \(.*\); delete it to start anew"):
            RunFile(path)


@pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"model": {"name": "pets"}}'])
def test_a_plan_of_another_time_is_no_run_file(run: RunFile, text: str) -> None:
    run.close()
    database = sqlite3.connect(run.path)
    with database:
        database.execute("UPDATE plan SET json = ?", (text,))
    database.close()

    with pytest.raises(RunFileError, match=r"is not a run file \("):
        RunFile(run.path)


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (1, r"written by an older version of Sortline .*: label again with --on-existing overwrite"),
        (
            VERSION + 1,
            r"written by a newer version of Sortline .*: use that version; or label again with --on-existing overwrite",
        ),
    ],
)
@pytest.mark.parametrize("plan", [True, False])  # a newer version may have other tables
def test_a_run_file_of_another_schema_version_is_refused_with_what_to_do(
    run: RunFile, version: int, said: str, plan: bool
) -> None:
    if version == 1 and not plan:
        pytest.skip("the older version had this table")
    run.close()
    with closing(sqlite3.connect(run.path)) as database:
        database.execute(f"PRAGMA user_version = {version}")
        if not plan:
            database.execute("ALTER TABLE plan RENAME TO plans")

    for _ in range(2):  # the second time as well: the first left no lock behind
        with pytest.raises(RunFileError, match=said):
            RunFile(run.path)
    with pytest.raises(RunFileError, match=said):
        RunFile.peek(run.path)


DAMAGE = {
    "inputs in no order": "UPDATE inputs SET idx = 1000 WHERE idx = 9",
    "a chunk of no images": "UPDATE sent SET images = 0",
    "labels that the model lacks": "UPDATE rows SET top = '[[99, 0.5]]' WHERE error IS NULL",
    "a row that is no JSON": "UPDATE rows SET top = '[[1' WHERE error IS NULL",
    "two rows in one": "UPDATE rows SET top = '[], []' WHERE error IS NULL",
    "a label that is no number": "UPDATE rows SET top = '[[\"0\", 0.5]]' WHERE error IS NULL",
    "a path that is no text": "UPDATE inputs SET path = x'ff' WHERE idx = 9",
    "a width that is no number": "UPDATE rows SET width = 'wide'",
    "a confidence above 1": "UPDATE rows SET top = '[[0, 7.5]]' WHERE error IS NULL",
    "seconds that are none": "UPDATE chunks SET seconds = '[]'",
    "a time in no year": "UPDATE chunks SET at = 1e12",
    "a request that is no text": "INSERT INTO reports VALUES ('report.csv', x'ff')",
}


@pytest.mark.parametrize("what", [*DAMAGE, "pages overwritten while it is open"])
def test_a_damaged_run_file_is_named_with_what_to_do(run: RunFile, what: str) -> None:
    run.record(answer(0, OK, OK))
    run.note_sent(4, 4)
    run = reopened(run)
    if what in DAMAGE:
        with closing(sqlite3.connect(run.path)) as database, database:
            database.execute(DAMAGE[what])
    else:
        size = run.path.stat().st_size
        with run.path.open("r+b") as file:  # all but the first page, which names the tables
            file.seek(4096)
            file.write(b"\xa5" * (size - 4096))

    with pytest.raises(
        RunFileError, match=r"inbox\.run is damaged \(.*can't be trusted: label again with --on-existing overwrite"
    ):
        (list(run.rows()), missing(run), run.sent(), list(run.chunks()), run.requests())
    run.close()


def test_twenty_thousand_inputs_are_quick(tmp_path: Path) -> None:
    started = time.monotonic()
    run = create(tmp_path, names(20_000), chunk_images=128)
    for first in range(0, 20_000, 128):
        run.note_sent(first, 128)
        run.record(answer(first, *[OK] * min(128, 20_000 - first)))

    assert sum(1 for _ in run.rows()) == run.done == 20_000
    assert missing(run) == []
    assert run.sent() == []
    assert time.monotonic() - started < 20  # about one on one slow core; a commit a row would take minutes
    run.close()


HOLDER = """
import sys
from pathlib import Path
from producer.runfile import RunFile
run = RunFile(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""
CREATOR = """
import sys, time
from pathlib import Path
from producer.runfile import RunFile
from tests.unit.test_run_file import plan
def paths():
    for number in range(5000):  # enough that SQLite has written some of them to disk
        yield f"half-made-{number:05}-{'x' * 200}.jpg"
    print("held", flush=True)
    time.sleep(120)
RunFile.create(Path(sys.argv[1]), plan(), paths())
"""


def start(program: str, path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def test_a_second_producer_is_refused_with_the_name_of_the_first(run: RunFile) -> None:
    run.close()
    holder = start(HOLDER, run.path)
    held = rf"inbox\.run is in use by process {holder.pid} on {os.uname().nodename}; wait for it or stop it"
    try:
        with pytest.raises(RunFileError, match=held):
            RunFile(run.path)
        with pytest.raises(RunFileError, match=held):
            RunFile.create(run.path, plan(), [])
    finally:
        end(holder)

    freed = RunFile(run.path)  # the lock went with its process; nothing was replaced
    assert freed.total == 10
    freed.close()


def test_a_crash_in_the_middle_of_creating_leaves_no_run_to_resume(tmp_path: Path) -> None:
    path = tmp_path / "inbox.run"
    end(start(CREATOR, path))
    assert not path.exists()
    assert path.with_suffix(".new").stat().st_size > 0  # it was in the middle

    run = create(tmp_path, names(3))
    assert [row.path for row in run.rows()] == names(3)
    assert not path.with_suffix(".new").exists()
    run.close()


def test_a_crash_in_the_middle_of_starting_over_leaves_the_earlier_run(run: RunFile) -> None:
    run.record(answer(0, OK, OK))
    run.close()
    end(start(CREATOR, run.path))

    run = RunFile(run.path)
    assert (run.total, run.done) == (10, 2)
    run.close()


def test_an_error_while_inputs_are_listed_leaves_no_run_and_no_lock(tmp_path: Path) -> None:
    def paths() -> Iterator[str]:
        yield "a.jpg"
        raise OSError("share gone")

    with pytest.raises(OSError, match="share gone"):
        create(tmp_path, paths())

    assert not (tmp_path / "inbox.run").exists()
    create(tmp_path, names(1)).close()


def test_only_failures_that_may_be_mended_are_taken_back(tmp_path: Path) -> None:
    reasons = [None, *CURABLE, "corrupt", "not_an_image"]
    with closing(RunFile.create(tmp_path / "a.run", plan(), [f"{at}.png" for at in range(len(reasons))])) as run:
        rows = tuple(Row(error=reason) if reason else Row(top=((0, 1.0),)) for reason in reasons)
        run.record(ChunkResult(run=run.plan.run, first=0, rows=rows))

        assert run.forget_curable() == len(CURABLE)
        assert (run.done, run.failed) == (3, 2)
        assert [path for _, paths in run.missing_chunks(lambda: 99) for path in paths] == [
            f"{at}.png" for at in range(1, 1 + len(CURABLE))
        ]
        assert [row.error for row in run.rows(failed=True)] == ["corrupt", "not_an_image"]


def test_rows_that_are_not_sure_are_left_out(tmp_path: Path) -> None:
    with closing(RunFile.create(tmp_path / "a.run", plan(), ["0.png", "1.png", "2.png"])) as run:
        rows = tuple(Row(top=((0, 1.0),)) for _ in range(3))

        assert run.record(ChunkResult(run=run.plan.run, first=0, rows=rows), {1}) == 2
        assert [(first, paths) for first, paths in run.missing_chunks(lambda: 99)] == [(1, ["1.png"])]
