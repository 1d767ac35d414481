"""Rows of earlier runs that still stand, taken over into a new run file: of files that are as they were then.

Files are known by absolute path, size and time of the last change; rows with an error are not taken over. Where several
runs of a chain have a row, that of the newest counts.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from base.paths import path_to_text

# An input here and there, by what its file was like.
# CROSS: each row there is looked up here, by the index.
_PAIRS = """
INSERT OR IGNORE INTO pairs SELECT here.idx, inputs.idx FROM earlier.rows JOIN earlier.inputs USING (idx)
    JOIN earlier.files USING (idx) CROSS JOIN wanted AS here ON here.path = whole(:base, inputs.path)
    AND here.page = inputs.page AND here.size = files.size AND here.modified_ns = files.modified_ns
    WHERE error IS NULL
"""
_TAKE_OVER = (
    "INSERT INTO main.rows SELECT pairs.idx, top, NULL, '', width, height, outlier FROM pairs"
    " JOIN earlier.rows ON earlier.rows.idx = old",
    "INSERT INTO main.contents SELECT pairs.idx, bytes, sha256 FROM pairs"
    " JOIN earlier.contents ON earlier.contents.idx = old",
    "INSERT INTO main.photos SELECT pairs.idx, taken, make, model, serial, latitude, longitude FROM pairs"
    " JOIN earlier.photos ON earlier.photos.idx = old",
    "DELETE FROM wanted WHERE idx IN (SELECT idx FROM pairs)",
    "DELETE FROM pairs",
)


def take_over(database: sqlite3.Connection, base: str, runs: Sequence[tuple[Path, str]]) -> None:
    """Give the inputs of a new run file the rows that earlier runs have for them.

    Args:
        base: absolute folder that relative paths start from.
        runs: run file and base of each, the newest first.
    """
    database.create_function("whole", 2, lambda base, path: os.path.join(base, path), deterministic=True)  # noqa: PTH118
    database.execute(
        "CREATE TEMP TABLE wanted (idx INTEGER PRIMARY KEY, path TEXT, page INTEGER, size INTEGER, modified_ns INTEGER)"
    )
    database.execute(
        "INSERT INTO wanted SELECT idx, whole(?, path), page, size, modified_ns FROM main.inputs"
        " JOIN main.files USING (idx)",
        (path_to_text(base),),
    )
    database.execute("CREATE INDEX temp.by_path ON wanted (path, page)")
    database.execute("CREATE TEMP TABLE pairs (idx INTEGER PRIMARY KEY, old INTEGER)")
    for path, its_base in runs:
        database.execute("ATTACH DATABASE ? AS earlier", (str(path),))
        database.execute("BEGIN")
        database.execute(_PAIRS, {"base": path_to_text(its_base)})
        for statement in _TAKE_OVER:
            database.execute(statement)
        database.execute("COMMIT")
        database.execute("DETACH DATABASE earlier")
