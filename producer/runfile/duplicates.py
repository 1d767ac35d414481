"""Byte-identical images of a run: found before anything is sent, labelled once, named by ``duplicate_of``.

The producer finds them, not the workers: what a report says then depends on the files alone, never on which worker saw
which of them in what order. Only files whose size another file has are read, first their beginnings. The run file holds
the images to label first and the duplicates behind them; ``places`` says where each stands in the report.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from itertools import islice

from base.paths import text_to_path

HEAD_BYTES = 64 * 1024  # photos of one size differ early: in their EXIF, or in their first pixels
PIECE_BYTES = 1 << 20
HASHED_AT_ONCE = 512
THREADS = 4


def order_duplicates(database: sqlite3.Connection, base: str) -> None:
    """Put the duplicates among the inputs of a new run file behind the others, and fill ``places``.

    Args:
        base: absolute folder that relative paths start from.
    """
    database.execute("CREATE TEMP TABLE suspects (idx INTEGER PRIMARY KEY, size INTEGER, head BLOB, whole BLOB)")
    database.execute(
        "INSERT INTO suspects (idx, size) SELECT idx, size FROM files WHERE size > 0 AND size IN"
        " (SELECT size FROM files GROUP BY size HAVING count(*) > 1)"
    )
    with ThreadPoolExecutor(THREADS, thread_name_prefix="hash") as pool:
        _hash(database, pool, base, "head", HEAD_BYTES, "SELECT idx FROM suspects WHERE head IS NULL AND idx > ?")
        database.execute("CREATE INDEX temp.heads ON suspects (size, head)")
        database.execute("UPDATE suspects SET whole = head WHERE size <= ?", (HEAD_BYTES,))
        alike = (
            "SELECT idx FROM suspects AS one WHERE whole IS NULL AND head IS NOT NULL AND idx > ? AND EXISTS"
            " (SELECT 1 FROM suspects AS other WHERE (other.size, other.head) = (one.size, one.head)"
            " AND other.idx <> one.idx)"
        )
        _hash(database, pool, base, "whole", None, alike)
    # Ranks, then the same again with the numbers of the new order.
    database.execute(
        "CREATE TEMP TABLE firsts AS SELECT idx, first FROM (SELECT idx, min(idx) OVER (PARTITION BY size, whole) AS"
        " first FROM suspects WHERE whole IS NOT NULL) WHERE first <> idx ORDER BY idx"
    )
    database.execute("CREATE UNIQUE INDEX temp.by_idx ON firsts (idx)")
    database.execute(
        "CREATE TEMP TABLE moved AS SELECT idx AS place, first, row_number() OVER (ORDER BY first IS NOT NULL, idx) - 1"
        " AS idx FROM inputs LEFT JOIN firsts USING (idx) ORDER BY place"
    )
    database.execute("CREATE UNIQUE INDEX temp.by_place ON moved (place)")
    database.execute(
        "INSERT INTO places SELECT moved.place, moved.idx, originals.idx FROM moved"
        " LEFT JOIN moved AS originals ON originals.place = moved.first ORDER BY moved.place"
    )
    for table in ("inputs", "files"):
        column = "path, page" if table == "inputs" else "size, modified_ns"
        database.execute(
            f"CREATE TEMP TABLE old AS SELECT moved.idx, {column} FROM {table} JOIN moved ON place = {table}.idx"  # noqa: S608
        )
        database.execute(f"DELETE FROM {table}")  # noqa: S608
        database.execute(f"INSERT INTO {table} SELECT * FROM old ORDER BY idx")  # noqa: S608
        database.execute("DROP TABLE old")


def fill_duplicates(database: sqlite3.Connection, first: int, images: int) -> int:
    """Give the duplicates of inputs that have just got a label the same row; return how many got one.

    Duplicates of an input that failed become inputs like any other: their own try may end better, or name their path.
    """
    among = (first, first + images)
    filled = database.execute(
        "INSERT OR IGNORE INTO rows SELECT places.idx, top, NULL, '', width, height, outlier FROM places"
        " JOIN rows ON rows.idx = places.first WHERE first >= ? AND first < ? AND error IS NULL",
        among,
    ).rowcount
    database.execute(
        "INSERT OR IGNORE INTO contents SELECT places.idx, bytes, sha256 FROM places"
        " JOIN contents ON contents.idx = places.first WHERE first >= ? AND first < ?",
        among,
    )
    database.execute(
        "INSERT OR IGNORE INTO photos SELECT places.idx, taken, make, model, serial, latitude, longitude FROM places"
        " JOIN photos ON photos.idx = places.first WHERE first >= ? AND first < ?",
        among,
    )
    database.execute(
        "UPDATE places SET first = NULL WHERE first >= ? AND first < ?"
        " AND EXISTS (SELECT 1 FROM rows WHERE rows.idx = places.first AND error IS NOT NULL)",
        among,
    )
    return filled


def _hash(
    database: sqlite3.Connection, pool: ThreadPoolExecutor, base: str, column: str, limit: int | None, which: str
) -> None:
    """Fill ``column`` of the suspects that ``which`` selects, in order; what can't be read stays without."""
    at = -1
    while indexes := [idx for (idx,) in islice(database.execute(f"{which} ORDER BY idx", (at,)), HASHED_AT_ONCE)]:
        at = indexes[-1]
        marks = ",".join("?" * len(indexes))
        found = database.execute(f"SELECT path FROM inputs WHERE idx IN ({marks}) ORDER BY idx", indexes)  # noqa: S608
        files = [os.path.join(base, text_to_path(path)) for (path,) in found]  # noqa: PTH118
        digests: Iterator[bytes | None] = pool.map(partial(digest_of_file, limit=limit), files)
        database.executemany(
            f"UPDATE suspects SET {column} = ? WHERE idx = ?",  # noqa: S608
            list(zip(digests, indexes, strict=True)),
        )


def digest_of_file(path: str, limit: int | None = None) -> bytes | None:
    """Return the sha256 of a file, or of its first ``limit`` bytes; None when it can't be read."""
    try:
        # Not blocking: it may have become a pipe since it was looked at.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:  # noqa: PTH123
            if limit is not None:
                return sha256(file.read(limit) or b"").digest()
            found = sha256()
            while piece := file.read(PIECE_BYTES):
                found.update(piece)
            return found.digest()
    except (OSError, ValueError):
        return None
