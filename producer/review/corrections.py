"""corrections.csv: what people decided about images, one row a decision, only ever appended to.

    path,label,verdict,predicted,confidence,version,sha256,who,when,action
    /photos/a.jpg,tin,wrong,glass,0.5123,kitchen:3,9f86d0...,ann,2026-03-01T12:00:00Z,1

The last row of an image says what holds. ``verdict`` is ``right`` (the label is the predicted one), ``wrong`` (it is
another), ``reject`` (not usable), ``skip`` (somebody looked and could not say) or ``open`` (a decision was taken back);
only the first two have a label, so the file is a table of labelled images as it is. ``action`` numbers what was decided
at once, or says ``undo 1`` or ``redo 1``: the file alone tells what can be undone, also after a crash.

An action is one write and one fsync before anybody is told that it is saved. What a crash cuts off in the middle of a
row is removed when the file is opened next; it had not been confirmed.
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Final, NamedTuple

from base.text import plain_cell, printable, safe_cell
from producer.errors import ProducerError, UsageError

COLUMNS: Final = (
    "path", "label", "verdict", "predicted", "confidence", "version", "sha256", "who", "when", "action",
)  # fmt: skip
HEADER: Final = (",".join(COLUMNS) + "\n").encode()
MAX_LABEL: Final = 500  # characters, as a table of labelled images takes them
VERDICTS: Final = ("right", "wrong", "reject", "skip", "open")


class CorrectionsError(ProducerError):
    """The file can't be used or written; the message says what to do."""


class Conflict(Exception):
    """Somebody else has decided about some of the images since; nothing was saved.

    Attributes:
        paths: those images.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__(f"{len(paths)} of these images were changed by another tab or window")
        self.paths = paths


class Decision(NamedTuple):
    """What holds for an image."""

    verdict: str
    label: str


class Subject(NamedTuple):
    """An image that is decided about: its absolute path as text, what was predicted by which version, its bytes."""

    path: str
    predicted: str
    confidence: str
    version: str
    sha256: str


OPEN: Final = Decision("open", "")


@dataclass(frozen=True, slots=True)
class Action:
    """What was decided at once: for each image what held before, and after."""

    number: int
    changes: Mapping[str, tuple[Decision, Decision]]


def clean_label(text: str) -> str:
    """Return a label as it is saved: one line, single spaces; UsageError if it is empty or too long."""
    label = plain_cell(" ".join(printable(" ".join(text.split())).split()))
    if not label or len(label) > MAX_LABEL:
        raise UsageError(f"a label has 1 to {MAX_LABEL} characters")
    return label


class Corrections:
    """An open file of corrections, held against other writers until it is closed. Not for several threads at once.

    Attributes:
        version: how many actions the file has, taken back or not.
        repaired: what was cut off at the end, a sentence; or "".
    """

    def __init__(self, path: Path, who: str) -> None:
        self.path, self._who = path, printable(who)
        self.version = self._last = 0  # number of the newest action
        self.repaired = ""
        self._subjects: dict[str, Subject] = {}
        self._decisions: dict[str, Decision] = {}
        self._changed: dict[str, int] = {}  # version of the last action that changed the image
        self._order: list[tuple[int, str]] = []  # (version, path), as they came
        self._undoable: list[Action] = []
        self._redoable: list[Action] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise CorrectionsError(f"{path} can't be written: {error.strerror}; name another file with -o") from error
        try:
            self._lock()
            self._load()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def decision(self, path: str) -> Decision:
        """Return what holds for an image."""
        return self._decisions.get(path, OPEN)

    def decisions(self) -> Mapping[str, Decision]:
        """Return what holds for each image that was ever decided about."""
        return self._decisions

    def changed_since(self, version: int) -> list[str]:
        """Return the images that actions after ``version`` changed, each once."""
        place = len(self._order)
        while place and self._order[place - 1][0] > version:
            place -= 1
        return list(dict.fromkeys(path for _, path in self._order[place:]))

    @property
    def can_undo(self) -> int:
        return len(self._undoable)

    @property
    def can_redo(self) -> int:
        return len(self._redoable)

    def decide(self, chosen: Iterable[tuple[Subject, Decision]], known: int) -> Action:
        """Save one action; it is on the disk when this returns.

        Args:
            known: the version that whoever decides has seen.

        Raises:
            Conflict: one of the images was changed after ``known``; nothing is saved.
            CorrectionsError: it can't be saved.
        """
        wanted = {subject.path: (subject, decision) for subject, decision in chosen}
        if others := [path for path in wanted if self._changed.get(path, 0) > known]:
            raise Conflict(others)
        changes = {path: (self.decision(path), decision) for path, (_, decision) in wanted.items()}
        action = Action(self._last + 1, changes)
        self._append([(subject, decision) for subject, decision in wanted.values()], str(action.number))
        self._begin(action)
        return action

    def undo(self, known: int) -> Action | None:
        """Take the last action back; None when there is none. Raises as `decide` does."""
        return self._move(self._undoable, self._redoable, "undo", 0, known)

    def redo(self, known: int) -> Action | None:
        """Do again what was undone last; None when there is nothing. Raises as `decide` does."""
        return self._move(self._redoable, self._undoable, "redo", 1, known)

    def _move(self, source: list[Action], target: list[Action], what: str, side: int, known: int) -> Action | None:
        if not source:
            return None
        action = source[-1]
        if others := [path for path in action.changes if self._changed.get(path, 0) > known]:
            raise Conflict(others)
        rows = [(self._subjects[path], change[side]) for path, change in action.changes.items()]
        self._append(rows, f"{what} {action.number}")
        target.append(source.pop())
        return action

    def _begin(self, action: Action) -> None:
        self._last = action.number
        self._undoable.append(action)
        self._redoable.clear()

    def _append(self, rows: Sequence[tuple[Subject, Decision]], action: str) -> None:
        when = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        for subject, decision in rows:
            cells = (
                subject.path, decision.label, decision.verdict, subject.predicted, subject.confidence,
                subject.version, subject.sha256, self._who, when, action,
            )  # fmt: skip
            writer.writerow([safe_cell(cell) for cell in cells])
        self._write(text.getvalue().encode())
        self._apply(rows)

    def _apply(self, rows: Iterable[tuple[Subject, Decision]]) -> None:
        self.version += 1
        for subject, decision in rows:
            self._subjects[subject.path] = subject
            self._decisions[subject.path] = decision
            self._changed[subject.path] = self.version
            self._order.append((self.version, subject.path))

    def _write(self, data: bytes) -> None:
        """Append ``data`` and bring it to the disk, all of it or nothing."""
        if not self._is_ours():
            raise CorrectionsError(
                f"{self.path} was changed or replaced by another program, so nothing is written to it; "
                "start `sortline review` again"
            )
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) or 0 :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._size)
            raise CorrectionsError(f"{self.path} can't be written: {error.strerror}; this was not saved") from error
        self._size += len(data)

    def _is_ours(self) -> bool:
        """Whether the file at the path is the one that is open, as it was left."""
        try:
            there, mine = self.path.stat(), os.fstat(self._file.fileno())
        except OSError:
            return False
        return (there.st_dev, there.st_ino, mine.st_size) == (mine.st_dev, mine.st_ino, self._size)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CorrectionsError(
                f"another `sortline review` has {self.path} open: use its page, or end it first"
            ) from error

    def _load(self) -> None:
        """Read what was decided before; cut off what a crash has left of a row."""
        self._file.seek(0)
        data = self._file.readall()
        whole = data[: data.rfind(b"\n") + 1]
        if not whole and HEADER.startswith(data):
            self._size = 0
            self._file.truncate(0)
            self._write(HEADER)
            _sync_folder(self.path.parent)
            return
        if not whole.startswith(HEADER):
            raise CorrectionsError(
                f"{self.path} is no file of corrections as this command writes it (a spreadsheet may have saved it "
                "anew): name another file with -o"
            )
        if whole != data:
            self._file.truncate(len(whole))
            self.repaired = f"{self.path}: the last row was incomplete and is removed; it had not been confirmed"
        self._size = len(whole)
        self._replay(whole[len(HEADER) :])

    def _replay(self, data: bytes) -> None:
        try:
            lines = csv.reader(io.StringIO(data.decode(), newline=""), strict=True)
            rows = [self._row(cells, number) for number, cells in enumerate(lines, start=2)]
        except (UnicodeDecodeError, csv.Error) as error:
            raise CorrectionsError(f"{self.path} is damaged ({error}): name another file with -o") from error
        for text, group in groupby(rows, key=itemgetter(2)):
            self._replay_action(text, [(subject, decision) for subject, decision, _ in group])

    def _row(self, cells: list[str], number: int) -> tuple[Subject, Decision, str]:
        where = f"{self.path}, line {number}"
        if len(cells) != len(COLUMNS):
            raise CorrectionsError(f"{where} has {len(cells)} cells instead of {len(COLUMNS)}; mend or remove it")
        path, label, verdict, predicted, confidence, version, sha256, _, _, action = map(plain_cell, cells)
        if verdict not in VERDICTS:
            raise CorrectionsError(f"{where}: the verdict {verdict!r} is none of {', '.join(VERDICTS)}")
        return Subject(path, predicted, confidence, version, sha256), Decision(verdict, label), action

    def _replay_action(self, text: str, rows: list[tuple[Subject, Decision]]) -> None:
        what, _, number = text.rpartition(" ")
        changes = {subject.path: (self.decision(subject.path), decision) for subject, decision in rows}
        self._apply(rows)
        if not what and number.isdecimal():
            self._begin(Action(int(number), changes))
            return
        source, target = self._undoable, self._redoable
        if what == "redo":
            source, target = target, source
        if what not in ("undo", "redo") or not source or str(source[-1].number) != number:
            raise CorrectionsError(f"{self.path} is damaged: it has {text!r} where that can't be; name another with -o")
        target.append(source.pop())


def _sync_folder(folder: Path) -> None:
    """Bring the name of a new file to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
