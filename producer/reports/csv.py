"""report.csv: one row an input, in input order; the same bytes for the same inputs, model and engine."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from base.text import safe_cell
from producer.reports.layout import CONFIDENCE_DIGITS, DEGREE_DIGITS, Degrees, Layout, Value
from producer.reports.report import replacing, table
from producer.runfile import RunFile, StoredRow

_SPECIAL = re.compile('^[=+\\-@\t]|[",;\r\n]')  # few cells hold one: a single look at the others
ERROR_COLUMNS = ["path", "error", "error_detail", "width", "height"]


class Dialect(NamedTuple):
    """How a CSV is written: byte order mark, separator, decimal sign, end of a line."""

    mark: str
    separator: str
    decimal: str
    end: str


# Excel takes a CSV without a mark for Windows-1252, and where the comma is the decimal sign it separates by semicolons.
DIALECTS = {
    None: Dialect("", ",", ".", "\n"),
    "excel": Dialect("\ufeff", ",", ".", "\r\n"),
    "excel-semicolon": Dialect("\ufeff", ";", ",", "\r\n"),
}


def write_csv(run: RunFile, path: Path, layout: Layout | None = None, rows: Iterable[StoredRow] | None = None) -> None:
    """Write the report beside ``path`` and rename it there: UTF-8, RFC 4180, ``\\n`` line ends or as Excel wants it."""
    shown = layout or Layout.of(run.plan)
    answers = shown.answers(run.rows() if rows is None else rows)
    _write(run, path, shown, shown.columns, map(shown.values, answers))


CSV = table("csv", write_csv)


def write_errors(run: RunFile, path: Path, layout: Layout) -> None:
    """Write the images that have an error row alone."""
    failed = layout.answers(run.rows(failed=True))
    cells = (
        [row.path, *row.more[: layout.pages], row.error, row.detail, row.width or None, row.height or None]
        for row in failed
    )
    _write(run, path, layout, [*ERROR_COLUMNS[:1], *(["page"] if layout.pages else []), *ERROR_COLUMNS[1:]], cells)


def _write(run: RunFile, path: Path, layout: Layout, head: Iterable[str], rows: Iterable[Iterable[Value]]) -> None:
    mark, separator, decimal, end = DIALECTS[layout.csv_dialect]
    names = {"ok", "error", "missing", layout.model, *layout.names, *filter(None, layout.groups)}
    known: dict[Value, str] = {None: "", **{name: _cell(name, separator) for name in names}}
    number, degrees = f"%.{CONFIDENCE_DIGITS}f", f"%.{DEGREE_DIGITS}f"

    def shown(value: Value) -> str:
        if isinstance(value, float):
            return ((degrees if isinstance(value, Degrees) else number) % value).replace(".", decimal)
        return _cell(value, separator) if isinstance(value, str) else str(value)

    with replacing(path, run.path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        file.write(mark + separator.join(_cell(name, separator) for name in head) + end)
        for row in rows:
            file.write(separator.join([known[cell] if cell in known else shown(cell) for cell in row]) + end)


def _cell(text: str, separator: str = ",") -> str:
    """Return ``text`` as it stands in a line: safe, and quoted where it must be.

    Python's own writer takes twice the time. It also leaves a bare return unquoted, which a label may hold and readers
    take for the end of the row.
    """
    if _SPECIAL.search(text) is None:
        return text
    safe = safe_cell(text)
    return '"' + safe.replace('"', '""') + '"' if any(sign in safe for sign in (separator, '"', "\r", "\n")) else safe
