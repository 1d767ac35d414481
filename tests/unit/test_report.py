"""report.csv to the byte, and what spreadsheets and failing disks could make of it."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.text import safe_cell
from jobs.label import ChunkResult, Row
from jobs.messages import ModelPin
from producer.errors import ProducerError
from producer.reports.csv import _cell, write_csv
from producer.reports.layout import Layout
from producer.reports.report import replacing
from producer.runfile import Plan, RunFile

ROOT = Path(__file__).resolve().parents[2]
LABELS = ["glass", "paper", "tin"]
GROUPS: list[str | None] = ["recyclable", "recyclable", None]
OK = Row(top=((2, 0.75), (0, 0.20004), (1, 0.04996)), width=640, height=480)


opened: list[RunFile] = []


@pytest.fixture(autouse=True)
def _runs_are_closed() -> Iterator[None]:
    yield
    while opened:
        opened.pop().close()


def made(
    folder: Path,
    paths: Sequence[str],
    rows: Sequence[Row],
    *,
    labels: list[str] = LABELS,
    groups: list[str | None] = GROUPS,
    top_k: int = 3,
) -> RunFile:
    plan = Plan(
        run="inbox-1",
        source="inbox",
        base="/data/inbox",
        data_root="/data",
        walked=True,
        model=ModelPin(name="waste", version=7, digest="0f" * 32),
        labels=labels,
        groups=groups,
        top_k=top_k,
        chunk_images=2,
    )
    run = RunFile.create(folder / "inbox.run", plan, paths)
    opened.append(run)
    run.record(ChunkResult(run="inbox-1", first=0, rows=tuple(rows)))
    return run


def written(run: RunFile, folder: Path) -> str:
    write_csv(run, folder / "report.csv")
    return (folder / "report.csv").read_bytes().decode()


def cells(run: RunFile, folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(written(run, folder).splitlines(keepends=True)))


def test_a_report_has_exactly_these_bytes(tmp_path: Path) -> None:
    broken = Row(error="truncated", detail="the file ends early, after 20 bytes", width=3, height=2)
    glass = Row(top=((0, 1.0), (1, 0.0), (2, 0.0)), width=1, height=2)
    run = made(tmp_path, ["a/tin.jpg", "bad.png", "glass.jpg", "late.jpg"], [OK, broken, glass])

    assert written(run, tmp_path) == (
        "path,status,label,confidence,group,label_2,confidence_2,label_3,confidence_3,"
        "error,error_detail,width,height,model\n"
        "a/tin.jpg,ok,tin,0.7500,,glass,0.2000,paper,0.0500,,,640,480,waste:7\n"
        'bad.png,error,,,,,,,,truncated,"the file ends early, after 20 bytes",3,2,waste:7\n'
        "glass.jpg,ok,glass,1.0000,recyclable,paper,0.0000,tin,0.0000,,,1,2,waste:7\n"
        "late.jpg,missing,,,,,,,,,,,,\n"
    )
    write_csv(run, tmp_path / "report.csv")

    assert len((tmp_path / "report.csv").read_text().splitlines()) - 1 == run.total == 4


def test_with_one_label_a_row_there_are_no_further_columns(tmp_path: Path) -> None:
    run = made(tmp_path, ["a.jpg"], [Row(top=((1, 0.5),), width=8, height=9)], top_k=1)

    assert written(run, tmp_path) == (
        "path,status,label,confidence,group,error,error_detail,width,height,model\n"
        "a.jpg,ok,paper,0.5000,recyclable,,,8,9,waste:7\n"
    )


def test_no_more_columns_than_the_model_has_labels(tmp_path: Path) -> None:
    run = made(tmp_path, ["a.jpg"], [OK], top_k=100)

    assert Layout.of(run.plan).ranks == 3
    assert [name for name in Layout.of(run.plan).columns if name.startswith("label")] == ["label", "label_2", "label_3"]


def test_a_row_with_fewer_labels_than_columns_is_filled_up(tmp_path: Path) -> None:
    run = made(tmp_path, ["a.jpg"], [Row(top=((2, 0.75),), width=8, height=9)])

    assert written(run, tmp_path).splitlines()[1] == "a.jpg,ok,tin,0.7500,,,,,,,,8,9,waste:7"


def test_every_line_has_as_many_cells_as_the_header(tmp_path: Path) -> None:
    run = made(tmp_path, ["a", "b", "c"], [OK, Row(error="empty", detail="it has no content")])

    lines = list(csv.reader(written(run, tmp_path).splitlines()))
    assert {len(line) for line in lines} == {14}
    assert len(lines) == 4


def test_formulas_in_names_labels_groups_and_details_do_not_run(tmp_path: Path) -> None:
    formula = "=cmd|' /C calc'!A0"
    run = made(
        tmp_path,
        [f"{formula}.jpg", "@sum.jpg", "-1+1/a=b.jpg"],
        [Row(top=((0, 0.6), (1, 0.4))), Row(error="corrupt", detail="+1 byte"), Row(top=((1, 0.9), (0, 0.1)))],
        labels=[formula, "-x"],
        groups=["@group", "=group"],
    )

    found = cells(run, tmp_path)
    assert [row["path"] for row in found] == [f"'{formula}.jpg", "'@sum.jpg", "'-1+1/a=b.jpg"]
    assert [row["label"] for row in found] == [f"'{formula}", "", "'-x"]
    assert [row["label_2"] for row in found] == ["'-x", "", f"'{formula}"]
    assert [row["group"] for row in found] == ["'@group", "", "'=group"]
    assert found[1]["error_detail"] == "'+1 byte"
    assert not [cell for row in found for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]


def test_names_with_any_byte_stay_one_row_of_utf8(tmp_path: Path) -> None:
    names = ["a,b.jpg", 'say "hi".jpg', "two\nlines\r.jpg", os.fsdecode(b"caf\xe9.jpg"), "日本.jpg", "100%.jpg"]
    run = made(tmp_path, names, [OK] * len(names))

    text = written(run, tmp_path)
    assert [line.split(",ok,")[0] for line in text.split("\n")[1:-1]] == [
        '"a,b.jpg"',
        '"say ""hi"".jpg"',
        "two%0Alines%0D.jpg",
        "caf%E9.jpg",
        "日本.jpg",
        "100%25.jpg",
    ]
    assert [row["path"] for row in cells(run, tmp_path)][:2] == names[:2]


@given(st.lists(st.text(st.sampled_from("=+-@\t\r\n\",; 'aq\u2028\x00")), min_size=2, max_size=4))
def test_cells_are_quoted_as_pythons_writer_quotes_them(labels: list[str]) -> None:
    expected = io.StringIO(newline="")
    csv.writer(expected, lineterminator="\r\n").writerow([safe_cell(label) for label in labels])

    assert ",".join(map(_cell, labels)) + "\r\n" == expected.getvalue()


def test_labels_are_quoted_where_they_must_be(tmp_path: Path) -> None:
    run = made(tmp_path, ["a"], [Row(top=((0, 1.0),))], labels=['tin, "big"', "Glas ü"], top_k=1)

    assert written(run, tmp_path).splitlines()[1] == 'a,ok,"tin, ""big""",1.0000,recyclable,,,,,waste:7'


def test_the_same_rows_make_the_same_bytes_whenever_they_came(tmp_path: Path) -> None:
    reports = []
    for name, order in (("one", [0, 1, 2]), ("two", [2, 0, 1])):
        run = made(tmp_path / name, ["a", "b", "c"], [])
        for index in order:
            row = Row(top=((index, 0.5),), width=index + 1, height=1)
            run.record(ChunkResult(run="inbox-1", first=index, rows=(row,)))
        reports += [written(run, tmp_path), written(run, tmp_path)]

    assert len(set(reports)) == 1


def test_missing_folders_of_the_report_are_made(tmp_path: Path) -> None:
    write_csv(made(tmp_path, ["a"], [OK]), tmp_path / "reports" / "march" / "monday.csv")

    assert [path.name for path in (tmp_path / "reports" / "march").iterdir()] == ["monday.csv"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from producer.reports.csv import write_csv
from producer.runfile import RunFile
run = RunFile(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # as a disk with 20 kB left
write_csv(run, Path(sys.argv[2]))
"""


def test_a_disk_that_fills_up_leaves_the_old_report_and_nothing_beside_it(tmp_path: Path) -> None:
    report = tmp_path / "out" / "report.csv"
    report.parent.mkdir()
    report.write_text("the report of yesterday")
    run = made(tmp_path, [f"{number:0100}.jpg" for number in range(1000)], [OK] * 1000)
    run.close()

    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(run.path), str(report)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )

    assert f"{report} can't be written: File too large. Every row is safe in {run.path}" in done.stderr
    assert report.read_text() == "the report of yesterday"
    assert list(report.parent.iterdir()) == [report]


def test_a_report_that_can_not_be_put_in_its_place_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "out" / "report.csv").mkdir(parents=True)

    with pytest.raises(ProducerError, match=r"report\.csv can't be written: Is a directory"):
        write_csv(made(tmp_path, ["a"], [OK]), tmp_path / "out" / "report.csv")

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.csv"]


KILLED = """
import os, signal, sys
from pathlib import Path
from producer.reports.report import replacing
from producer.runfile import RunFile
run = RunFile(Path(sys.argv[1]))
with replacing(Path(sys.argv[2]), run.path) as beside:
    beside.write_text("half a rep")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_report_of_a_run_takes_the_place_of_what_a_killed_process_left(tmp_path: Path) -> None:
    report = tmp_path / "out" / "report.csv"
    run = made(tmp_path, ["a"], [OK])
    run.close()
    for _ in range(2):
        subprocess.run([sys.executable, "-c", KILLED, str(run.path), str(report)], cwd=ROOT, timeout=60, check=False)
        assert len(list(report.parent.iterdir())) == 1

    run = RunFile(run.path)
    opened.append(run)
    write_csv(run, report)

    assert list(report.parent.iterdir()) == [report]


def test_a_report_is_never_written_through_a_link_that_somebody_put_in_its_way(tmp_path: Path) -> None:
    run, precious = made(tmp_path, ["a"], [OK]), tmp_path / "precious"
    precious.write_text("mine")
    with replacing(tmp_path / "report.csv", run.path) as beside:
        beside.write_text("first")
    beside.symlink_to(precious)

    write_csv(run, tmp_path / "report.csv")

    assert precious.read_text() == "mine"
