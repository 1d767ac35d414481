"""The run file: what a run was asked, and every row it has got. Resume and reports read nothing else.

One SQLite file a run. Inputs are frozen when it is made (``inputs.py``). Rows are keyed by the index of
their input, and the first writer wins: a chunk that two workers answered still gives one row an image. It may lose the
newest rows when power fails (it stays readable); those images are then simply labelled again.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, TextIO

from base.fault import fault
from base.files import HeldError, hold
from base.paths import path_to_text
from jobs import ChunkResult
from producer.errors import ProducerError
from producer.runfile.duplicates import fill_duplicates
from producer.runfile.inputs import freeze_inputs
from producer.runfile.plan import Plan
from producer.runfile.rows import ROWS_A_BATCH, StoredRow, delete_curable, insert_rows, next_rows, stored_rows
from producer.runfile.schema import VERSION
from producer.sources.since import InputFilter

LOOK_S = 0.1  # between two looks for rows that may have come
LAST_MOMENT = 253_402_300_800.0  # the year 10,000, which has no date


class RunFileError(ProducerError):
    """The run file can't be read, or another producer holds it."""


class RowsMisfit(RunFileError):
    """Rows can't be of this run; none is stored. The message says what whoever sent them did."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. ``waiting`` says what it waits for when it does, ``worker`` who sent the newest rows."""

    done: int
    failed: int
    total: int
    waiting: str = ""
    worker: str = ""


class StoredChunk(NamedTuple):
    """Who answered one chunk: how many new rows, with what engine ("name/device/precision"), when, seconds by stage.

    ``early``: images that the first stage of a cascade answered.
    """

    images: int
    worker: str
    engine: str
    seconds: dict[str, float]
    early: int
    at: float


class Reading(NamedTuple):
    """What a run has: every input in order, with or without a row, and when the newest chunk came (since 1970).

    With what `RunFile.keep_shadow` has kept, the answers by the index of the input.
    """

    plan: Plan
    rows: Iterator[StoredRow]
    ended: float
    shadow: dict[str, Any] | None
    shadow_answers: dict[int, tuple[str, float]]


class RunFile:
    """An open run file, held against other producers until closed."""

    def __init__(self, path: Path) -> None:
        """Open and lock the run file at ``path``; RunFileError when it's not one or is held."""
        self.path = path
        self._lock = _lock(path)
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            _check_version(self._db, path)
            self.plan = Plan.from_json(self._db.execute("SELECT json FROM plan").fetchone()[0])
            self.done: int
            self.failed: int
            self.done, self.failed = self._db.execute("SELECT count(*), count(error) FROM rows").fetchone()
        except RunFileError:
            self.close()
            raise
        except (sqlite3.Error, TypeError, ValueError, KeyError) as error:
            self._lock.close()
            if _is_of_disk(error):
                raise _unusable(path, error) from error
            raise RunFileError(f"{path} is not a run file ({error}); delete it to start anew") from error

    @classmethod
    def create(
        cls,
        path: Path,
        plan: Plan,
        paths: Iterable[str],
        input_filter: InputFilter | None = None,
        earlier_runs: Sequence[tuple[Path, str]] = (),
    ) -> RunFile:
        """Freeze the inputs of a new run, and open it. An existing run file is replaced.

        The file appears by a rename once all inputs are in it: a crash leaves no half list to resume from.

        Args:
            input_filter: learns the files' states; without it none are known, and a later run labels all again.
            earlier_runs: those whose rows are taken over into a merged run, see `take_over`.
        """
        with _lock(path), _writing(path):
            beside = path.with_suffix(".new")
            _remove(beside)
            freeze_inputs(beside, plan, paths, input_filter, earlier_runs)
            fault("inputs written")
            _remove(path)
            beside.replace(path)
            fault("inputs frozen")
        return cls(path)

    @staticmethod
    def peek(path: Path) -> tuple[Plan, list[str]] | None:
        """Return plan and ``requests`` of the run file at ``path`` without holding it; None when it is none.

        Raises:
            RunFileError: it is one, but of another version, or on a disk that is full or failing.
        """
        try:
            with closing(_read_only(path)) as database:
                _check_version(database, path)
                plan = Plan.from_json(database.execute("SELECT json FROM plan").fetchone()[0])
                return plan, [text for (text,) in database.execute("SELECT request FROM reports ORDER BY rowid")]
        except (sqlite3.Error, TypeError, ValueError, KeyError) as error:
            if _is_of_disk(error):
                raise _unusable(path, error) from error
            return None

    @staticmethod
    @contextmanager
    def reading(path: Path) -> Iterator[Reading]:
        """Give plan and rows of a run that another process may be at.

        Raises:
            RunFileError: it can't be read, or is none.
        """
        peeked = RunFile.peek(path)
        if peeked is None:
            raise RunFileError(f"{path} is not a run file")
        plan = peeked[0]
        with _reading(path), closing(_read_only(path)) as database:
            (ended,) = database.execute("SELECT COALESCE(max(at), 0) FROM chunks").fetchone()
            rows = stored_rows(
                database, labels=len(plan.labels), places=plan.duplicates, failed=False, of_files=plan.file_info
            )
            answers = {
                index: (_text(label), float(confidence))
                for index, label, confidence in database.execute("SELECT idx, label, confidence FROM shadow_answers")
            }
            yield Reading(plan, rows, _moment(ended), _shadow(database), answers)

    @staticmethod
    def remove(path: Path) -> None:
        """Delete the run file at ``path``; RunFileError when a command holds it."""
        with _lock(path):
            _remove(path)

    def close(self) -> None:
        """Close the file and let others have it."""
        self._db.close()
        self._lock.close()

    @property
    def total(self) -> int:
        """Number of inputs."""
        return self.plan.total

    def missing_chunks(
        self, size: Callable[[], int], queued: Iterable[tuple[int, int]] = ()
    ) -> Iterator[tuple[int, list[str]]]:
        """Yield (index of the first image, paths) of each stretch of inputs that has no rows, ``size()`` at a time.

        ``queued`` are stretches (index of the first image, images) that are left out.
        """
        ends = {first: first + images for first, images in queued}
        starts = sorted(ends)
        at = 0
        while found := self._inputs(
            "LEFT JOIN rows USING (idx) WHERE inputs.idx >= ? AND rows.idx IS NULL AND NOT EXISTS"
            " (SELECT 1 FROM places WHERE places.idx = inputs.idx AND first IS NOT NULL)"
            " ORDER BY inputs.idx LIMIT ?",
            (at, size()),
        ):
            first = found[0][0]
            place = bisect_right(starts, first)
            if place and first < ends[starts[place - 1]]:
                at = ends[starts[place - 1]]
                continue
            stop = starts[place] if place < len(starts) else self.total
            paths = [path for offset, (index, path) in enumerate(found) if index == first + offset < stop]
            at = first + len(paths)
            yield first, paths

    def paths(self, first: int, count: int) -> list[str]:
        """Return the paths of ``count`` inputs from index ``first`` on."""
        found = self._inputs("WHERE idx >= ? AND idx < ? ORDER BY idx", (first, first + count))
        return [path for _, path in found]

    def pages(self, first: int, count: int) -> list[int]:
        """Return the number that each of ``count`` inputs from index ``first`` on has in its file; [] of plain runs."""
        if not self.plan.pages:
            return []
        with _reading(self.path):
            found = self._db.execute(
                "SELECT page FROM inputs WHERE idx >= ? AND idx < ? ORDER BY idx", (first, first + count)
            )
            return [int(page) for (page,) in found]

    def files(self, first: int, count: int) -> list[tuple[int, str]]:
        """Return index and path of those inputs among ``count`` from index ``first`` on that this machine has seen."""
        return self._inputs(
            "JOIN files USING (idx) WHERE inputs.idx >= ? AND inputs.idx < ? ORDER BY inputs.idx",
            (first, first + count),
        )

    def spread_files(self, count: int) -> list[str]:
        """Return the paths of up to ``count`` inputs that this machine has seen, from the whole run."""
        first_from = "WHERE idx = (SELECT idx FROM files WHERE idx >= ? ORDER BY idx LIMIT ?)"
        found = [self._inputs(first_from, (self.total * place // count, 1)) for place in range(count)]
        return list(dict.fromkeys(path for inputs in found for _, path in inputs))

    def _inputs(self, which: str, values: tuple[int, int]) -> list[tuple[int, str]]:
        with _reading(self.path):
            found = self._db.execute(f"SELECT inputs.idx, path FROM inputs {which}", values).fetchall()  # noqa: S608
            if any(not isinstance(index, int) or not values[0] <= index < self.total for index, _ in found):
                raise ValueError(f"it has inputs that are not in order, or more than {self.total}")
            return [(index, _text(path)) for index, path in found]

    def record(self, result: ChunkResult, without: Collection[int] = ()) -> int:
        """Journal the rows of a chunk; return how many of them are new. Durable against a crash of this process.

        The inputs of ``without`` stay without a row.

        Raises:
            RowsMisfit: they are past the end of the run, or have labels that its model does not have.
        """
        if result.first + len(result.rows) > self.total:
            raise RowsMisfit(f"it sent rows past the end of run {self.plan.run}")
        labels, top_k = len(self.plan.labels), self.plan.top_k
        if any(len(row.top) > top_k or any(index >= labels for index, _ in row.top) for row in result.rows):
            raise RowsMisfit(f"it sent labels that {self.plan.model} does not have; is it up to date?")
        with _writing(self.path), self._db:
            self._db.execute("BEGIN")
            new, failed = insert_rows(self._db, result.first, result.rows, without)
            if new:
                self._db.execute(
                    "INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        result.first,
                        new,
                        result.worker,
                        result.engine,
                        json.dumps(result.seconds),
                        min(result.early, new),
                        time.time(),
                    ),
                )
            self._db.execute("DELETE FROM sent WHERE first = ?", (result.first,))
            filled = fill_duplicates(self._db, result.first, len(result.rows)) if self.plan.duplicates else 0
        self.done += new + filled
        self.failed += failed
        return new

    def forget_curable(self) -> int:
        """Take back the rows of images that failed for a reason that may be mended by now; return how many."""
        with _writing(self.path):
            forgotten = delete_curable(self._db)
        self.done -= forgotten
        self.failed -= forgotten
        return forgotten

    @property
    def duplicates(self) -> int:
        """Number of inputs that get the row of another one."""
        with _reading(self.path):
            return int(self._db.execute("SELECT count(first) FROM places").fetchone()[0])

    def note_sent(self, first: int, images: int) -> None:
        """Remember that a chunk is on the queue, so that a resumed run waits for it instead of sending it again."""
        with _writing(self.path):
            self._db.execute("INSERT OR REPLACE INTO sent VALUES (?, ?)", (first, images))

    def sent(self) -> list[tuple[int, int]]:
        """Return (index of the first image, images) of each chunk that was sent and has no rows yet."""
        with _reading(self.path):
            found = self._db.execute("SELECT first, images FROM sent ORDER BY first").fetchall()
            if any(not isinstance(number, int) for pair in found for number in pair) or any(n < 1 for _, n in found):
                raise ValueError("it has sent a chunk of no images")
            return found

    def begin_work(self) -> None:
        """Note that a command works on this run from now on: its chunks count to the seconds since."""
        with _writing(self.path):
            self._db.execute("INSERT INTO work VALUES (?)", (time.time(),))

    def work_periods(self) -> list[tuple[float, float]]:
        """Return (start, last chunk) of each command's work on this run, in seconds since 1970; idle ones left out."""
        with _reading(self.path):
            found = self._db.execute(
                "SELECT started, (SELECT max(at) FROM chunks WHERE at >= started AND at < until) FROM"
                " (SELECT started, lead(started, 1, 1e12) OVER (ORDER BY started) AS until FROM work) ORDER BY started"
            )
            return [(_moment(started), _moment(ended)) for started, ended in found if ended is not None]

    def chunks(self, since: float = 0.0) -> Iterator[StoredChunk]:
        """Yield who answered each chunk whose rows came at ``since`` (seconds since 1970) or later."""
        with _reading(self.path):
            found = self._db.execute(
                "SELECT images, worker, engine, seconds, early, at FROM chunks WHERE at >= ? ORDER BY first", (since,)
            )
            for images, worker, engine, seconds, early, at in found:
                stages = {str(stage): float(value) for stage, value in json.loads(seconds).items()}
                yield StoredChunk(int(images), _text(worker), _text(engine), stages, int(early), _moment(at))

    def requests(self) -> list[str]:
        """Return the reports that were asked for, the newest last, as ``producer/reports/request.py`` wrote them."""
        with _reading(self.path):
            return [_text(text) for (text,) in self._db.execute("SELECT request FROM reports ORDER BY rowid")]

    def keep_request(self, main: str, text: str) -> None:
        """Keep what was asked for in place of what had the same main report."""
        with _writing(self.path):
            self._db.execute("INSERT OR REPLACE INTO reports VALUES (?, ?)", (main, text))

    def keep_shadow(self, answers: Iterable[tuple[int, str, float]], summary: Callable[[], dict[str, Any]]) -> None:
        """Keep what a second version answered, in place of an earlier one, all of it or nothing.

        Args:
            answers: index of the input, label and confidence.
            summary: is called when all answers have passed.
        """
        with _writing(self.path), self._db:
            self._db.execute("BEGIN")
            self._db.execute("DELETE FROM shadow_answers")
            self._db.execute("DELETE FROM shadow")
            self._db.executemany("INSERT INTO shadow_answers VALUES (?, ?, ?)", answers)
            self._db.execute("INSERT INTO shadow VALUES (?)", (json.dumps(summary()),))

    def shadow(self) -> dict[str, Any] | None:
        """Return what `keep_shadow` was given as summary; None where no second version has answered."""
        with _reading(self.path):
            return _shadow(self._db)

    def labelled_files(self) -> Iterator[tuple[str, int, int]]:
        """Yield absolute path, size and time of the last change of each file that this run knows to have labels.

        Those are its own, as they were when it began, and those that it left out as unchanged.
        """
        base = path_to_text(self.plan.base)
        which = (
            "JOIN rows USING (idx) WHERE error IS NULL ORDER BY inputs.idx"
            if not self.plan.pages  # else all pictures of a file must have one
            else "LEFT JOIN rows USING (idx) GROUP BY path HAVING count(rows.idx) - count(error) = count(*)"
        )
        with _reading(self.path):
            for path, size, modified_ns in self._db.execute(
                f"SELECT path, size, modified_ns FROM inputs JOIN files USING (idx) {which}"  # noqa: S608
            ):
                yield os.path.join(base, _text(path)), int(size), int(modified_ns)  # noqa: PTH118
            for path, size, modified_ns in self._db.execute(
                "SELECT path, size, modified_ns FROM unchanged ORDER BY path"
            ):
                yield _text(path), int(size), int(modified_ns)

    @property
    def _has_more(self) -> bool:
        """Whether rows have fields on their files."""
        return self.plan.file_info or self.plan.exif or self.plan.pages

    def rows(self, *, failed: bool = False) -> Iterator[StoredRow]:
        """Yield every input in order, with its row; or only those that failed."""
        with _reading(self.path):
            yield from stored_rows(
                self._db,
                labels=len(self.plan.labels),
                places=self.plan.duplicates,
                failed=failed,
                of_files=self._has_more,
            )

    def rows_as_they_come(self, are_all: Event) -> Iterator[StoredRow]:
        """Yield every input in order once it has its row, to another thread; RunFileError if one has none at the end.

        On a connection of its own, and without a transaction for longer than a batch, which would keep SQLite from
        taking its log back into the file.

        Args:
            are_all: set once no more rows come.
        """
        with _reading(self.path), closing(_read_only(self.path)) as database:
            at = 0
            while at < self.total:
                is_over = are_all.is_set()
                batch = next_rows(database, at, labels=len(self.plan.labels), of_files=self._has_more)
                yield from batch
                at += len(batch)
                if len(batch) < ROWS_A_BATCH:
                    if is_over and not batch:
                        raise RunFileError(f"{self.path} has no row of input {at}")
                    are_all.wait(LOOK_S)


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn the database's errors inside the block into one that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise (_unusable if _is_of_disk(error) else _damaged)(path, error) from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """The same, and for what only a damaged file can hold."""
    with _writing(path):
        try:
            yield
        except (TypeError, ValueError, AttributeError) as error:
            raise _damaged(path, error) from error


def _check_version(database: sqlite3.Connection, path: Path) -> None:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise RunFileError(
            f"{path} was written by a newer version of Sortline (schema version {version}, this one reads {VERSION}): "
            "use that version; or label again with --on-existing overwrite, which drops its rows"
        )
    if version != VERSION and database.execute("SELECT 1 FROM sqlite_master WHERE name = 'plan'").fetchone():
        raise RunFileError(
            f"{path} was written by an older version of Sortline (schema version {version}, this one reads {VERSION}): "
            "label again with --on-existing overwrite"
        )


def _is_of_disk(error: Exception) -> bool:
    """Whether SQLite says that the disk, not the file, is at fault; or another who uses the file."""
    text = str(error)
    return isinstance(error, sqlite3.OperationalError) and not text.startswith(("Could not decode", "no such"))


def _unusable(path: Path, error: Exception) -> RunFileError:
    return RunFileError(
        f"{path} can't be used ({error}): is its disk full, read-only or gone? Every row that it has is safe; "
        "give it room, then type the same command again"
    )


def _damaged(path: Path, error: Exception) -> RunFileError:
    return RunFileError(
        f"{path} is damaged ({error}), so its rows can't be trusted: label again with --on-existing overwrite"
    )


def _shadow(database: sqlite3.Connection) -> dict[str, Any] | None:
    found = database.execute("SELECT json FROM shadow").fetchone()
    if found is None:
        return None
    summary = json.loads(_text(found[0]))
    if not isinstance(summary, dict):
        raise TypeError("a summary that is none")
    return summary


def _moment(value: float) -> float:
    if not 0 <= value < LAST_MOMENT:
        raise ValueError(f"{value} where a time should be")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.50} where a text should be")
    return value


def _remove(path: Path) -> None:
    for name in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        name.unlink(missing_ok=True)


def _lock(path: Path) -> TextIO:
    """Return an open, locked file beside ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        return hold(path.with_name(path.name + ".lock"))
    except HeldError as error:
        raise RunFileError(f"{path} is in use by {error}; wait for it or stop it") from error
    except OSError as error:
        raise RunFileError(f"{path} can't be locked ({error}); its rows are safe") from error
