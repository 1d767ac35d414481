"""The rows of a run file: into SQLite a chunk at a time, out of it in batches.

A million of them are read by every report: what is done once a batch, in C, costs a third of what it costs once a row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from itertools import starmap
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from jobs import Row

ROWS_A_BATCH = 1000
# Reasons that lie in what surrounds an image: its row may be another one once that is mended.
CURABLE = ("not_found", "unreadable", "changed", "unreachable", "worker_lost")

_COLUMNS = (
    "inputs.idx, inputs.path, COALESCE(top, '[]'), error, COALESCE(detail, ''), COALESCE(width, 0),"
    " COALESCE(height, 0), outlier"
)

# What a run was asked for about its files, as the last fields of StoredRow have it: how it is found, and its type.
_OF_FILES: dict[str, Any] = {
    "inputs.page": int,
    "COALESCE(contents.bytes, 0)": int,
    "COALESCE(contents.sha256, '')": str,
    "COALESCE(files.modified_ns, 0)": int,
    "COALESCE(taken, '')": str,
    "COALESCE(make, '')": str,
    "COALESCE(model, '')": str,
    "COALESCE(serial, '')": str,
    "latitude": float | None,
    "longitude": float | None,
}
_WITH_FILES = "LEFT JOIN contents USING (idx) LEFT JOIN files USING (idx) LEFT JOIN photos USING (idx)"


class StoredRow(NamedTuple):
    """One input with its row; ``top`` and ``error`` are both empty while it has none."""

    input_index: int
    path: str
    top: list[tuple[int, float]]
    error: str | None
    detail: str
    width: int
    height: int
    outlier: float | None = None
    duplicate_of: str = ""
    page: int = 0
    bytes: int = 0
    sha256: str = ""
    modified_ns: int = 0
    taken: str = ""
    camera_make: str = ""
    camera_model: str = ""
    camera_serial: str = ""
    latitude: float | None = None
    longitude: float | None = None


def insert_rows(
    database: sqlite3.Connection, first: int, rows: Sequence[Row], without: Collection[int]
) -> tuple[int, int]:
    """Store the rows of the inputs from index ``first`` on that have none, and are not among ``without``.

    Returns:
        How many, and how many of them are errors.
    """
    known = database.execute("SELECT idx FROM rows WHERE idx >= ? AND idx < ?", (first, first + len(rows)))
    had = {index for (index,) in known}.union(without)
    new = [(index, row) for index, row in enumerate(rows, start=first) if index not in had]
    database.executemany(
        "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            (index, to_json(row.top).decode(), row.error, row.detail, row.width, row.height, row.outlier)
            for index, row in new
        ),
    )
    database.executemany(
        "INSERT OR REPLACE INTO contents VALUES (?, ?, ?)",
        ((index, row.bytes, row.sha256) for index, row in new if row.sha256 is not None),
    )
    database.executemany(
        "INSERT OR REPLACE INTO photos VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            (index, photo.taken, photo.make, photo.model, photo.serial, photo.latitude, photo.longitude)
            for index, photo in ((index, row.photo) for index, row in new)
            if photo is not None
        ),
    )
    return len(new), sum(row.error is not None for _, row in new)


def delete_curable(database: sqlite3.Connection) -> int:
    """Delete the rows whose reason is one of ``CURABLE``; return how many there were."""
    marks = ",".join("?" * len(CURABLE))
    return database.execute(f"DELETE FROM rows WHERE error IN ({marks})", CURABLE).rowcount  # noqa: S608


def stored_rows(
    database: sqlite3.Connection, *, labels: int, places: bool, failed: bool, of_files: bool
) -> Iterator[StoredRow]:
    """Yield every input in the order of the report, with its row; or only those that failed.

    Args:
        labels: of the model; a row with another class index is damaged.
        places: whether duplicates were looked for, so that the order stands in the table of this name.
        of_files: whether the last fields of each row are wanted, on its file.

    Raises:
        TypeError, ValueError: the file is damaged.
    """
    more, with_files = _more(of_files)
    joined = f"{'' if failed else 'LEFT '}JOIN rows USING (idx) {with_files}"
    found = database.execute(
        f"SELECT {_COLUMNS}, COALESCE(originals.path, ''){more} FROM places JOIN inputs USING (idx) {joined}"  # noqa: S608
        " LEFT JOIN inputs AS originals ON originals.idx = places.first WHERE NOT ? OR error IS NOT NULL ORDER BY place"
        if places
        else f"SELECT {_COLUMNS}, ''{more} FROM inputs {joined} WHERE NOT ? OR error IS NOT NULL ORDER BY inputs.idx",  # noqa: S608
        (failed,),
    )
    while batch := found.fetchmany(ROWS_A_BATCH):
        yield from _decoded(batch, labels)


def next_rows(database: sqlite3.Connection, at: int, *, labels: int, of_files: bool) -> list[StoredRow]:
    """Return the inputs from index ``at`` on that have their row, up to the first that has none; a batch at most.

    Raises:
        TypeError, ValueError: the file is damaged.
    """
    more, with_files = _more(of_files)
    found = database.execute(
        f"SELECT {_COLUMNS}, ''{more} FROM inputs JOIN rows USING (idx) {with_files}"  # noqa: S608
        " WHERE inputs.idx >= ? ORDER BY inputs.idx LIMIT ?",
        (at, ROWS_A_BATCH),
    ).fetchall()
    batch = [row for place, row in enumerate(found, start=at) if row[0] == place]
    return list(_decoded(batch, labels)) if batch else []


def _more(of_files: bool) -> tuple[str, str]:
    return ("".join(f", {column}" for column in _OF_FILES), _WITH_FILES) if of_files else ("", "")


def _decoded(batch: Sequence[tuple[Any, ...]], labels: int) -> Iterator[StoredRow]:
    indexes, paths, tops, errors, details, widths, heights, outliers, firsts, *more = zip(*batch, strict=True)
    _check(str, paths, tops, details, firsts)
    _check(str | None, errors)
    _check(int, widths, heights)
    _check(float | None, outliers)
    for column, kind in zip(more, _OF_FILES.values(), strict=False):
        _check(kind, column)
    try:
        decoded = _pairs(labels).validate_json(f"[{','.join(tops)}]", strict=True)
    except ValidationError as error:
        raise ValueError(f"a row of inputs {indexes[0]} to {indexes[-1]} has no possible labels") from error
    columns = (indexes, paths, decoded, errors, details, widths, heights, outliers, firsts, *more)
    return starmap(StoredRow, zip(*columns, strict=True))


@lru_cache(maxsize=1)
def _pairs(labels: int) -> TypeAdapter[list[list[tuple[int, float]]]]:
    return TypeAdapter(list[list[tuple[Annotated[int, Field(ge=0, lt=labels)], Annotated[float, Field(ge=0, le=1)]]]])


def _check(kind: Any, *columns: tuple[object, ...]) -> None:
    for column in columns:
        for found in {*map(type, column)}:
            if not issubclass(found, kind):
                raise TypeError(f"it has cells of type {found.__name__} where none can be")
