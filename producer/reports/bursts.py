"""Bursts: photos of one camera in one folder, each taken within a gap after the one before; and what they vote for.

Kept on disk, so that a million photos leave memory flat.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from itertools import islice
from typing import NamedTuple

from producer.errors import UsageError
from producer.runfile import RunFile, StoredRow

_GAP = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*(s|m|min|h)?")
_UNITS_S = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600}
_AT_ONCE = 1000

# Bursts are numbered by their first photo in the report; places are numbers of rows in it.
_TABLE = "CREATE TABLE photos (place INTEGER PRIMARY KEY, idx, folder, camera, at, label, confidence)"
_BURSTS = """
CREATE TABLE parts AS SELECT place, idx, label, confidence,
    sum(begins) OVER (ORDER BY folder, camera, at, place) AS part FROM (SELECT *,
    coalesce(at - lag(at) OVER (PARTITION BY folder, camera ORDER BY at, place) > :gap_s, 1) AS begins
    FROM photos);
CREATE TABLE numbers AS SELECT part, row_number() OVER (ORDER BY min(place)) AS number, count(label) AS labelled
    FROM parts GROUP BY part;
CREATE UNIQUE INDEX by_part ON numbers (part);
CREATE TABLE votes AS SELECT part, label, votes, row_number() OVER
    (PARTITION BY part ORDER BY votes DESC, sure DESC, label) AS rank FROM
    (SELECT part, label, count(*) AS votes, sum(confidence) AS sure FROM parts WHERE label IS NOT NULL
    GROUP BY part, label);
CREATE UNIQUE INDEX by_rank ON votes (part, rank);
CREATE TABLE bursts AS SELECT idx, number, votes.label, CAST(votes AS REAL) / labelled AS share FROM parts
    JOIN numbers USING (part) LEFT JOIN votes ON votes.part = parts.part AND rank = 1;
CREATE UNIQUE INDEX by_idx ON bursts (idx)
"""


class Burst(NamedTuple):
    """A photo's burst: its number, the label that most of its labelled photos have, and their share of them."""

    number: int | None = None
    label: str | None = None
    share: float | None = None


NO_BURST = Burst()


class Bursts:
    """The bursts of one run's photos. Photos without a time are in none."""

    def __init__(self, run: RunFile, gap_s: float) -> None:
        self._run = run
        self._gap_s = gap_s
        self._names: Sequence[str] | None = None
        self._db = sqlite3.connect("", check_same_thread=False)  # SQLite deletes the file of a database without a name

    def find(self, names: Sequence[str]) -> None:
        """Find them among the rows that the run has now; votes count ``names``, by class index."""
        if self._names == names:
            return
        for name in ("photos", "parts", "numbers", "votes", "bursts"):
            self._db.execute(f"DROP TABLE IF EXISTS {name}")
        self._db.execute(_TABLE)
        photos, self._names = _photos(self._run.rows(), names), names
        while batch := list(islice(photos, _AT_ONCE)):
            self._db.executemany("INSERT INTO photos VALUES (?, ?, ?, ?, ?, ?, ?)", batch)
        for statement in _BURSTS.split(";"):
            self._db.execute(statement, {"gap_s": self._gap_s} if ":gap_s" in statement else {})

    def of(self, index: int) -> Burst:
        """Return the burst of the photo with this input index."""
        row = self._db.execute("SELECT number, label, share FROM bursts WHERE idx = ?", (index,)).fetchone()
        return Burst(*row) if row else NO_BURST


def _photos(rows: Iterable[StoredRow], names: Sequence[str]) -> Iterator[tuple[object, ...]]:
    for place, row in enumerate(rows):
        if (at := _seconds(row.taken)) is not None:
            best = (names[row.top[0][0]], row.top[0][1]) if row.top else (None, None)
            camera = f"{row.camera_make}\0{row.camera_model}\0{row.camera_serial}"
            yield place, row.input_index, row.path.rpartition("/")[0], camera, at, *best


def _seconds(taken: str) -> float | None:
    """Return a time as a number: of UTC where its zone is known, else as the camera's clock showed it."""
    try:
        moment = datetime.fromisoformat(taken)
    except ValueError:  # none, or one that a worker made up
        return None
    zoned = moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
    return (zoned - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds()


def gap_of(text: str) -> float:
    """Return the seconds that ``text`` means: 60s, 2m, 0.5, 1h."""
    found = _GAP.fullmatch(text.strip().lower())
    if found is None:
        raise UsageError(f"--bursts {text}: say the longest gap between two photos, as in 60s or 2m")
    return float(found[1]) * _UNITS_S[found[2]]
