"""corrections.csv: each decision on the disk at once, undo without end, nothing lost, no tab over another."""

from __future__ import annotations

import csv
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from producer.errors import UsageError
from producer.review.corrections import (
    COLUMNS,
    OPEN,
    Conflict,
    Corrections,
    CorrectionsError,
    Decision,
    Subject,
    clean_label,
)

TIN, REJECT = Decision("wrong", "tin"), Decision("reject", "")
Chosen = list[tuple[Subject, Decision]]


class Desk:
    """Opens the file as one process after the other would; nothing is said good-bye to."""

    def __init__(self, path: Path) -> None:
        self.path, self.opened = path, list[Corrections]()

    def open(self, who: str = "ann") -> Corrections:
        self.close()
        self.opened.append(Corrections(self.path, who))
        return self.opened[-1]

    def close(self) -> None:
        for log in self.opened:
            log.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    found = Desk(tmp_path / "corrections.csv")
    yield found
    found.close()


@pytest.fixture
def log(desk: Desk) -> Corrections:
    return desk.open()


def subject(name: str) -> Subject:
    return Subject(f"/photos/{name}", "glass", "0.5123", "kitchen:3", "0f" * 32)


def chosen(decision: Decision, *names: str) -> Chosen:
    return [(subject(name), decision) for name in names]


def verdicts(log: Corrections, *names: str) -> list[str]:
    return [log.decision(f"/photos/{name}").verdict for name in names]


def test_a_decision_is_a_row_on_the_disk_before_anybody_is_told(
    log: Corrections, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(log.path.read_bytes()))

    log.decide(chosen(TIN, "a.jpg"), 0)

    assert b"/photos/a.jpg,tin,wrong,glass,0.5123,kitchen:3," in synced[-1]
    with log.path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == COLUMNS
    assert (row["who"], row["action"], row["sha256"]) == ("ann", "1", "0f" * 32)
    assert row["when"].endswith("Z")


def test_all_that_was_decided_is_there_again_after_a_kill_and_can_still_be_undone(log: Corrections, desk: Desk) -> None:
    log.decide(chosen(TIN, "a.jpg", "b.jpg"), 0)
    log.decide(chosen(REJECT, "b.jpg"), 1)
    log.undo(2)

    again = desk.open()
    assert verdicts(again, "a.jpg", "b.jpg", "c.jpg") == ["wrong", "wrong", "open"]
    assert (again.version, again.can_undo, again.can_redo) == (3, 1, 1)
    again.redo(3)
    assert verdicts(again, "b.jpg") == ["reject"]
    again.undo(4)
    again.undo(5)
    assert verdicts(again, "a.jpg", "b.jpg") == ["open", "open"]
    assert again.undo(6) is None


def test_undo_appends_and_a_new_decision_ends_redo(log: Corrections) -> None:
    log.decide(chosen(TIN, "a.jpg"), 0)
    before = log.path.read_bytes()
    log.undo(1)

    assert log.path.read_bytes().startswith(before)
    assert log.path.read_text().splitlines()[-1].endswith(",undo 1")
    log.decide(chosen(REJECT, "c.jpg"), 2)
    assert log.redo(3) is None


@pytest.mark.parametrize("kept", [1, 30, -1])
def test_a_row_that_a_crash_cut_off_is_removed_and_the_rest_holds(log: Corrections, desk: Desk, kept: int) -> None:
    log.decide(chosen(TIN, "a.jpg"), 0)
    whole = log.path.read_bytes()
    log.decide(chosen(TIN, "b.jpg"), 1)
    row = log.path.read_bytes()[len(whole) :]
    log.path.write_bytes(whole + row[:kept])

    again = desk.open()
    assert "incomplete" in again.repaired
    assert again.path.read_bytes() == whole
    assert verdicts(again, "a.jpg", "b.jpg") == ["wrong", "open"]
    again.decide(chosen(REJECT, "b.jpg"), 1)
    assert verdicts(desk.open(), "b.jpg") == ["reject"]


def test_a_header_that_a_crash_cut_off_is_written_again(desk: Desk) -> None:
    desk.path.write_bytes(b"path,lab")
    desk.open()

    assert desk.path.read_text() == ",".join(COLUMNS) + "\n"


def test_two_tabs_do_not_overwrite_each_other(log: Corrections) -> None:
    log.decide(chosen(TIN, "a.jpg"), 0)

    with pytest.raises(Conflict) as caught:
        log.decide(chosen(REJECT, "a.jpg", "b.jpg"), 0)  # a tab that has not seen the first decision
    assert caught.value.paths == ["/photos/a.jpg"]
    assert verdicts(log, "a.jpg", "b.jpg") == ["wrong", "open"]
    log.decide(chosen(REJECT, "b.jpg"), 0)  # of another image: no conflict
    with pytest.raises(Conflict):
        log.undo(1)  # that tab has not seen what it would take back
    assert log.changed_since(1) == ["/photos/b.jpg"]


def test_a_second_process_is_refused_while_the_first_has_the_file(log: Corrections) -> None:
    with pytest.raises(CorrectionsError, match="another `sortline review`"):
        Corrections(log.path, "ben")


def test_a_full_disk_saves_nothing_of_an_action_and_says_so(
    log: Corrections, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.decide(chosen(TIN, "a.jpg"), 0)
    before = log.path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CorrectionsError, match="No space left on device; this was not saved"):
            log.decide(chosen(TIN, "b.jpg"), 1)
    assert log.path.read_bytes() == before
    assert verdicts(log, "b.jpg") == ["open"]
    log.decide(chosen(TIN, "b.jpg"), 1)
    assert verdicts(desk.open(), "b.jpg") == ["wrong"]


@pytest.mark.parametrize("how", ["replaced", "appended", "removed"])
def test_a_file_that_another_program_changed_is_not_written_to(log: Corrections, how: str) -> None:
    if how == "appended":
        log.path.write_text(log.path.read_text() + "x")
    else:
        log.path.rename(log.path.with_suffix(".old"))
        if how == "replaced":
            log.path.write_text("mine")

    with pytest.raises(CorrectionsError, match="changed or replaced by another program"):
        log.decide(chosen(TIN, "a.jpg"), 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path;label\n", "no file of corrections"),
        (",".join(COLUMNS) + "\na,b\n", "line 2 has 2 cells instead of 10"),
        (",".join(COLUMNS) + "\n/a,tin,maybe,,,,,,,1\n", "line 2: the verdict 'maybe'"),
        (",".join(COLUMNS) + "\n/a,tin,wrong,,,,,,,undo 7\n", "damaged"),
        (",".join(COLUMNS) + "\n/a,tin,wrong,,,,,,,soon\n", "damaged"),
    ],
)
def test_another_file_is_left_alone_with_the_line_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "corrections.csv"
    path.write_text(text)

    with pytest.raises(CorrectionsError, match=message):
        Corrections(path, "ann")
    assert path.read_text() == text


@pytest.mark.parametrize("name", ["=1+1.jpg", "@x", "<b>.jpg", 'a",b.jpg', "''=x", "-"])
def test_no_cell_runs_in_a_spreadsheet_and_each_is_read_back_as_it_was(log: Corrections, desk: Desk, name: str) -> None:
    mine = Subject(name, name, "", name, "")
    log.decide([(mine, Decision("wrong", name))], 0)

    with log.path.open(newline="") as file:
        row = next(csv.DictReader(file))
    assert not row["path"].startswith(("=", "+", "-", "@"))
    assert desk.open().decision(name) == Decision("wrong", name)


def test_a_label_is_one_line_of_some_length() -> None:
    assert clean_label("  glass\n bottle ") == "glass bottle"
    assert clean_label("a\u202eb") == "a\\u202eb"
    assert clean_label("'=x") == "=x"  # what a table would be read back as
    for text in ("", " \n", "x" * 501):
        with pytest.raises(UsageError, match="1 to 500 characters"):
            clean_label(text)


def test_what_nobody_decided_is_open(log: Corrections) -> None:
    assert log.decision("/photos/z.jpg") == OPEN
    assert log.decisions() == {}
