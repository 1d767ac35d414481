"""`sortline compare` and `sortline label --shadow`, from their two versions to what they write; the worker is here."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from configs.settings import Settings
from model_store.manifest import ManifestDraft
from model_store.store import ModelStore
from producer.errors import OK, UsageError
from producer.reports.request import request_of
from producer.review.images import open_collection
from producer.run.comparing import compare_versions, comparison_request
from producer.run.labelling import Labelling, label_source
from producer.run.shadow import Shadow
from producer.runfile import RunFile
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


def forget_rows(settings: Settings, version: str) -> None:
    for path in (settings.home / "runs").glob("*.run"):
        peeked = RunFile.peek(path)
        if peeked is not None and str(peeked[0].model) == version:
            with closing(sqlite3.connect(path)) as database, database:
                database.execute("DELETE FROM rows WHERE idx > 5")


def test_two_versions_label_the_same_images_and_an_interrupted_comparison_goes_on(
    two_versions: Settings, labelling: Labelling, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with really_working(two_versions):
        assert compare_versions(two_versions, labelling, "colours:2") == OK
        said = capsys.readouterr().err
        first = (tmp_path / "out" / "comparison.csv").read_bytes()
        assert compare_versions(two_versions, labelling, "colours:2") == OK
        again = capsys.readouterr().err
        forget_rows(two_versions, "colours:2")  # as if it had been interrupted; then the folder changes
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


# ---- a shadow


def shadowed(settings: Settings, output: Path, shadow: Shadow | None) -> Labelling:
    reports = request_of(output, "csv,html,jsonl", ranks=2)
    return Labelling(source=str(settings.data_root), model="colours:1", reports=reports, shadow=shadow)


def test_a_shadow_labels_its_part_and_the_reports_are_those_of_the_first_alone(
    two_versions: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "broken.png").write_bytes(b"no image")
    with really_working(two_versions):
        assert label_source(two_versions, shadowed(two_versions, tmp_path / "plain", None)) == OK
        capsys.readouterr()
        assert label_source(two_versions, shadowed(two_versions, tmp_path / "both", Shadow("colours:2", 0.3))) == OK
        said = capsys.readouterr().err
    plain, both = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("plain", "both"))
    summary = json.loads(both["summary.json"])
    totals = sorted(RunFile.peek(path)[0].total for path in (two_versions.home / "runs").glob("*.run"))  # type: ignore[index]

    assert {name for name in plain if plain[name] != both[name]} == {"summary.json", "report.html"}
    assert totals == [8, 25, 25]  # 30 % of 25 images is what the second version has cost
    shadow = summary.pop("shadow")
    assert summary.keys() == json.loads(plain["summary.json"]).keys()
    assert (shadow["share"], shadow["images"] + shadow["unanswered"], shadow["second"]["version"]) == (0.3, 8, 2)
    assert f"beside it, on 30% of the images: {shadow['sentence']}" in said
    assert "colours:2 labelled 30% of the images too" in both["report.html"].decode()
    assert "colours:2" not in plain["report.html"].decode()

    collection = open_collection(two_versions, str(tmp_path / "both" / "report.csv"))
    answered = [image for image in collection.images if image.other is not None]
    assert (collection.other, len(answered)) == ("colours:2", shadow["images"])
    assert all(image.other[0] == TURNED[collection.label(image)] for image in answered if image.other)


def test_a_shadow_that_nobody_can_label_costs_the_run_nothing(
    two_versions: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(two_versions.store_root, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "colours" / "versions" / "0002")
    asked = shadowed(two_versions, tmp_path / "out", Shadow("colours:2", 1.0))
    with really_working(two_versions.model_copy(update={"store": tmp_path / "half"})):
        assert label_source(two_versions, asked) == OK
    first = (tmp_path / "out" / "report.csv").read_bytes()

    assert "colours:2 was given up: " in capsys.readouterr().err
    assert len(first.splitlines()) == 1 + 24
    assert "colours:2" not in (tmp_path / "out" / "report.html").read_text()
    with really_working(two_versions):
        assert label_source(two_versions, asked) == OK
    assert (tmp_path / "out" / "report.csv").read_bytes() == first
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["shadow"]["images"] == 24


def test_a_shadow_of_the_same_version_is_refused_before_anything_is_sent(
    two_versions: Settings, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="the version that it would be compared with"):
        label_source(two_versions, shadowed(two_versions, tmp_path / "out", Shadow("colours:1", 0.5)))
    assert not (two_versions.home / "runs").exists()
