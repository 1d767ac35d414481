"""Images into class folders: nothing overwritten, nothing lost, every interruption survived, everything undone."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest

from jobs.label import Row
from producer.errors import UsageError
from producer.reports import By, sorting
from producer.reports.layout import Layout
from producer.reports.sorting import folder_names, free_name, sort_images, undo, undo_file
from producer.runfile import RunFile
from tests.unit.reported import ok, run_of

ROOT = Path(__file__).resolve().parents[2]
BROKEN = Row(error="truncated", detail="the file ends early")
EVERY_WAY: list[By] = ["link", "copy", "move"]


def photos(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(f"picture {name}"))
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """The content of each file below a folder, links followed, without undo files."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("undo-")
    }


def sort(run: RunFile, into: Path, by: By) -> sorting.Sorted:
    return sort_images(run, Layout.of(run.plan), into, by)


@pytest.mark.parametrize("by", EVERY_WAY)
def test_images_go_into_the_folder_of_their_label_and_those_with_an_error_stay(by: By, tmp_path: Path) -> None:
    inbox = photos(tmp_path / "inbox", "a.jpg", "sub/a.jpg", "b.jpg", "bad.jpg")
    with run_of(
        tmp_path, ["a.jpg", "b.jpg", "bad.jpg", "sub/a.jpg"], [ok(0), ok(1), BROKEN, ok(0)], base=str(inbox)
    ) as run:
        done = sort(run, tmp_path / "out", by)

    assert (done.placed, done.left) == (3, 0)
    assert tree(tmp_path / "out") == {
        "glass/a.jpg": b"picture a.jpg",
        "glass/a-2.jpg": b"picture sub/a.jpg",
        "paper/b.jpg": b"picture b.jpg",
    }
    left = {"bad.jpg": b"picture bad.jpg"}
    assert tree(inbox) == (left if by == "move" else {**tree(inbox), **left})
    assert (tmp_path / "out" / "glass" / "a.jpg").is_symlink() == (by == "link")


@pytest.mark.parametrize("by", EVERY_WAY)
def test_a_file_that_is_there_already_is_never_overwritten(by: By, tmp_path: Path) -> None:
    inbox = photos(tmp_path / "inbox", "a.jpg")
    photos(tmp_path / "out" / "glass", "a.jpg", "a-2.jpg")
    before = tree(tmp_path / "out")
    with run_of(tmp_path, ["a.jpg"], [ok(0)], base=str(inbox)) as run:
        sort(run, tmp_path / "out", by)

    assert tree(tmp_path / "out") == {**before, "glass/a-3.jpg": b"picture a.jpg"}


@pytest.mark.parametrize("by", EVERY_WAY)
def test_a_name_taken_between_the_plan_and_the_step_is_left_to_its_owner(
    by: By, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = photos(tmp_path / "inbox", "a.jpg")
    write = sorting._write

    def and_somebody_else_is_faster(file: TextIO, steps: list[sorting.Step]) -> None:
        write(file, steps)
        Path(steps[0].target).write_bytes(b"somebody else's")

    monkeypatch.setattr(sorting, "_write", and_somebody_else_is_faster)
    with run_of(tmp_path, ["a.jpg"], [ok(0)], base=str(inbox)) as run:
        done = sort(run, tmp_path / "out", by)

    assert (done.placed, done.left) == (0, 1)
    assert "a.jpg stays: File exists" in done.problems[0]
    assert tree(tmp_path / "out") == {"glass/a.jpg": b"somebody else's"}
    assert tree(inbox) == {"a.jpg": b"picture a.jpg"}


@pytest.mark.parametrize("by", EVERY_WAY)
def test_an_undo_file_brings_everything_back(by: By, tmp_path: Path) -> None:
    names = [f"{number % 5}/{number:04}.jpg" for number in range(300)]
    inbox = photos(tmp_path / "inbox", *names)
    before = tree(inbox)
    with run_of(tmp_path, names, [ok(n % 3) for n in range(300)], base=str(inbox)) as run:
        sort(run, tmp_path / "out", by)
        journal = undo_file(tmp_path / "out", run)
        assert len(tree(tmp_path / "out")) == 300
        done = undo(journal)

    assert (done.placed, done.left) == (300, 0)
    assert tree(inbox) == before
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("by", EVERY_WAY)
def test_undoing_leaves_what_somebody_changed_and_keeps_the_undo_file(by: By, tmp_path: Path) -> None:
    inbox = photos(tmp_path / "inbox", "a.jpg", "b.jpg")
    with run_of(tmp_path, ["a.jpg", "b.jpg"], [ok(0), ok(0)], base=str(inbox)) as run:
        sort(run, tmp_path / "out", by)
        journal = undo_file(tmp_path / "out", run)
    changed = tmp_path / "out" / "glass" / "a.jpg"
    if by == "move":
        photos(inbox, "a.jpg")  # somebody put a new file where the old one was
    else:
        changed.unlink()
        changed.write_bytes(b"retouched")
    before = changed.read_bytes()

    done = undo(journal)

    assert (done.placed, done.left) == (1, 1)
    assert changed.read_bytes() == before
    assert journal.exists()
    assert (inbox / "b.jpg").read_bytes() == b"picture b.jpg"
    assert not (tmp_path / "out" / "glass" / "b.jpg").exists()


KILLED = """
import os, sys
from pathlib import Path
from producer.reports import sorting
from producer.reports.layout import Layout
from producer.runfile import RunFile
steps = int(sys.argv[4])
def counted(name):
    original = getattr(os, name)
    def call(*arguments, **options):
        global steps
        steps -= 1
        if steps < 0:
            os._exit(9)
        return original(*arguments, **options)
    setattr(os, name, call)
for name in ("link", "unlink", "symlink"):
    counted(name)
sorting.STEPS_AT_ONCE = 4
run = RunFile(Path(sys.argv[1]))
sorting.sort_images(run, Layout.of(run.plan), Path(sys.argv[2]), sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.parametrize("by", EVERY_WAY)
@pytest.mark.parametrize("steps", [0, 1, 5, 8, 13])
def test_a_killed_sort_goes_on_where_it_stopped(by: By, steps: int, tmp_path: Path) -> None:
    names = [f"{number}/same.jpg" for number in range(9)]
    inbox = photos(tmp_path / "inbox", *names)
    content = set(tree(inbox).values())
    with run_of(tmp_path, names, [ok(0)] * 9, base=str(inbox)) as run:
        path = run.path
    arguments = [sys.executable, "-c", KILLED, str(path), str(tmp_path / "out"), by, str(steps)]
    killed = subprocess.run(arguments, cwd=ROOT, check=False)
    assert killed.returncode in (0, 9)

    run = RunFile(path)
    done = sort(run, tmp_path / "out", by)
    again = sort(run, tmp_path / "out", by)
    journal = undo_file(tmp_path / "out", run)
    run.close()

    assert done.left == again.left == again.placed == 0
    found = tree(tmp_path / "out")
    assert len(found) == 9
    assert set(found.values()) == content
    assert not list((tmp_path / "out").rglob("*.new"))
    assert undo(journal).left == 0
    assert set(tree(inbox).values()) == content
    assert len(tree(inbox)) == 9


def test_a_half_line_at_the_end_of_the_undo_file_costs_nothing(tmp_path: Path) -> None:
    inbox = photos(tmp_path / "inbox", "a.jpg", "b.jpg")
    with run_of(tmp_path, ["a.jpg", "b.jpg"], [ok(0), ok(1)], base=str(inbox)) as run:
        sort(run, tmp_path / "out", "move")
        journal = undo_file(tmp_path / "out", run)
        lines = journal.read_text().splitlines(keepends=True)
        (tmp_path / "out" / "paper" / "b.jpg").rename(inbox / "b.jpg")  # as if the power had failed before
        journal.write_text("".join(lines[:2]) + lines[2][:20])
        sort(run, tmp_path / "out", "move")

    assert tree(tmp_path / "out") == {"glass/a.jpg": b"picture a.jpg", "paper/b.jpg": b"picture b.jpg"}
    assert undo(journal).placed == 2


def test_a_second_sort_in_another_way_is_refused(tmp_path: Path) -> None:
    inbox = photos(tmp_path / "inbox", "a.jpg")
    with run_of(tmp_path, ["a.jpg"], [ok(0)], base=str(inbox)) as run:
        sort(run, tmp_path / "out", "link")
        with pytest.raises(UsageError, match=r"sorted by link before; undo that first: sortline report --undo-sort"):
            sort(run, tmp_path / "out", "move")


def test_a_folder_inside_the_labelled_one_is_refused(tmp_path: Path) -> None:
    inbox = photos(tmp_path / "inbox", "a.jpg")
    with run_of(tmp_path, ["a.jpg"], [ok(0)], base=str(inbox)) as run:
        for into in (inbox, inbox / "sorted", inbox / "x" / ".." / "sorted"):
            with pytest.raises(UsageError, match="is inside the labelled folder"):
                sort(run, into, "copy")


def test_links_and_missing_files_are_left_and_told(tmp_path: Path) -> None:
    inbox = photos(tmp_path / "inbox", "a.jpg")
    (inbox / "link.jpg").symlink_to("a.jpg")
    with run_of(tmp_path, ["gone.jpg", "link.jpg"], [ok(0), ok(0)], base=str(inbox)) as run:
        done = sort(run, tmp_path / "out", "move")

    assert done.left == 2
    assert ["no file here" in done.problems[0], "is a link" in done.problems[1]] == [True, True]
    assert (inbox / "link.jpg").is_symlink()


@pytest.mark.parametrize(
    "label", ["../../etc", "/etc/passwd", "a/b", "a\\b", "..", ".", "", " ", "x" * 300, "\0\n\x1b[31m", "日本" * 200]
)
def test_no_label_leads_out_of_the_folder(label: str, tmp_path: Path) -> None:
    inbox = photos(tmp_path / "inbox", "a.jpg")
    with run_of(tmp_path, ["a.jpg"], [ok(0)], base=str(inbox), labels=[label, "b", "c"]) as run:
        done = sort(run, tmp_path / "out", "copy")

    assert done.placed == 1
    (found,) = tree(tmp_path / "out")
    assert found.count("/") == 1
    assert found.isprintable()


def test_labels_that_would_share_a_folder_get_their_own() -> None:
    assert folder_names(["a/b", "a_b", "A_B", "glass"]) == {
        "a/b": "a_b",
        "a_b": "a_b-2",
        "A_B": "A_B-3",
        "glass": "glass",
    }


def test_names_of_any_bytes_are_moved_and_come_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 100%\n.jpg")
    inbox = photos(tmp_path / "inbox", name)
    with run_of(tmp_path, [name], [ok(0)], base=str(inbox)) as run:
        sort(run, tmp_path / "out", "move")
        assert [path.name for path in (tmp_path / "out" / "glass").iterdir()] == [name]
        undo(undo_file(tmp_path / "out", run))

    assert [path.name for path in inbox.iterdir()] == [name]


def test_a_free_name_is_found_quickly_among_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: set[str] = set()
    looks = 0
    exists = os.path.lexists

    def counted(path: str) -> bool:
        nonlocal looks
        looks += 1
        return exists(path)

    monkeypatch.setattr(os.path, "lexists", counted)
    names = [free_name(str(tmp_path), "a.jpg", taken) for _ in range(1000)]

    assert names[0].endswith("/a.jpg")
    assert names[-1].endswith("/a-1000.jpg")
    assert len(set(names)) == 1000
    assert looks < 15_000


@pytest.mark.parametrize("text", ["", "{}\n", "[]\n", "no json\n", '{"by": "magic"}\n'])
def test_what_is_no_undo_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "undo.jsonl").write_text(text)

    with pytest.raises(UsageError, match="is not an undo file"):
        undo(tmp_path / "undo.jsonl")


def test_steps_are_on_the_disk_before_they_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = photos(tmp_path / "inbox", "a.jpg")
    seen: list[str] = []
    synced: list[int] = []
    take = sorting._take
    monkeypatch.setattr(os, "fsync", synced.append)

    def look(step: sorting.Step, by: By, done: sorting.Sorted) -> None:
        assert synced
        seen.extend(json.loads(line).get("to", "") for line in journal.read_text().splitlines())
        take(step, by, done)

    monkeypatch.setattr(sorting, "_take", look)
    with run_of(tmp_path, ["a.jpg"], [ok(0)], base=str(inbox)) as run:
        journal = undo_file(tmp_path / "out", run)
        sort(run, tmp_path / "out", "move")

    assert str(tmp_path / "out" / "glass" / "a.jpg") in seen


def test_a_full_disk_names_the_undo_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = photos(tmp_path / "inbox", "a.jpg")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refused = pytest.raises(OSError, match=r"No space left on device: .*/out/undo-inbox-1\.jsonl")
    with run_of(tmp_path, ["a.jpg"], [ok(0)], base=str(inbox)) as run, refused:
        sort(run, tmp_path / "out", "move")
    assert [path.name for path in inbox.iterdir()] == ["a.jpg"]


def test_images_that_are_not_accepted_go_into_folders_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    paths = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    for name in paths:
        (tmp_path / "in" / name).write_text(name)
    labels = ["review", "paper", "tin"]
    rows = [ok(0, 0.9), ok(0, 0.4), ok(1, 0.4), ok(1, 0.9).model_copy(update={"outlier": 1.5})]
    with run_of(tmp_path, paths, rows, base=str(tmp_path / "in"), labels=labels, outliers=True) as run:
        sort_images(run, Layout.of(run.plan, min_confidence=0.5), tmp_path / "out", "copy")

    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.jpg"))
    assert found == ["review-2/a.jpg", "review/b.jpg", "review/c.jpg", "unknown/d.jpg"]
