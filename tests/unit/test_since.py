"""``--since``: what counts as new or changed, and what a chain of runs remembers."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from configs.settings import Settings, load_settings
from jobs.label import ChunkResult, Row
from model_store.manifest import ClassEntry, ManifestDraft
from model_store.store import ModelStore, ModelVersion
from producer.errors import UsageError
from producer.reports.request import request_of
from producer.reports.summary import summary
from producer.reports.tally import Tally
from producer.run.opening import OpenedRun, RunRequest, open_run
from producer.runfile import RunFile, RunFileError
from producer.sources.argument import open_source
from producer.sources.since import FileState, state_of

OK = Row(top=((0, 0.75), (1, 0.25)), width=8, height=8)
BAD = Row(error="truncated", detail="the file ends early")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(None, {"home": tmp_path / "home", "data_root": tmp_path}, {})


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def published(store: ModelStore) -> ModelVersion:
    classes = [ClassEntry(label=name, folder=name) for name in ("cat", "dog")]
    graph: dict[str, JsonValue] = {"height_px": 44, "width_px": 44, "outputs": 2}
    return store.publish(
        "pets", lambda _: ManifestDraft(kind="classifier", graph=graph, preprocessing={}, classes=classes)
    )


@pytest.fixture
def version(store: ModelStore) -> ModelVersion:
    return published(store)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "sub/c.jpg", "sub/50 % ü.jpg"):
        (folder / name).write_text(name)
    return folder


Opener = Callable[..., OpenedRun]


@pytest.fixture
def opened(settings: Settings, version: ModelVersion, photos: Path, tmp_path: Path) -> Opener:
    def start(
        report: str, since: str | None = None, *, source: Path = photos, model: ModelVersion = version, **more: Any
    ) -> OpenedRun:
        images = open_source(str(source))
        main = request_of(tmp_path / report, None).main
        more = {"top_k": 2, **more}
        request = RunRequest(source=images, origin=str(source), version=model, report=main, since=since, **more)
        return open_run(settings, request, "resume")

    return start


def finish(run: RunFile, report: Path, rows: dict[str, Row] | None = None, done: int | None = None) -> None:
    """Answer the first ``done`` images (all by default), keep the request as its report would, close."""
    paths = [row.path for row in run.rows()][:done]
    if paths:
        answers = tuple((rows or {}).get(path, OK) for path in paths)
        run.record(ChunkResult(run=run.plan.run, first=0, rows=answers))
    request_of(report, None).keep(run)
    run.close()


def inputs_of(opened: OpenedRun) -> list[str]:
    return [row.path for row in opened.run.rows()]


def test_only_new_and_changed_files_are_labelled(opened: Opener, photos: Path, tmp_path: Path) -> None:
    finish(opened("monday.csv").run, tmp_path / "monday.csv")
    (photos / "new.jpg").write_text("new")
    (photos / "sub" / "c.jpg").write_text("another size")
    os.utime(photos / "b.jpg", ns=(0, state_of(str(photos / "b.jpg")).modified_ns + 1))  # type: ignore[union-attr]
    (photos / "a.jpg").chmod(0o600)  # not the content

    tuesday = opened("tuesday.csv", str(tmp_path / "monday.csv"))

    assert inputs_of(tuesday) == ["b.jpg", "new.jpg", "sub/c.jpg"]
    assert tuesday.note == f"2 unchanged since {tmp_path / 'monday.csv'}, 3 to label"
    tuesday.run.close()


def test_the_same_command_after_a_promotion_says_so_before_it_labels_anew(
    opened: Opener, version: ModelVersion, tmp_path: Path
) -> None:
    finish(opened("monday.csv").run, tmp_path / "monday.csv")
    manifest = version.manifest.model_copy(update={"version": 9, "created": "2027-01-01T00:00:00Z"})
    promoted = opened("monday.csv", model=ModelVersion(manifest=manifest, folder=version.folder))

    assert promoted.note == (
        f"{version.name}:9 is in production now: labelling anew; the former report was by {version.manifest.reference}"
    )
    assert (promoted.run.done, str(promoted.run.plan.model)) == (0, f"{version.name}:9")
    promoted.run.close()


def test_a_run_remembers_what_it_left_out_so_that_the_next_one_does_too(
    opened: Opener, photos: Path, tmp_path: Path
) -> None:
    finish(opened("1.csv").run, tmp_path / "1.csv")
    (photos / "new.jpg").write_text("new")
    finish(opened("2.csv", str(tmp_path / "1.csv")).run, tmp_path / "2.csv")
    (photos / "newer.jpg").write_text("newer")
    (photos / "a.jpg").unlink()

    third = opened("3.csv", str(tmp_path / "2.csv"))

    assert inputs_of(third) == ["newer.jpg"]
    assert third.note.startswith("4 unchanged since")
    third.run.close()


def test_what_has_no_label_yet_is_labelled_again(opened: Opener, tmp_path: Path) -> None:
    finish(opened("1.csv").run, tmp_path / "1.csv", {"a.jpg": BAD}, done=2)  # the last two have no row

    second = opened("2.csv", str(tmp_path / "1.csv"))

    assert inputs_of(second) == ["a.jpg", "sub/50 %25 ü.jpg", "sub/c.jpg"]
    second.run.close()


def test_a_file_that_changes_while_its_run_goes_on_counts_as_changed_the_next_time(
    opened: Opener, photos: Path, tmp_path: Path
) -> None:
    run = opened("1.csv").run
    (photos / "a.jpg").write_text("changed before any worker has read it")
    finish(run, tmp_path / "1.csv")

    second = opened("2.csv", str(tmp_path / "1.csv"))

    assert inputs_of(second) == ["a.jpg"]
    second.run.close()


def test_labels_of_another_version_count_for_nothing(
    opened: Opener, store: ModelStore, version: ModelVersion, tmp_path: Path
) -> None:
    finish(opened("1.csv").run, tmp_path / "1.csv")

    second = opened("2.csv", str(tmp_path / "1.csv"), model=published(store))

    assert len(inputs_of(second)) == 4
    assert second.note.endswith("0 unchanged since " + str(tmp_path / "1.csv") + ", 4 to label: that run's labels are "
                                "of pets:1, not of pets:2")  # fmt: skip
    second.run.close()


def test_the_same_files_are_known_below_another_folder_and_in_a_list(
    opened: Opener, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(opened("1.csv").run, tmp_path / "1.csv")
    (photos / "sub" / "new.jpg").write_text("new")
    (tmp_path / "list.txt").write_text("photos/a.jpg\nphotos/nowhere.jpg\nphotos/sub\n")
    monkeypatch.chdir(tmp_path)

    below = opened("2.csv", str(tmp_path / "1.csv"), source=photos / "sub")
    listed = opened("3.csv", str(tmp_path / "1.csv"), source=tmp_path / "list.txt")

    assert inputs_of(below) == ["new.jpg"]
    assert inputs_of(listed) == ["photos/nowhere.jpg", "photos/sub"]  # what is no file here is always labelled
    below.run.close()
    listed.run.close()


def test_nothing_to_label_is_a_run_without_inputs(opened: Opener, tmp_path: Path) -> None:
    finish(opened("1.csv").run, tmp_path / "1.csv")

    second = opened("2.csv", str(tmp_path / "1.csv"))

    assert (second.run.total, second.note) == (0, f"4 unchanged since {tmp_path / '1.csv'}, 0 to label")
    second.run.close()


def test_an_interrupted_run_goes_on_with_its_images_also_when_the_earlier_run_is_gone(
    opened: Opener, settings: Settings, photos: Path, tmp_path: Path
) -> None:
    finish(opened("1.csv").run, tmp_path / "1.csv")
    (photos / "n1.jpg").write_text("1")
    (photos / "n2.jpg").write_text("2")
    finish(opened("2.csv", str(tmp_path / "1.csv")).run, tmp_path / "2.csv", done=1)
    (photos / "n3.jpg").write_text("3")
    for path in (settings.home / "runs").glob("*.run"):
        peeked = RunFile.peek(path)
        if peeked is not None and peeked[0].total == 4:
            path.unlink()

    again = opened("2.csv", str(tmp_path / "1.csv"))

    assert again.note.startswith("resuming photos-")
    assert inputs_of(again) == ["n1.jpg", "n2.jpg"]
    again.run.close()


def test_the_command_without_since_does_not_go_on_with_the_few_images_of_the_one_with_it(
    opened: Opener, photos: Path, tmp_path: Path
) -> None:
    finish(opened("1.csv").run, tmp_path / "1.csv")
    (photos / "new.jpg").write_text("new")
    opened("2.csv", str(tmp_path / "1.csv")).run.close()

    whole = opened("2.csv")

    assert (len(inputs_of(whole)), whole.note) == (5, "")
    whole.run.close()


def test_the_same_finished_command_has_nothing_to_do_until_a_file_changes(
    opened: Opener, photos: Path, tmp_path: Path
) -> None:
    finish(opened("1.csv").run, tmp_path / "1.csv")
    (photos / "new.jpg").write_text("new")
    finish(opened("2.csv", str(tmp_path / "1.csv")).run, tmp_path / "2.csv")

    same = opened("2.csv", str(tmp_path / "1.csv"))
    assert same.note.startswith("nothing new: all 1 images")
    same.run.close()
    (photos / "new.jpg").write_text("new again")
    changed = opened("2.csv", str(tmp_path / "1.csv"))

    assert changed.note == f"4 unchanged since {tmp_path / '1.csv'}, 1 to label"
    assert (changed.run.done, inputs_of(changed)) == (0, ["new.jpg"])
    changed.run.close()


def test_a_report_is_not_replaced_by_the_few_rows_since_itself(opened: Opener, tmp_path: Path) -> None:
    finish(opened("report.csv").run, tmp_path / "report.csv")

    with pytest.raises(UsageError, match=r"has made .*report\.csv, which this run would replace .* give -o another"):
        opened("report.csv", str(tmp_path / "report.csv"))


def test_an_unknown_earlier_run_is_a_usage_error(opened: Opener) -> None:
    with pytest.raises(UsageError, match=r"no run monday\.csv: pass a run file"):
        opened("2.csv", "monday.csv")


def test_overwrite_replaces_a_run_file_of_another_schema_version(
    settings: Settings, version: ModelVersion, photos: Path, tmp_path: Path
) -> None:
    request = RunRequest(
        source=open_source(str(photos)), origin="photos", version=version, top_k=2, report=tmp_path / "1.csv"
    )
    run = open_run(settings, request, "resume").run
    run.close()
    with closing(sqlite3.connect(run.path)) as database:
        database.execute("PRAGMA user_version = 0")

    with pytest.raises(RunFileError, match=r"an older version of Sortline .*label again with --on-existing overwrite"):
        open_run(settings, request, "resume")
    again = open_run(settings, request, "overwrite").run
    assert (again.total, again.done) == (4, 0)
    again.close()


def test_what_is_no_regular_file_has_no_state(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("four")
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    os.utime(tmp_path / "a.jpg", ns=(1, 2))

    assert state_of(str(tmp_path / "a.jpg")) == state_of(str(tmp_path / "link.jpg")) == FileState(4, 2)
    assert {state_of(str(tmp_path)), state_of(str(tmp_path / "gone")), state_of("\0")} == {None}


def test_what_is_no_image_is_counted_once_where_a_finished_command_finds_a_changed_folder(
    settings: Settings, version: ModelVersion, photos: Path, tmp_path: Path
) -> None:
    (photos / "notes.txt").write_text("no image")
    skipped = []
    for _ in range(2):
        images = open_source(str(photos))
        main = request_of(tmp_path / "report.csv", None).main
        request = RunRequest(source=images, origin=str(photos), version=version, top_k=2, report=main)
        found = open_run(settings, request, "resume")
        skipped.append(summary(found.run, Tally())["skipped"])
        finish(found.run, tmp_path / "report.csv")
        (photos / "new.jpg").write_text("new")

    assert skipped == [{".txt": 1}] * 2
