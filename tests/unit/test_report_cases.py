"""Commands as people typed them, in ../shared/cases: where reports go, and what they are compared with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from base.text_files import read_table
from producer.__main__ import run
from producer.errors import USAGE
from producer.reports.layout import Layout
from producer.reports.request import request_of
from tests.unit.reported import ok, run_of, tally

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not CASES.is_dir() and os.environ.get("CI") != "true", reason="needs ../shared/cases"),
]


@pytest.mark.parametrize("name", ["r.json", "r.xls", "r.csv.gz", "r.tsv"])
def test_no_suffix_promises_another_format(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SORTLINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    assert run(["label", str(CASES / "output-json"), "-o", name]) == USAGE
    assert "there are csv, parquet, jsonl, xlsx, megadetector, html" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("names", [("2026.03.01", "2026.03.02"), ("run.v1", "run.v2"), ("week.may", "week.june")])
def test_dated_names_share_no_file(names: tuple[str, str], tmp_path: Path) -> None:
    first, second = (set(request_of(tmp_path / "results" / name, None).outputs.values()) for name in names)

    assert not first & second


def test_folders_of_shifted_numbers_are_read_as_those_of_training(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, CASES / "eval-shifted-numbers" / "make.py", tmp_path / "set"], capture_output=True, check=False
    )
    assert made.returncode == 0, made.stderr
    header, rows = read_table(tmp_path / "set" / "classes.csv")
    assert header == ["class", "name_en"]
    classes = [(row["class"], row["name_en"]) for _, row in rows]
    paths = sorted(str(path.relative_to(tmp_path / "set")) for path in (tmp_path / "set").rglob("*.png"))
    answers = [ok(int(path[0])) for path in paths]
    folders, labels = [folder for folder, _ in classes], [label for _, label in classes]
    with run_of(tmp_path, paths, answers, base=str(tmp_path / "set"), folders=folders, labels=labels) as run_file:
        evaluation = tally(run_file, Layout.of(run_file.plan), "folders").evaluation

    assert evaluation is not None
    assert (evaluation.top1.right, evaluation.images) == (72, 72)
