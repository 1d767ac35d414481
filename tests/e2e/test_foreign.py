"""A classifier of another framework by the commands: imported, measured, labelled with, rolled back, exported."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.conftest import sortline
from tests.e2e.test_label import rows_of
from tests.foreign_graphs import LABELS, answers, network, photos
from tests.unit.test_imported_outliers import foreign, labelled

pytestmark = pytest.mark.long


def test_an_imported_version_does_what_one_that_was_trained_here_does(home: Path, tmp_path: Path) -> None:
    paths = photos(tmp_path / "mixed")
    expected = answers(paths)
    for path, row in zip(paths, expected, strict=True):
        folder = tmp_path / "test" / LABELS[int(row.argmax())]
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    files = {path.name: path for path in (tmp_path / "test").rglob("*.*")}
    with (tmp_path / "samples.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["path", *LABELS], *([files[p.name], *r] for p, r in zip(paths, expected, strict=True))]
        )
    (tmp_path / "labels.txt").write_text("\n".join(LABELS), encoding="utf-8")
    said = ["--name", "foreign", "--preset", "imagenet-torch", "--labels", str(tmp_path / "labels.txt")]
    graph = str(network(tmp_path / "model.onnx"))
    sortline("models", "import", graph, *said, "--check", str(tmp_path / "samples.csv"), home=home)
    sortline("models", "import", graph, *said, "--preprocess", "colours=BGR", home=home)
    sortline("models", "rollback", "foreign", home=home)

    done = sortline("eval", str(tmp_path / "test"), "-o", str(tmp_path / "out"), home=home)

    assert "100.0 % (12 of 12" in done.stderr
    rows = {Path(row["path"]).name: row for row in rows_of(tmp_path / "out" / "report.csv")}
    for path, row in zip(paths, expected, strict=True):
        assert rows[path.name]["label"] == LABELS[int(row.argmax())]
        assert float(rows[path.name]["confidence"]) == pytest.approx(row.max(), abs=1e-3)
        assert rows[path.name]["model"] == "foreign:1"
    sortline("models", "export", "foreign", "--format", "onnx", "-o", str(tmp_path / "out"), home=home)
    assert (tmp_path / "out" / "foreign-1.onnx").is_file()
    assert json.loads((tmp_path / "out" / "foreign-1.json").read_text())["labels"] == LABELS


def test_a_calibrated_import_says_what_is_unknown_and_whether_images_have_drifted(home: Path, tmp_path: Path) -> None:
    paths = labelled(tmp_path / "photos")
    (tmp_path / "labels.txt").write_text("\n".join(LABELS), encoding="utf-8")
    said = ["--name", "foreign", "--preset", "imagenet-torch", "--labels", str(tmp_path / "labels.txt")]
    graph = str(network(tmp_path / "model.onnx"))
    sortline("models", "import", graph, *said, "--calibrate", str(tmp_path / "photos"), home=home)
    foreign(tmp_path / "photos")

    label = ["label", str(tmp_path / "photos"), "-o", str(tmp_path / "report.csv"), "--sort-into", str(tmp_path / "in")]
    sortline(*label, "--max-review", "5", home=home, code=5)

    rows = {Path(row["path"]).name: row for row in rows_of(tmp_path / "report.csv")}
    assert len(rows) == len(paths) + 1
    assert (rows["grey.png"]["decision"], float(rows["grey.png"]["outlier"]) > 1) == ("unknown", True)
    assert (tmp_path / "in" / "unknown" / "grey.png").is_file()
    summary = json.loads((tmp_path / "report.summary.json").read_text(encoding="utf-8"))
    assert summary["decisions"]["unknown"] == sum(row["decision"] == "unknown" for row in rows.values()) <= 12
    assert summary["drift"]["looks_alike"] is True
    assert summary["drift"]["distance"]["two_sample"] < 0.1
