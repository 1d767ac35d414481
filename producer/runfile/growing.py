"""A run file that grows: each batch is labelled in a run file of its own, whose rows are then taken over.

One row a path: a file that is labelled anew keeps its place. A batch is taken over in one transaction, and doing
it twice changes nothing: a command may be killed at any line.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from base.fault import fault
from producer.runfile.file import RunFile, _reading, _text, _writing
from producer.runfile.plan import Plan
from producer.sources.arrivals import NO_FILE
from producer.sources.since import FileState

# ``batches``: what was taken over; ``is_done`` once its reports are written and whoever waits for it was called.
_TABLES = """
CREATE TABLE IF NOT EXISTS batches (
    run TEXT PRIMARY KEY, images INTEGER NOT NULL, failed INTEGER NOT NULL, at REAL NOT NULL, is_done INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS inputs_by_path ON inputs (path);
"""

_STATE = "SELECT size, modified_ns FROM inputs JOIN files USING (idx) WHERE path = ?"
_FAILED = f"""
SELECT idx, path, COALESCE(size, {NO_FILE.size}), COALESCE(modified_ns, {NO_FILE.modified_ns})
    FROM batch.rows JOIN batch.inputs USING (idx) LEFT JOIN batch.files USING (idx) WHERE error IS NOT NULL
"""  # noqa: S608
# ``held`` are inputs of the batch that stay out. ``numbered`` says which input here each of the others is.
_TAKE_OVER = f"""
INSERT INTO main.inputs
    SELECT (SELECT count(*) FROM main.inputs) - 1 + row_number() OVER (ORDER BY idx), path, page FROM batch.inputs
    WHERE idx NOT IN (SELECT idx FROM held) AND path NOT IN (SELECT path FROM main.inputs);
CREATE TEMP TABLE numbered AS
    SELECT new.idx AS old, here.idx AS idx FROM batch.inputs AS new JOIN main.inputs AS here USING (path)
    WHERE new.idx NOT IN (SELECT idx FROM held);
INSERT OR REPLACE INTO main.rows
    SELECT numbered.idx, top, error, detail, width, height, outlier FROM batch.rows AS new JOIN numbered
    ON old = new.idx;
INSERT OR REPLACE INTO main.files
    SELECT numbered.idx, COALESCE(size, {NO_FILE.size}), COALESCE(modified_ns, {NO_FILE.modified_ns})
    FROM numbered LEFT JOIN batch.files AS new ON old = new.idx;
DELETE FROM main.contents WHERE idx IN (SELECT idx FROM numbered);
INSERT INTO main.contents SELECT numbered.idx, bytes, sha256 FROM batch.contents AS new JOIN numbered ON old = new.idx;
DELETE FROM main.photos WHERE idx IN (SELECT idx FROM numbered);
INSERT INTO main.photos SELECT numbered.idx, taken, make, model, serial, latitude, longitude
    FROM batch.photos AS new JOIN numbered ON old = new.idx;
INSERT INTO main.chunks
    SELECT (SELECT count(*) FROM main.chunks) - 1 + row_number() OVER (ORDER BY first), images, worker, engine, seconds,
    early, at FROM batch.chunks WHERE NOT :is_known;
INSERT INTO main.work SELECT started FROM batch.work WHERE NOT :is_known;
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Batch:
    """What was taken over at once: the name of its run, rows, those of them that are errors, seconds since 1970."""

    run: str
    images: int
    failed: int
    at: float


class GrowingRun(RunFile):
    """The run file of a folder that is watched."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with _writing(path):
            self._db.executescript(_TABLES)

    @classmethod
    def begin(cls, path: Path, plan: Plan) -> GrowingRun:
        """Make a run file without inputs; an existing one is replaced."""
        RunFile.create(path, plan, ()).close()
        return cls(path)

    def state(self, path: str) -> FileState | None:
        """Return the state in which the file at ``path`` (as text) was labelled; None when it was not."""
        try:  # no block of `_reading`, which costs as much as the look itself: a million times
            found = self._db.execute(_STATE, (path,)).fetchone()
        except sqlite3.Error:
            with _reading(self.path):
                raise
        return FileState(*found) if found is not None else None

    def take_over(
        self, batch: RunFile, counts: Callable[[str, FileState], bool], skipped: Mapping[str, int]
    ) -> list[str]:
        """Take over the rows of a batch that is complete; return the inputs, as text, that get no row here yet.

        Args:
            counts: whether the error of the file at a path, in this state when the batch began, is one to keep.
            skipped: files of the folder that are no images, by suffix, as they are now.
        """
        with _writing(self.path):
            self._db.execute("ATTACH ? AS batch", (str(batch.path),))
            try:
                failed = self._db.execute(_FAILED).fetchall()
                held = {idx: path for idx, path, *state in failed if not counts(_text(path), FileState(*state))}
                with self._db:
                    self._db.execute("BEGIN IMMEDIATE")
                    plan = self._take_over(batch.plan.run, held, skipped)
                self.plan = plan
            finally:
                self._db.execute("DROP TABLE IF EXISTS temp.held")
                self._db.execute("DROP TABLE IF EXISTS temp.numbered")
                self._db.execute("DETACH batch")
            self.done, self.failed = self._db.execute("SELECT count(*), count(error) FROM rows").fetchone()
        fault("batch taken over")
        return list(held.values())

    def _take_over(self, name: str, held: Iterable[int], skipped: Mapping[str, int]) -> Plan:
        self._db.execute("CREATE TEMP TABLE held (idx INTEGER PRIMARY KEY)")
        self._db.executemany("INSERT INTO held VALUES (?)", ((idx,) for idx in held))
        is_known = self._db.execute("SELECT count(*) FROM batches WHERE run = ?", (name,)).fetchone()[0]
        for statement in _TAKE_OVER.split(";\n"):
            self._db.execute(statement, {"is_known": is_known} if ":is_known" in statement else {})
        images, failed = self._db.execute(
            "SELECT count(*), count(error) FROM numbered JOIN main.rows USING (idx)"
        ).fetchone()
        if images:
            self._db.execute(
                "INSERT OR IGNORE INTO batches VALUES (?, ?, ?, ?, 0)", (name, images, failed, time.time())
            )
        total = self._db.execute("SELECT count(*) FROM main.inputs").fetchone()[0]
        plan = replace(self.plan, total=total, skipped=dict(skipped))
        self._db.execute("UPDATE plan SET json = ?", (plan.to_json(),))
        return plan

    def unfinished(self) -> list[Batch]:
        """Return the batches, the oldest first, whose reports may not be written yet."""
        with _reading(self.path):
            found = self._db.execute("SELECT run, images, failed, at FROM batches WHERE NOT is_done ORDER BY rowid")
            return [Batch(*values) for values in found]

    def finish(self, batch: Batch) -> None:
        """Note that the reports have the rows of ``batch``, and that whoever waits for it was called."""
        with _writing(self.path):
            self._db.execute("UPDATE batches SET is_done = 1 WHERE run = ?", (batch.run,))
