"""`sortline eval labels.csv`: which images of a table are compared, with what, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from producer.errors import UsageError
from producer.reports.layout import Layout
from producer.reports.page import write_page
from producer.reports.report import Report
from producer.reports.truth import FolderTruth
from producer.sources.argument import open_labelled, open_source
from producer.sources.table import read_labelled_table
from producer.terminal.report import accuracy
from tests.unit.reported import ok, run_of, tally


def table(folder: Path, text: str, name: str = "labels.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    ("rows", "taken"),
    [
        ("a.png,tin,\nb.png,glass,\n", {"a.png": "tin", "b.png": "glass"}),
        ("a.png,tin,train\nb.png,glass,Test\nc.png,tin,val\n", {"b.png": "glass"}),
        ("a.png,tin,train\nc.png,tin,valid\n", {"c.png": "tin"}),
        ("a.png,tin,\na.png,glass,\nb.png,tin,\nb.png,,\n", {"a.png": "glass"}),  # the last row counts
        ("'=a.png,'=x,\n50%25.png,tin,\n", {"=a.png": "=x", "50%.png": "tin"}),
    ],
)
def test_the_images_of_a_table_are_those_that_nothing_was_trained_on(
    tmp_path: Path, rows: str, taken: dict[str, str]
) -> None:
    assert read_labelled_table(table(tmp_path, f"path,label,split\n{rows}")).labels == taken


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na,b\n", "has the columns file, label; it needs path and label"),
        ("path,label\n,b\n", "line 2: it has no path"),
        ("path,label\na,\n", "has no image with a label"),
    ],
)
def test_another_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_labelled(str(table(tmp_path, text)))


def test_a_table_is_a_source_for_an_evaluation_alone(tmp_path: Path) -> None:
    path = table(tmp_path, "path,label\na.png,tin\n", "report.csv")
    (tmp_path / "summary.json").write_text(json.dumps({"base": "/photos"}))

    source = open_labelled(str(path))
    assert (list(source.paths()), source.base, source.truth_table) == (["a.png"], "/photos", str(path))
    assert open_source(str(path)).truth_table == ""
    assert open_labelled(str(tmp_path)) == open_source(str(tmp_path))


def test_answers_are_compared_with_the_table_and_the_page_says_so(tmp_path: Path) -> None:
    rows = "a.png,glass\nsub/b.png,tin\nc.png,wood\n" + f"{tmp_path}/d.png,paper\n"
    path = table(tmp_path, f"path,label\n{rows}")
    paths = list(open_labelled(str(path)).paths())
    with run_of(tmp_path, paths, [ok(0), ok(0), ok(1), ok(1)], base=str(tmp_path), truth_table=str(path)) as run:
        layout = Layout.of(run.plan)
        FolderTruth(run, layout, is_asked_for=True).check()
        counts = tally(run, layout, "folders")
        write_page(Report(run=run, layout=layout, counts=counts, max_pixels=10**8), tmp_path / "page.html")

    assert counts.evaluation is not None
    assert (counts.evaluation.top1.right, counts.evaluation.images) == (2, 3)
    said = accuracy(counts.evaluation)
    assert said[0].startswith("accuracy against labels.csv: 66.7 % (2 of 3;")
    assert "not counted, with other labels: 1 (wood 1)" in said
    page = (tmp_path / "page.html").read_text()
    assert "The table labels.csv says what it shows; 3 images are compared with it. 1 have other labels." in page
    assert "folders&#39; names" not in page


def test_a_table_without_a_label_of_the_model_is_refused_before_anything_is_labelled(tmp_path: Path) -> None:
    path = table(tmp_path, "path,label\na.png,wood\n")
    with run_of(tmp_path, ["a.png"], [ok(0)], base=str(tmp_path), truth_table=str(path)) as run:
        truth = FolderTruth(run, Layout.of(run.plan), is_asked_for=True)
        with pytest.raises(
            UsageError, match=r"no image of labels\.csv has a label of waste:7: it has wood; the labels"
        ):
            truth.check()
