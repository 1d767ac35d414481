"""Images into class folders, with a file that undoes it.

Every step is written to the undo file, and on the disk, before it is taken: a sort that was interrupted goes on behind
the last step, and all of it can be played back. Nothing is ever overwritten, neither then nor now.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TextIO, cast, get_args

from base.decisions import DECISIONS
from base.paths import path_to_text, text_to_path
from base.urls import is_url
from producer.errors import UsageError
from producer.reports import By
from producer.reports.layout import Layout
from producer.reports.output import refuse_unwritable
from producer.runfile import RunFile

STEPS_AT_ONCE = 256  # written to the disk together
LONGEST_NAME = 200  # bytes of a folder's name; file systems take 255
LISTED = 20  # problems that are named one by one


class Step(NamedTuple):
    """One image on its way: ``source`` and ``target`` are absolute paths, ``place`` the image's place in the run."""

    place: int
    source: str
    target: str


@dataclass(slots=True)
class Done:
    """What became of the images of a run: how many were left as they are, and a sentence about each."""

    left: int = 0
    problems: list[str] = field(default_factory=list)

    def leave(self, sentence: str) -> None:
        """Count an image that stays where it is, and why."""
        self.left += 1
        if len(self.problems) < LISTED:
            self.problems.append(sentence)


@dataclass(slots=True)
class Sorted(Done):
    """What became of a sort or of its undoing: how many images were placed, too."""

    placed: int = 0


def undo_file(into: Path, run: RunFile) -> Path:
    """Where the steps of this run's sort into ``into`` are written."""
    return into / f"undo-{run.plan.run}.jsonl"


def check_pages(run: RunFile, command: str) -> None:
    """Raise UsageError where a file has several rows, so that it would belong to several labels."""
    if run.plan.pages:
        raise UsageError(f"{command}: not of a run with --pages all, of which a file has several rows")


def check_folder(into: Path, base: str, walked: bool) -> None:
    """Raise UsageError when the sorted images would lie inside the folder that is labelled, or can't be written."""
    inside = os.path.realpath(into)
    if walked and os.path.commonpath([inside, os.path.realpath(base)]) == os.path.realpath(base):
        raise UsageError(
            f"{into} is inside the labelled folder {base}, whose next run would label the sorted images too; "
            "choose a folder elsewhere"
        )
    refuse_unwritable(into / "undo.jsonl")


def sort_images(run: RunFile, layout: Layout, into: Path, by: By) -> Sorted:
    """Put each labelled image into the folder of its label below ``into``; images with an error stay.

    A name that is taken gets a number. The same call again goes on where an earlier one was interrupted.
    """
    if is_url(run.plan.data_root):
        raise UsageError("--sort-into: only with images of this machine, not with a URL")
    check_pages(run, "--sort-into")
    into = Path(os.path.abspath(into))  # noqa: PTH100 - links stay as the user wrote them
    check_folder(into, run.plan.base, run.plan.walked)
    into.mkdir(parents=True, exist_ok=True)
    journal = undo_file(into, run)
    done = Sorted()
    last = _resume(journal, run, by, done)
    with journal.open("a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write(json.dumps({"run": run.plan.run, "by": by}) + "\n")
        for steps in _batches(run, layout, into, last, done):
            _write(file, steps)
            for step in steps:
                _take(step, by, done)
    return done


def undo(journal: Path) -> Sorted:
    """Play an undo file back; what somebody changed since stays. Delete the file once all is back."""
    by = _by(journal)
    done = Sorted()
    folders = set()
    for step in _steps(journal):
        folders.add(os.path.dirname(step.target))  # noqa: PTH120
        if not os.path.lexists(step.target):
            continue  # never taken, or played back by an earlier call
        if sentence := _untake(step, by):
            done.leave(sentence)
        else:
            done.placed += 1
    for folder in folders:
        with suppress(OSError):  # not empty: it holds what is not ours
            os.rmdir(folder)  # noqa: PTH106
    if not done.left:
        journal.unlink()
    return done


def folder_names(labels: Iterable[str], reserved: Iterable[str] = ()) -> dict[str, str]:
    """Return a folder name for each label: the label, without what a file system or a person would trip over."""
    found: dict[str, str] = {}
    used = set(reserved)
    for label in dict.fromkeys(labels):
        text = path_to_text(label).replace("/", "_").replace("\\", "_").strip(" .") or "_"
        text = os.fsencode(text)[:LONGEST_NAME].decode(errors="ignore")
        name, number = text, 2
        while name.casefold() in used:
            name, number = f"{text}-{number}", number + 1
        used.add(name.casefold())
        found[label] = name
    return found


def free_name(folder: str, name: str, taken: set[str]) -> str:
    """Return the path of ``name`` in ``folder``, or of name-2, name-3, ... where that exists; note it in ``taken``."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122

    def at(number: int) -> str:
        return os.path.join(folder, name if number == 1 else f"{stem}-{number}{suffix}")  # noqa: PTH118

    def is_free(number: int) -> bool:
        return at(number) not in taken and not os.path.lexists(at(number))

    high = 1
    while not is_free(high):  # doubling, then halving: a camera may have named a million files alike
        high *= 2
    low = high // 2
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_free(middle) else (middle, high)
    taken.add(at(high))
    return at(high)


def _batches(run: RunFile, layout: Layout, into: Path, after: int, done: Sorted) -> Iterator[list[Step]]:
    """Yield the steps of the images behind index ``after``, as many as are written down together."""
    folders = folder_names(layout.names, DECISIONS[1:] if layout.thresholds else ())
    rows = (row for row in run.rows() if row.top and row.input_index > after)
    while batch := list(islice(rows, STEPS_AT_ONCE)):
        taken: set[str] = set()
        steps = []
        for row in batch:
            source = os.path.join(run.plan.base, text_to_path(row.path))  # noqa: PTH118
            if not os.path.isfile(source) or os.path.islink(source):  # noqa: PTH113, PTH114
                kind = "a link" if os.path.islink(source) else "no file here"  # noqa: PTH114
                done.leave(f"{path_to_text(source)} is {kind}; left as it is")
                continue
            decision = layout.decision(row)
            is_accepted = decision is None or decision == "accept"
            folder = into / (folders[layout.names[row.top[0][0]]] if is_accepted else str(decision))
            folder.mkdir(parents=True, exist_ok=True)
            target = free_name(str(folder), os.path.basename(source), taken)  # noqa: PTH119
            steps.append(Step(row.input_index, source, target))
        yield steps


def _resume(journal: Path, run: RunFile, by: By, done: Sorted) -> int:
    """Finish what an interrupted sort had written down; return the index of its last image, or -1."""
    if journal.exists():
        _cut_half_line(journal)
    if not journal.exists() or not journal.stat().st_size:
        return -1
    if (earlier := _by(journal)) != by:
        raise UsageError(
            f"these images were sorted by {earlier} before; undo that first: sortline report --undo-sort {journal}"
        )
    newest = deque(_steps(journal), maxlen=STEPS_AT_ONCE)  # older ones were taken before these were written
    for step in newest:
        with suppress(FileNotFoundError):
            os.unlink(_beside(step.source, step.target))  # noqa: PTH108
        if not _is_taken(step, by):
            _take(step, by, done)
    return newest[-1].place if newest else -1


def _write(file: TextIO, steps: Iterable[Step]) -> None:
    try:
        for step in steps:
            line = {"index": step.place, "from": path_to_text(step.source), "to": path_to_text(step.target)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or file.name  # a full disk names no file
        raise


def _by(journal: Path) -> By:
    """Return how the images of an undo file were placed."""
    try:
        with journal.open("rb") as lines:
            by = json.loads(next(lines)).get("by")
    except (ValueError, AttributeError, StopIteration):
        by = None
    if by not in get_args(By):
        raise UsageError(f"{journal} is not an undo file")
    return cast("By", by)


def _steps(journal: Path) -> Iterator[Step]:
    """Yield the steps of an undo file. A half line is of a step that was never taken."""
    with journal.open("rb") as lines:
        for line in islice(lines, 1, None):
            if not line.endswith(b"\n"):
                break
            try:
                found = json.loads(line)
                yield Step(int(found["index"]), text_to_path(found["from"]), text_to_path(found["to"]))
            except (ValueError, KeyError, TypeError) as error:
                raise UsageError(f"{journal} holds a line that is no step ({error})") from error


def _cut_half_line(journal: Path) -> None:
    """Remove what a failing machine left of a last line, so that the next one stands alone."""
    with journal.open("rb+") as file:
        file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))


def _is_taken(step: Step, by: By) -> bool:
    if by == "link":
        return os.path.islink(step.target) and os.readlink(step.target) == step.source  # noqa: PTH114, PTH115
    if by == "copy":
        return os.path.exists(step.target) and filecmp.cmp(step.source, step.target, shallow=False)  # noqa: PTH110
    return os.path.lexists(step.target) and not os.path.lexists(step.source)


def _take(step: Step, by: By, done: Sorted) -> None:
    try:
        ways: dict[By, Callable[[str, str], None]] = {"link": os.symlink, "copy": _copy, "move": _move}
        ways[by](step.source, step.target)
        done.placed += 1
    except OSError as error:
        done.leave(f"{path_to_text(step.source)} stays: {error.strerror or error}")


def _untake(step: Step, by: By) -> str:
    """Take a step back; return why not, or an empty text."""
    source, target = path_to_text(step.source), path_to_text(step.target)
    try:
        if by == "move":
            os.makedirs(os.path.dirname(step.source), exist_ok=True)  # noqa: PTH103, PTH120
            _move(step.target, step.source)
            return ""
        if by == "copy" and not os.path.exists(step.source):  # noqa: PTH110
            return f"{source} is gone, so its copy {target} stays"
        if not _is_taken(step, by):
            changed = "is not the link that was made" if by == "link" else f"differs from {source} by now"
            return f"{target} {changed}; left as it is"
        os.unlink(step.target)  # noqa: PTH108
    except OSError as error:
        return f"{target} stays: {error.strerror or error}"
    return ""


def _move(source: str, target: str) -> None:
    """Move a file without ever replacing another, which a rename would do."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        if not os.path.samefile(source, target):  # noqa: PTH121
            raise
        # an earlier move was interrupted between link and unlink
    except OSError:  # another file system, or one without hard links
        _copy(source, target)
    os.unlink(source)  # noqa: PTH108


def _copy(source: str, target: str) -> None:
    """Copy bytes and times; the target appears whole, and never in the place of another."""
    beside = _beside(source, target)
    try:
        shutil.copy2(source, beside)
        with open(beside, "rb") as file:  # noqa: PTH123
            os.fsync(file.fileno())
        try:
            os.link(beside, target)
        except FileExistsError:
            raise
        except OSError:  # no hard links here: nothing better than to look first
            if os.path.lexists(target):
                raise FileExistsError(f"{target} exists") from None
            os.rename(beside, target)  # noqa: PTH104
    finally:
        with suppress(FileNotFoundError):
            os.unlink(beside)  # noqa: PTH108


def _beside(source: str, target: str) -> str:
    """Return where a copy is made before it gets its name; the same for the same source, so that it can be cleared."""
    return os.path.join(os.path.dirname(target), f".{sha256(os.fsencode(source)).hexdigest()[:16]}.new")  # noqa: PTH118, PTH120
