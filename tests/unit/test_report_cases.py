"""Commands as people typed them, in ../shared/cases: where reports go, and what they are compared with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from producer.__main__ import run
from producer.errors import USAGE
from producer.reports.request import request_of

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
    assert "there are csv, parquet, jsonl, xlsx, html" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("names", [("2026.03.01", "2026.03.02"), ("run.v1", "run.v2"), ("week.may", "week.june")])
def test_dated_names_share_no_file(names: tuple[str, str], tmp_path: Path) -> None:
    first, second = (set(request_of(tmp_path / "results" / name, None).outputs.values()) for name in names)

    assert not first & second
