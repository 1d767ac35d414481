"""The tables of a run file. A file of another version is refused: its run can be labelled again."""

from __future__ import annotations

VERSION = 12  # raise it with every change below, and with every change of Plan or of reports/request.py: Request

# ``inputs``: with the number of the picture in the file, or 0 where the first one is meant.
# ``files``: size and time of each input that could be looked at; ``unchanged``: what this run left out, by absolute
# path. A later run compares with both.
# ``contents`` and ``photos``: of the files that workers could read, in a run that was asked for them.
# ``places``: of a run that deduplicates, where each input stands in the report; ``first`` is the input that a duplicate
# takes its row from, until that one fails.
# ``shadow``: what a second version answered about a part of the images, as a summary, and the label of each.
# ``chunks``: who answered; ``work``: when commands began to work on the run; ``reports``: what was asked for.
TABLES = f"""
PRAGMA user_version = {VERSION};
CREATE TABLE plan (json TEXT NOT NULL);
CREATE TABLE inputs (idx INTEGER PRIMARY KEY, path TEXT NOT NULL, page INTEGER NOT NULL);
CREATE TABLE rows (
    idx INTEGER PRIMARY KEY, top TEXT NOT NULL, error TEXT, detail TEXT NOT NULL, width INTEGER, height INTEGER,
    outlier REAL
);
CREATE TABLE contents (idx INTEGER PRIMARY KEY, bytes INTEGER NOT NULL, sha256 TEXT NOT NULL);
CREATE TABLE photos (
    idx INTEGER PRIMARY KEY, taken TEXT NOT NULL, make TEXT NOT NULL, model TEXT NOT NULL, serial TEXT NOT NULL,
    latitude REAL, longitude REAL
);
CREATE TABLE sent (first INTEGER PRIMARY KEY, images INTEGER NOT NULL);
CREATE TABLE files (idx INTEGER PRIMARY KEY, size INTEGER NOT NULL, modified_ns INTEGER NOT NULL);
CREATE TABLE unchanged (path TEXT PRIMARY KEY, size INTEGER NOT NULL, modified_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE places (place INTEGER PRIMARY KEY, idx INTEGER NOT NULL UNIQUE, first INTEGER);
CREATE INDEX duplicates ON places (first) WHERE first IS NOT NULL;
CREATE TABLE chunks (
    first INTEGER PRIMARY KEY, images INTEGER NOT NULL, worker TEXT NOT NULL, engine TEXT NOT NULL,
    seconds TEXT NOT NULL, early INTEGER NOT NULL, at REAL NOT NULL
);
CREATE TABLE shadow (json TEXT NOT NULL);
CREATE TABLE shadow_answers (idx INTEGER PRIMARY KEY, label TEXT NOT NULL, confidence REAL NOT NULL);
CREATE TABLE work (started REAL NOT NULL);
CREATE TABLE reports (main TEXT PRIMARY KEY, request TEXT NOT NULL);
"""
