"""`sortline compare` from its two versions to its page, with a worker in this process."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from configs.settings import Settings
from model_store.manifest import ManifestDraft
from model_store.store import ModelStore
from producer.errors import OK, UsageError
from producer.run.comparing import compare_versions, comparison_request
from producer.run.labelling import Labelling
from tests.broker.conftest import really_working

pytestmark = pytest.mark.timeout(60)
TURNED = {"red": "green", "green": "blue", "blue": "red", "grey": "grey"}


@pytest.fixture
def two_versions(real_settings: Settings, tmp_path: Path) -> Settings:
    """``colours:1``, and ``colours:2``: the same network, with three of its labels turned round."""
    source, store = ModelStore(real_settings.store_root), ModelStore(tmp_path / "store")
    given = source.resolve("colours:1").manifest
    for labels in (lambda label: label, TURNED.__getitem__):

        def write(folder: Path, labels: object = labels) -> ManifestDraft:
            assert callable(labels)
            for name in given.files:
                (folder / name).write_bytes(source.open_file("colours", 1, name))
            values = {field: getattr(given, field) for field in ManifestDraft.model_fields}
            classes = [entry.model_copy(update={"label": labels(entry.label)}) for entry in given.classes]
            return ManifestDraft(**{**values, "classes": classes})

        store.publish("colours", write)
    return real_settings.model_copy(update={"store": tmp_path / "store"})


@pytest.fixture
def labelling(two_versions: Settings, tmp_path: Path) -> Labelling:
    reports = comparison_request(tmp_path / "out")
    return Labelling(source=str(two_versions.data_root), model="colours:1", reports=reports, may_be_table=True)


def test_two_versions_label_the_same_images_and_an_interrupted_comparison_goes_on(
    two_versions: Settings, labelling: Labelling, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with really_working(two_versions):
        assert compare_versions(two_versions, labelling, "colours:2") == OK
        said = capsys.readouterr().err
        first = (tmp_path / "out" / "comparison.csv").read_bytes()
        assert compare_versions(two_versions, labelling, "colours:2") == OK
        again = capsys.readouterr().err
        (tmp_path / "data" / "new.png").write_bytes((tmp_path / "data" / "00001.png").read_bytes())
        assert compare_versions(two_versions, labelling, "colours:2") == OK
    rows = list(csv.DictReader(first.decode().splitlines()))

    assert len(rows) == 24
    assert [row["other_label"] for row in rows] == [TURNED[row["label"]] for row in rows]
    assert {row["confidence"] == row["other_confidence"] for row in rows} == {True}
    moved = sum(row["label"] != "grey" for row in rows)
    assert moved > 0
    assert f"colours:2 gives {24 - moved} of 24 images" in said
    assert "sortline review" in said
    assert again.count("nothing new: all 24 images have their row") == 2
    assert len((tmp_path / "out" / "comparison.csv").read_text().splitlines()) == 1 + 25
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "comparison.csv", "comparison.html", "summary.json"
    }  # fmt: skip


def test_a_table_of_labelled_images_says_which_version_is_right(
    two_versions: Settings, labelling: Labelling, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with really_working(two_versions):
        compare_versions(two_versions, labelling, "colours:2")
        answers = list(csv.DictReader((tmp_path / "out" / "comparison.csv").read_text().splitlines()))
        lines = [f"{tmp_path}/data/{row['path']},{row['other_label']}" for row in answers]
        (tmp_path / "labels.csv").write_text("\n".join(["path,label", *lines]) + "\n")
        table = replace(labelling, source=str(tmp_path / "labels.csv"), reports=comparison_request(tmp_path / "t.html"))
        assert compare_versions(two_versions, table, "colours:2") == OK
    found = json.loads((tmp_path / "t.summary.json").read_text())
    moved = sum(row["label"] != "grey" for row in answers)

    assert (found["truth"]["images"], found["truth"]["won"], found["truth"]["lost"]) == (24, moved, 0)
    assert found["truth"]["second"]["share"] == 1.0
    assert "colours:2 is right more often than colours:1: " in capsys.readouterr().err


def test_what_cannot_be_compared_is_refused_before_anything_is_sent(
    two_versions: Settings, labelling: Labelling, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="colours:1 is colours:1, the version that it would be compared with"):
        compare_versions(two_versions, labelling, "colours:1")
    with pytest.raises(UsageError, match=r"no report has the format \.pdf; there are html, csv"):
        comparison_request(tmp_path / "out.pdf")
    assert not (two_versions.home / "runs").exists()
