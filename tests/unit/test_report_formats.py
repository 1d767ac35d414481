"""JSONL, Parquet, errors and summary of a run, class maps, probability columns, and where each report goes."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, get_args
from xml.etree import ElementTree
from zipfile import ZipFile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from base.text_files import read_table
from jobs.label import ChunkResult, Row
from producer.commands.options import Formats
from producer.errors import UsageError
from producer.reports import CsvDialect
from producer.reports.csv import write_csv, write_errors
from producer.reports.jsonl import write_jsonl
from producer.reports.layout import Layout, read_class_map
from producer.reports.parquet import schema_of, write_parquet
from producer.reports.report import table
from producer.reports.request import FORMATS, Request, formats_of, outputs_of, request_of, write_reports
from producer.reports.summary import Timing, summary
from producer.reports.truth import FolderTruth
from producer.reports.xlsx import write_xlsx
from producer.runfile import RunFile, StoredRow
from producer.sources.since import InputFilter
from tests.unit.reported import ok, run_of, tally

ROOT = Path(__file__).resolve().parents[2]
BROKEN = Row(error="truncated", detail="the file ends early", width=3, height=2)


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_bare_return_in_a_label_does_not_end_a_row(tmp_path: Path) -> None:
    with run_of(tmp_path, ["a", "b"], [ok(0), ok(1)], labels=["gl\rass", "pa\nper", "tin"]) as run:
        write_csv(run, tmp_path / "r.csv")

    assert [row["label"] for row in lines_of(tmp_path / "r.csv")] == ["gl\rass", "pa\nper"]
    assert b'"gl\rass"' in (tmp_path / "r.csv").read_bytes()
    assert b"\r\n" not in (tmp_path / "r.csv").read_bytes()


def test_json_lines_hold_what_the_csv_holds_without_its_escapes(tmp_path: Path) -> None:
    labels = ["=glass\n", "pa\u2028per", "tin"]
    with run_of(tmp_path, ["a.jpg", "b.jpg", "c.jpg"], [ok(0, 0.75), BROKEN], labels=labels) as run:
        write_jsonl(run, tmp_path / "r.jsonl", Layout.of(run.plan))

    text = (tmp_path / "r.jsonl").read_text(encoding="utf-8")
    good, broken, missing = (json.loads(line) for line in text.split("\n")[:-1])
    assert good == {
        "path": "a.jpg",
        "status": "ok",
        "label": "=glass\n",
        "confidence": 0.75,
        "group": "recyclable",
        "top": [
            {"label": "=glass\n", "confidence": 0.75},
            {"label": "pa\u2028per", "confidence": 0.125},
            {"label": "tin", "confidence": 0.125},
        ],
        "error": None,
        "error_detail": None,
        "width": 640,
        "height": 480,
        "model": "waste:7",
    }
    assert (broken["status"], broken["error"], broken["label"], broken["top"]) == ("error", "truncated", None, [])
    assert (missing["status"], missing["model"], missing["width"]) == ("missing", None, None)


def test_the_types_of_parquet_columns_do_not_depend_on_the_rows(tmp_path: Path) -> None:
    with run_of(tmp_path, ["a.jpg", "b.jpg"], [BROKEN, BROKEN]) as run:
        layout = Layout.of(run.plan)
        write_parquet(run, tmp_path / "all_bad.parquet", layout)
    with run_of(tmp_path / "2", ["a.jpg", "b.jpg"], [ok(2, 0.8), BROKEN]) as run:
        write_parquet(run, tmp_path / "mixed.parquet", layout)

    bad, mixed = pq.read_table(tmp_path / "all_bad.parquet"), pq.read_table(tmp_path / "mixed.parquet")
    assert bad.schema == mixed.schema == schema_of(layout)
    assert mixed.schema.names == layout.columns
    assert mixed.schema.field("confidence_2").type == pa.float32()
    assert mixed.schema.field("label").type == pa.string()
    assert mixed.schema.metadata[b"model"] == b"waste:7"
    first, second = mixed.to_pylist()
    assert (first["label"], round(first["confidence"], 6), first["group"], first["error"]) == ("tin", 0.8, None, None)
    assert (second["label"], second["confidence"], second["error"], second["width"]) == (None, None, "truncated", 3)


def test_two_runs_with_the_same_answers_give_the_same_parquet_bytes(tmp_path: Path) -> None:
    for name in ("1", "2"):
        with run_of(tmp_path / name, ["a.jpg", "b.jpg"], [ok(2, 0.8), BROKEN]) as run:
            run.plan = replace(run.plan, run=f"photos-{name}")
            write_parquet(run, tmp_path / f"{name}.parquet", Layout.of(run.plan))

    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_without_pyarrow_the_command_says_what_to_install_before_any_work(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"  # as where it is not installed
        "from producer.__main__ import run\n"
        "sys.exit(run(['label', sys.argv[1], '-o', 'r.parquet']))"
    )
    (tmp_path / "photos").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "photos")], capture_output=True, text=True, cwd=ROOT, check=False
    )

    assert done.returncode == 2
    assert f'{sys.executable} -m pip install "sortline[parquet]"' in done.stderr


def test_the_errors_file_holds_the_images_that_failed_and_nothing_else(tmp_path: Path) -> None:
    with run_of(tmp_path, ["=a.jpg", "b.jpg", "c.jpg"], [BROKEN, ok(1)]) as run:
        write_errors(run, tmp_path / "e.csv", Layout.of(run.plan))

    assert (tmp_path / "e.csv").read_text() == (
        "path,error,error_detail,width,height\n'=a.jpg,truncated,the file ends early,3,2\n"
    )


def test_the_summary_adds_up(tmp_path: Path) -> None:
    rows = [ok(0, 0.9), ok(0, 0.5), ok(2, 0.7), BROKEN, Row(error="empty", detail="no content")]
    with run_of(tmp_path, [f"{n}.jpg" for n in range(6)], rows) as run:
        found = summary(run, tally(run, Layout.of(run.plan)))

    assert (found["images"], found["ok"], found["failed"], found["missing"]) == (6, 3, 2, 1)
    assert found["labels"] == {"glass": 2, "tin": 1}
    assert found["groups"] == {"recyclable": 2}
    assert found["reasons"] == {"empty": 1, "truncated": 1}
    assert found["mean_confidence"] == 0.7
    assert found["model"] == {"name": "waste", "version": 7, "digest": "0f" * 32}
    assert found["engines"] == [{"engine": "openvino", "device": "cpu", "precision": "bf16", "images": 5}]
    assert found["workers"] == {"label-1@host": 5}
    assert found["stage_seconds"] == {"decode_s": 0.5, "chunk_s": 1.0}
    assert "evaluation" not in found
    assert json.loads(json.dumps(found)) == found


def test_seconds_between_two_commands_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("producer.runfile.file.time.time", lambda: now)
    with run_of(tmp_path, [f"{n}.jpg" for n in range(4)], []) as run:
        from jobs.label import ChunkResult

        now += 4
        run.record(ChunkResult(run="inbox-1", first=0, rows=(ok(0), ok(1))))
        now += 3600
        run.begin_work()  # a command that was stopped before anything came back
        now += 3600
        run.begin_work()
        now += 1
        run.record(ChunkResult(run="inbox-1", first=2, rows=(ok(0), ok(1))))
        timing = Timing.of(run)

    assert timing.seconds == 5
    assert timing.rate == 4 / 5


def test_probability_columns_need_a_run_that_kept_every_label(tmp_path: Path) -> None:
    with (
        run_of(tmp_path, ["a.jpg"], [ok(0, top_k=2)], top_k=2) as run,
        pytest.raises(UsageError, match=r"kept 2 of 3 labels an image.* label again with --prob-columns"),
    ):
        Layout.of(run.plan, probabilities=True)


def test_probability_columns_hold_every_class_and_sum_up_classes_of_one_name(tmp_path: Path) -> None:
    class_map = {"paper": ("dry", None), "tin": ("dry", "sack")}
    with run_of(tmp_path, ["a.jpg", "b.jpg"], [ok(2, 0.6), BROKEN]) as run:
        layout = Layout.of(run.plan, ranks=1, class_map=class_map, probabilities=True)
        write_csv(run, tmp_path / "r.csv", layout)
        write_jsonl(run, tmp_path / "r.jsonl", layout)
        write_parquet(run, tmp_path / "r.parquet", layout)

    first, second = lines_of(tmp_path / "r.csv")
    assert (first["label"], first["confidence"], first["group"]) == ("dry", "0.6000", "sack")
    assert (first["p:glass"], first["p:dry"]) == ("0.2000", "0.8000")
    assert (second["p:glass"], second["p:dry"]) == ("", "")
    assert "label_2" not in first
    assert json.loads((tmp_path / "r.jsonl").read_text().splitlines()[0])["probabilities"] == {"glass": 0.2, "dry": 0.8}
    assert pq.read_table(tmp_path / "r.parquet")["p:dry"].to_pylist() == [pytest.approx(0.8, abs=1e-6), None]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.toml", 'glass = "jar"\ntin = {name = "metal", group = "yellow bag"}\n'),
        ("map.csv", "label,name,group\nglass,jar,\ntin,metal,yellow bag\n"),
    ],
)
def test_a_class_map_renames_labels_and_leaves_others(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    class_map = read_class_map(tmp_path / name)
    with run_of(tmp_path, ["a.jpg"], [ok(2)]) as run:
        layout = Layout.of(run.plan, class_map=class_map)

    assert layout.names == ["jar", "paper", "metal"]
    assert layout.groups == ["recyclable", "recyclable", "yellow bag"]


@pytest.mark.parametrize(("written", "label"), [("K\u00e4se", "Ka\u0308se"), ("Ka\u0308se", "K\u00e4se")])
def test_class_maps_and_folders_match_labels_of_the_other_normal_form(written: str, label: str, tmp_path: Path) -> None:
    with run_of(tmp_path, [f"{written}/a.jpg"], [ok(0)], labels=[label, "paper", "tin"]) as run:
        layout = Layout.of(run.plan, class_map={written: ("Cheese", None)})
        truth = FolderTruth(run, layout)

    assert layout.names == ["Cheese", "paper", "tin"]
    assert truth.name(f"{written}/a.jpg") == "Cheese"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.toml", 'glas = "jar"', "the class map names 'glas', which is no label of waste:7; did you mean 'glass'"),
        ("m.toml", "glass = 3", "'glass' must be a name, or a table"),
        ("m.toml", 'glass = {nme = "x"}', "'glass' must be a name, or a table"),
        ("m.csv", "a,b\n1,2\n", "no columns label and name"),
        ("m.csv", "label,name\n", "maps no label"),
    ],
)
def test_a_class_map_that_can_not_be_meant_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)

    with run_of(tmp_path, ["a.jpg"], [ok(2)]) as run, pytest.raises(UsageError, match=message):
        Layout.of(run.plan, class_map=read_class_map(tmp_path / name))


def test_formats_are_read_from_a_list_and_unknown_ones_refused() -> None:
    assert formats_of("html, CSV") == ["csv", "html"]
    assert formats_of(None) == []
    with pytest.raises(UsageError, match="no such format; there are csv, parquet, jsonl, xlsx, megadetector, html"):
        formats_of("csv,xls")


def test_a_format_is_an_entry_of_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_names(run: RunFile, path: Path, layout: Layout, rows: Iterable[StoredRow]) -> int:
        path.parent.mkdir()
        return path.write_text("".join(f"{answer.path} {answer.ranked[0][0]}\n" for answer in layout.answers(rows)))

    def refuse() -> None:
        raise UsageError("no package")

    monkeypatch.setitem(FORMATS, "txt", table("txt", write_names))
    monkeypatch.setitem(FORMATS, "xml", table("xml", write_names, refuse))
    with run_of(tmp_path, ["a.jpg", "b.jpg"], [ok(0), ok(2)]) as run:
        counts = write_reports(run, request_of(tmp_path / "out", "txt,html"), max_pixels=1)

    assert (tmp_path / "out" / "report.txt").read_text() == "a.jpg glass\nb.jpg tin\n"
    assert (counts.ok, (tmp_path / "out" / "report.html").is_file()) == (2, True)
    with pytest.raises(UsageError, match="no package"):  # before anything is labelled
        request_of(tmp_path / "r.xml", None)


def test_the_help_names_every_format() -> None:
    (option,) = get_args(Formats)[1:]

    assert option.help.startswith(f"{', '.join(FORMATS)};")


@pytest.mark.parametrize(
    ("output", "formats", "expected"),
    [
        ("r.csv", [], ["r.csv", "r.errors.csv", "r.summary.json"]),
        ("r.html", [], ["r.html", "r.errors.csv", "r.summary.json"]),
        ("r.csv", ["csv", "html"], ["r.csv", "r.html", "r.errors.csv", "r.summary.json"]),
        ("r.csv", ["html"], ["r.html", "r.errors.csv", "r.summary.json"]),
        ("r.txt", [], ["r.txt", "r.errors.csv", "r.summary.json"]),
        ("r.txt", ["html"], ["r.html", "r.errors.csv", "r.summary.json"]),
        ("r.v2.csv", [], ["r.v2.csv", "r.v2.errors.csv", "r.v2.summary.json"]),
        ("2026.03.01", [], ["2026.03.01/report.csv", "2026.03.01/errors.csv", "2026.03.01/summary.json"]),
        ("run.v1", ["html"], ["run.v1/report.html", "run.v1/errors.csv", "run.v1/summary.json"]),
        ("week.march", [], ["week.march/report.csv", "week.march/errors.csv", "week.march/summary.json"]),
        ("out", ["jsonl"], ["out/report.jsonl", "out/errors.csv", "out/summary.json"]),
        ("out", [], ["out/report.csv", "out/errors.csv", "out/summary.json"]),
    ],
)
def test_each_report_has_its_place(output: str, formats: list[str], expected: list[str], tmp_path: Path) -> None:
    found = outputs_of(tmp_path / output, formats)

    assert list(found.values()) == [str(tmp_path / name) for name in expected]
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize("name", ["r.json", "r.xlsm", "r.XLS", "r.csv.gz", "r.tsv", "r.htm", "r.pq", "r.zip", "r.png"])
def test_a_suffix_of_another_format_is_refused_with_those_there_are(name: str, tmp_path: Path) -> None:
    for formats in (None, "csv", "csv,html"):
        with pytest.raises(
            UsageError, match=r"no report has the format \.\w+; there are csv, parquet, jsonl, xlsx, megadetector, html"
        ):
            request_of(tmp_path / name, formats)
    (tmp_path / name).mkdir()
    assert request_of(tmp_path / name, None).main == tmp_path / name / "report.csv"  # a folder that is there


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("file/r.csv", "Not a directory"),
        ("file/deep/r.csv", "Not a directory"),
        ("file", "Not a directory"),
        ("there/r.csv", "it is a folder"),
        ("/proc/none/r.csv", "No such file or directory"),
        (f"{'x' * 240}.csv", "File name too long"),
        pytest.param("closed/r.csv", "Permission denied", marks=pytest.mark.skipif(os.getuid() == 0, reason="root")),
    ],
)
def test_a_place_that_can_not_be_written_is_refused_before_anything_is_labelled(
    output: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "there" / "r.errors.csv").mkdir(parents=True)
    (tmp_path / "closed").mkdir(mode=0o500)

    with pytest.raises(UsageError, match=f"can't be written: {why}"):
        request_of(tmp_path / output, None).check_places()


def test_a_dash_is_no_report() -> None:
    with pytest.raises(UsageError, match="-o -: reports are files"):
        request_of(Path("-"), "csv")


def test_a_place_that_can_be_written_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("the report of yesterday")

    request_of(tmp_path / "new" / "deep" / "r.csv", None).check_places()
    request_of(tmp_path / "r.csv", "csv,html").check_places()

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("r.csv", "the report of yesterday")]


def test_a_request_is_kept_in_the_run_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("label,name\nglass,jar\n")
    request = request_of(tmp_path / "out", "csv,html", ranks=2, class_map=tmp_path / "map.csv", truth="folders")
    other = request_of(tmp_path / "r.jsonl", None)
    with run_of(tmp_path, ["a.jpg"], [ok(0)]) as run:
        request.keep(run)
        other.keep(run)
        request.keep(run)
        kept = [Request.from_json(text) for text in run.requests()]

    assert kept == [other, request]


def test_all_reports_are_made_and_the_csv_has_its_bytes(tmp_path: Path) -> None:
    with run_of(tmp_path, ["a.jpg", "b.jpg"], [ok(0), BROKEN]) as run:
        write_reports(run, request_of(tmp_path / "out", "csv,html,jsonl,parquet"), max_pixels=10**8)
        write_csv(run, tmp_path / "alone.csv")

    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["errors.csv", "report.csv", "report.html", "report.jsonl", "report.parquet", "summary.json"]
    assert (tmp_path / "out" / "report.csv").read_bytes() == (tmp_path / "alone.csv").read_bytes()


@pytest.mark.parametrize("formats", ["csv", "html", "jsonl,parquet,html"])
def test_the_counts_are_the_same_whatever_reports_are_made(tmp_path: Path, formats: str) -> None:
    paths = ["glass/a.jpg", "glass/b.jpg", "tin/c.jpg", "paper/d.jpg"]
    with run_of(tmp_path, paths, [ok(0), ok(1, 0.5), BROKEN]) as run:
        request = request_of(tmp_path / "out", formats)
        counts = write_reports(run, request, max_pixels=10**8)
        expected = tally(run, request.layout(run))

    assert counts == expected
    assert (counts.ok, counts.failed, counts.missing) == (2, 1, 1)


@pytest.mark.slow
def test_memory_stays_flat_whatever_the_number_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.reports.parquet.ROWS_A_GROUP", 2_000)  # two groups are the most that is held
    peaks = []
    for images in (4_000, 20_000):
        folder = tmp_path / str(images)
        with run_of(folder, [f"{n % 7}/{n:07}.jpg" for n in range(images)], [ok(n % 3) for n in range(images)]) as run:
            layout = Layout.of(run.plan)
            tracemalloc.start()
            counts = tally(run, layout)
            write_csv(run, folder / "r.csv", layout)
            write_jsonl(run, folder / "r.jsonl", layout)
            write_parquet(run, folder / "r.parquet", layout)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert counts.ok == images

    assert peaks[1] < 1.15 * peaks[0]  # 22 bytes a row would show


def test_chosen_columns_are_those_of_every_table_in_their_order(tmp_path: Path) -> None:
    with run_of(tmp_path, ["=a.jpg", "b.jpg"], [ok(0, 0.75), BROKEN]) as run:
        request = request_of(tmp_path / "out", "csv,jsonl,parquet", columns=["confidence", "path", "error"])
        write_reports(run, request, max_pixels=1)

    out = tmp_path / "out"
    assert (out / "report.csv").read_text() == "confidence,path,error\n0.7500,'=a.jpg,\n,b.jpg,truncated\n"
    assert [json.loads(line) for line in (out / "report.jsonl").read_text().splitlines()] == [
        {"confidence": 0.75, "path": "=a.jpg", "error": None},
        {"confidence": None, "path": "b.jpg", "error": "truncated"},
    ]
    found = pq.read_table(out / "report.parquet")
    assert found.schema.names == ["confidence", "path", "error"]
    assert found.to_pylist() == [json.loads(line) for line in (out / "report.jsonl").read_text().splitlines()]


def test_a_column_that_is_not_there_is_refused_before_anything_is_labelled(tmp_path: Path) -> None:
    with run_of(tmp_path, ["a.jpg"], []) as run:
        for columns, why in (
            (["path", "lable"], r"--columns: no column 'lable'; there are path, status, label, .*, model$"),
            (["decision"], r"no column 'decision'"),  # without --min-confidence
            (["path", "path"], r"--columns: path is named twice"),
        ):
            with pytest.raises(UsageError, match=why):
                request_of(tmp_path / "r.csv", None, columns=columns).check_rows(run)
        request_of(tmp_path / "r.csv", None, columns=["decision"], min_confidence=0.5).check_rows(run)


def test_answers_below_a_confidence_are_to_be_reviewed_in_every_format(tmp_path: Path) -> None:
    with run_of(tmp_path, ["a.jpg", "b.jpg", "c.jpg"], [ok(0, 0.7), ok(1, 0.6999), BROKEN]) as run:
        request = request_of(tmp_path / "out", "csv,jsonl,parquet,html", min_confidence=0.7, ranks=1)
        counts = write_reports(run, request, max_pixels=1)
        layout = request.layout(run)

    out = tmp_path / "out"
    rows = list(csv.DictReader((out / "report.csv").read_text().splitlines()))
    assert [row["decision"] for row in rows] == ["accept", "review", ""]
    assert list(rows[0])[4:6] == ["group", "decision"]
    assert [json.loads(line)["decision"] for line in (out / "report.jsonl").read_text().splitlines()] == [
        "accept", "review", None,
    ]  # fmt: skip
    assert pq.read_table(out / "report.parquet")["decision"].to_pylist() == ["accept", "review", None]
    summary = json.loads((out / "summary.json").read_text())
    assert (counts.to_review, summary["min_confidence"]) == (1, 0.7)
    assert layout.columns[5] == "decision"


@pytest.mark.parametrize(
    ("dialect", "start", "cells"),
    [
        ("excel", "\ufeffpath,status,", ["a;b.jpg", '"c,d.jpg"', "0.7500"]),
        ("excel-semicolon", "\ufeffpath;status;", ['"a;b.jpg"', "c,d.jpg", "0,7500"]),
    ],
)
def test_a_csv_for_excel_has_its_mark_separator_and_line_ends(
    dialect: CsvDialect, start: str, cells: list[str], tmp_path: Path
) -> None:
    with run_of(tmp_path, ["a;b.jpg", "c,d.jpg"], [ok(0, 0.75), BROKEN]) as run:
        request = request_of(tmp_path / "r.csv", None, csv_dialect=dialect)
        write_reports(run, request, max_pixels=1)

    text = (tmp_path / "r.csv").read_bytes().decode()
    assert text.startswith(start)
    assert text.count("\r\n") == text.count("\n") == 3
    assert all(cell in text for cell in cells)
    assert [row["path"] for _, row in read_table(tmp_path / "r.csv")[1]] == ["a;b.jpg", "c,d.jpg"]
    assert read_table(tmp_path / "r.errors.csv")[1][0][1]["path"] == "c,d.jpg"


def sheet_of(path: Path) -> list[list[str | float | None]]:
    """Return the cells of a workbook with one sheet, read as the format's specification has it."""
    spaces = {"x": "http://schemas.openxmlformats.org/spreadsheetml/2006/main"}
    with ZipFile(path) as file:
        tree = ElementTree.fromstring(file.read("xl/worksheets/sheet1.xml"))  # noqa: S314 - ours
    rows = []
    for row in tree.findall(".//x:row", spaces):
        cells: dict[str, str | float] = {}
        for cell in row.findall("x:c", spaces):
            column = re.sub(r"[0-9]", "", cell.attrib["r"])
            text = cell.find("x:is/x:t", spaces)
            value = cell.find("x:v", spaces)
            assert cell.find("x:f", spaces) is None  # a formula
            cells[column] = text.text or "" if text is not None else float(value.text or "")  # type: ignore[union-attr]
        rows.append([cells.get(column) for column in "ABCDEFGHIJKLMNOPQR"])
    return rows


def test_a_workbook_has_the_cells_of_the_csv_none_a_formula_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    labels = ["=1+1", "http://x", "t\x07\ufffein\n"]
    rows = [ok(0, 0.75, top_k=1), ok(1, top_k=1), ok(2, top_k=1), BROKEN]
    for name in ("1", "2"):
        with run_of(tmp_path / name, ["=a.jpg", "0123", "c.jpg", "d.jpg"], rows, labels=labels, top_k=1) as run:
            run.plan = replace(run.plan, run=f"photos-{name}")
            write_xlsx(run, tmp_path / f"{name}.xlsx", Layout.of(run.plan))
            columns = Layout.of(run.plan).columns

    assert (tmp_path / "1.xlsx").read_bytes() == (tmp_path / "2.xlsx").read_bytes()
    head, *shown = sheet_of(tmp_path / "1.xlsx")
    assert head[: len(columns)] == columns
    assert [row[:4] for row in shown] == [
        ["=a.jpg", "ok", "=1+1", 0.75],
        ["0123", "ok", "http://x", 0.9],
        ["c.jpg", "ok", "t\\x07\ufffdin\\n", 0.9],
        ["d.jpg", "error", None, None],
    ]


def test_more_rows_than_a_sheet_holds_are_refused_before_anything_is_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "xlsx", replace(FORMATS["xlsx"], most_rows=1))
    with run_of(tmp_path, ["a.jpg", "b.jpg"], []) as run:
        with pytest.raises(UsageError, match="--format xlsx: a file holds 1 rows, and this run has 2"):
            request_of(tmp_path / "r.xlsx", None).check_rows(run)
        request_of(tmp_path / "r.csv", None).check_rows(run)


def test_without_xlsxwriter_the_command_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xlsxwriter", None)

    with pytest.raises(UsageError, match=r"--format xlsx needs XlsxWriter .* -m pip install \"sortline\[xlsx\]\""):
        request_of(tmp_path / "r.xlsx", None)


def spec_faults(found: dict[str, Any]) -> Iterator[str]:
    """Yield what the output format of MegaDetector, version 1.4, does not allow."""
    if not isinstance(found["info"]["format_version"], str) or float(found["info"]["format_version"]) < 1.3:
        yield "format_version"
    for key in ("detection_categories", "classification_categories"):
        yield from (f"{key} {number}" for number, name in found[key].items() if int(number) < 0 or not name)
    for image in found["images"]:
        if image.get("failure") is not None and (
            not isinstance(image["failure"], str) or image["detections"] is not None
        ):
            yield f"failure of {image['file']}"
        for one in image["detections"] or ():
            boxes = (
                isinstance(one["conf"], float) and len(one["bbox"]) == 4 and all(0 <= part <= 1 for part in one["bbox"])
            )
            values = [value for _, value in one["classifications"]]
            ids = {number for number, _ in one["classifications"]} <= found["classification_categories"].keys()
            if not (
                boxes and ids and one["category"] in found["detection_categories"] and values == sorted(values)[::-1]
            ):
                yield f"detection of {image['file']}"


def test_the_json_of_camera_trap_programs_is_as_its_format_says(tmp_path: Path) -> None:
    paths = ["a/one%.jpg", os.fsdecode(b"b\xff.jpg"), "c.jpg", "d.jpg"]
    (tmp_path / "names.csv").write_text('label,name\nglass,"fox, red"\ntin,"fox, red"\n')
    with run_of(tmp_path, paths, [ok(0, 0.7), ok(1), BROKEN]) as run:
        write_reports(run, request_of(tmp_path / "r.json", "megadetector"), max_pixels=1)
        found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
        request = request_of(tmp_path / "out", "csv,megadetector", class_map=tmp_path / "names.csv", ranks=1)
        write_reports(run, request, max_pixels=1)
    mapped = json.loads((tmp_path / "out" / "report.megadetector.json").read_text(encoding="utf-8"))

    for one in (found, mapped):
        assert [*spec_faults(one)] == []
    assert found["info"]["classifier"] == "waste:7"
    assert found["classification_categories"] == {"0": "glass", "1": "paper", "2": "tin"}
    assert [image["file"] for image in found["images"]] == ["a/one%.jpg", "b%FF.jpg", "c.jpg", "d.jpg"]
    assert found["images"][0]["detections"] == [
        {
            "category": "1", "conf": 1.0, "bbox": [0.0, 0.0, 1.0, 1.0],
            "classifications": [["0", 0.7], ["1", 0.15], ["2", 0.15]],
        }
    ]  # fmt: skip
    assert found["images"][2:] == [
        {"file": "c.jpg", "failure": "truncated: the file ends early", "detections": None},
        {"file": "d.jpg", "failure": "no answer yet", "detections": None},
    ]
    assert mapped["classification_categories"] == {"0": "fox, red", "1": "paper"}
    assert mapped["images"][0]["detections"][0]["classifications"] == [["0", 0.7]]
    with run_of(tmp_path, [], []) as empty:
        write_reports(empty, request_of(tmp_path / "e.megadetector.json", None), max_pixels=1)
    assert json.loads((tmp_path / "e.megadetector.json").read_text())["images"] == []
    with run_of(tmp_path, ["a"], [], pages=True) as paged, pytest.raises(UsageError, match="--pages all"):
        request_of(tmp_path / "r.json", "megadetector").check_rows(paged)


def test_file_info_stands_in_every_table_and_comes_from_those_who_read_the_file(tmp_path: Path) -> None:
    digest = "ab" * 32
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "in" / name).write_text(name)
        os.utime(tmp_path / "in" / name, (0, 1_772_366_400.5))
    with run_of(tmp_path, [], []) as run:
        plan = replace(run.plan, base=str(tmp_path / "in"), file_info=True)
    run = RunFile.create(tmp_path / "i.run", plan, ["a.jpg", "b.jpg"], InputFilter(plan.base))
    with closing(run):
        run.record(ChunkResult(run=plan.run, first=0, rows=(ok(0).model_copy(update={"bytes": 7, "sha256": digest}),)))
        run.record(ChunkResult(run=plan.run, first=1, rows=(BROKEN,)))
        write_reports(run, request_of(tmp_path / "out", "csv,jsonl,parquet", columns=[]), max_pixels=1)

    first, second = csv.DictReader((tmp_path / "out" / "report.csv").read_text().splitlines())
    assert (first["bytes"], first["modified"], first["sha256"]) == ("7", "2026-03-01T12:00:00Z", digest)
    assert (second["bytes"], second["modified"], second["sha256"]) == ("", "2026-03-01T12:00:00Z", "")
    good, _ = map(json.loads, (tmp_path / "out" / "report.jsonl").read_text().splitlines())
    assert (good["bytes"], good["modified"], good["sha256"]) == (7, "2026-03-01T12:00:00Z", digest)
    assert pq.read_table(tmp_path / "out" / "report.parquet")["bytes"].to_pylist() == [7, None]


THRESHOLDS: dict[str, list[float | None]] = {"0.9": [0.2, 0.3, 0.4], "0.95": [0.5, None, 0.8]}


def test_a_row_is_decided_by_the_threshold_of_its_class_and_its_outlier_score(tmp_path: Path) -> None:
    known, unknown, without = {"outlier": 1.0}, {"outlier": 1.000001}, {"outlier": None}
    rows = [
        *(ok(0, sure).model_copy(update=known) for sure in (0.5, 0.499999)),
        *(ok(1, 1.0).model_copy(update=score) for score in (known, unknown)),
        *(ok(2, 0.9).model_copy(update=score) for score in (unknown, without)),
        BROKEN,
    ]
    paths = [f"{number}.jpg" for number in range(len(rows))]
    with run_of(tmp_path, paths, rows, thresholds=THRESHOLDS, outliers=True) as run:
        request = request_of(tmp_path / "out", "csv,jsonl,parquet,xlsx,html", ranks=1)
        counts = write_reports(run, request, max_pixels=1)
        lower = tally(run, Layout.of(run.plan, target_precision=0.9))
        by_confidence = tally(run, Layout.of(run.plan, min_confidence=0.0))

    out = tmp_path / "out"
    table = list(csv.DictReader((out / "report.csv").read_text().splitlines()))
    decided = ["accept", "review", "review", "unknown", "unknown", "accept", ""]
    assert [row["decision"] for row in table] == decided
    assert [row["outlier"] for row in table] == ["1.0000", "1.0000", "1.0000", "1.0000", "1.0000", "", ""]
    assert [row["label"] for row in table][3:5] == ["paper", "tin"]  # the best label stays
    assert list(table[0])[4:7] == ["group", "decision", "outlier"]
    lines = [json.loads(line) for line in (out / "report.jsonl").read_text().splitlines()]
    assert [line["decision"] or "" for line in lines] == decided
    assert [line["outlier"] for line in lines][4:] == [1.0, None, None]
    parquet = pq.read_table(out / "report.parquet")
    assert (parquet["decision"].to_pylist()[3], str(parquet.schema.field("outlier").type)) == ("unknown", "float")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["decisions"] == {"accept": 2, "review": 2, "unknown": 2} == dict(counts.decisions)
    assert (counts.to_review, summary["target_precision"]) == (4, 0.95)
    assert dict(lower.decisions) == {"accept": 4, "unknown": 2}
    assert dict(by_confidence.decisions) == {"accept": 4, "unknown": 2}
    page = (out / "report.html").read_text()
    assert all(f'<option value="{name}">' in page for name in ("accept", "review", "unknown"))


def test_a_run_whose_version_decides_nothing_has_no_column_for_it(tmp_path: Path) -> None:
    with run_of(tmp_path, ["a.jpg"], [ok(0)]) as run:
        request = request_of(tmp_path / "out", "csv,jsonl,html")
        write_reports(run, request, max_pixels=1)
        columns = request.layout(run).columns

    assert not {"decision", "outlier"} & {*columns, *json.loads((tmp_path / "out" / "report.jsonl").read_text())}
    assert not {"decisions", "target_precision"} & json.loads((tmp_path / "out" / "summary.json").read_text()).keys()
    assert '<option value="accept">' not in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("thresholds", "why"),
    [
        ({}, r"--target-precision: waste:7 has no thresholds, .*; use --min-confidence"),
        (THRESHOLDS, r"--target-precision 0.7: waste:7 has thresholds for 0.9, 0.95$"),
    ],
    ids=["none", "others"],
)
def test_a_target_without_thresholds_is_refused_before_anything_is_labelled(
    thresholds: dict[str, list[float | None]], why: str, tmp_path: Path
) -> None:
    with run_of(tmp_path, ["a.jpg"], [ok(0)], thresholds=thresholds) as run, pytest.raises(UsageError, match=why):
        request_of(tmp_path / "r.csv", None, target_precision=0.7).check_rows(run)


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"ranks": 1},
        {"csv_dialect": "excel"},
        {"csv_dialect": "excel-semicolon"},
        {"min_confidence": 0.5},
        {"target_precision": 0.9},
        {"chosen": ("label", "path", "width")},
        {"class_map": {"glass": ("=a; b", "50 %, or so"), "tin": ("100 % tin", None)}},
    ],
    ids=str,
)
def test_lines_made_at_once_have_the_bytes_of_those_made_cell_by_cell(
    shown: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(4)  # noqa: S311 - no secret
    names = [
        "a.jpg",
        "=1+1.jpg",
        "a,b.jpg",
        'a"b.jpg',
        "100%s.jpg",
        "a;b.jpg",
        " spaced.jpg",
        "line\nbreak.jpg",
        "ok",
        "%",
    ]
    rows = [ok(random.randrange(3), random.choice([0.0, 0.49996, 0.5, 1.0, random.random()])) for _ in range(60)]
    rows[3:6] = [
        Row(error="truncated", detail="it ends, early"),
        Row(top=((1, 1.0),)),
        ok(0).model_copy(update={"width": 0}),
    ]
    paths = [f"{number}/{random.choice(names)}" for number in range(61)]  # the last one has no row yet
    decides = "target_precision" in shown
    if decides:
        rows = [row.model_copy(update={"outlier": random.choice([0.5, 1.5, None])}) for row in rows]
    with run_of(tmp_path, paths, rows, thresholds=THRESHOLDS if decides else {}, outliers=decides) as run:
        layout = Layout.of(run.plan, **shown)
        write_csv(run, tmp_path / "at-once.csv", layout)
        monkeypatch.setattr("producer.reports.csv._labelled_line", lambda layout: None)
        write_csv(run, tmp_path / "by-cells.csv", layout)

    assert (tmp_path / "at-once.csv").read_bytes() == (tmp_path / "by-cells.csv").read_bytes()
