"""report.csv: one row an input, in input order; the same bytes for the same inputs, model and engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from base.text import safe_cell
from producer.reports.layout import CONFIDENCE_DIGITS, DEGREE_DIGITS, Answer, Degrees, Layout, Value
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
    found = run.rows() if rows is None else rows
    line = _labelled_line(shown)
    write_cells(
        run, path, shown, shown.columns, map(shown.values, shown.answers(found)) if line is None else map(line, found)
    )


CSV = table("csv", write_csv)


def _labelled_line(layout: Layout) -> Callable[[StoredRow], str | Iterable[Value]] | None:
    """Return what makes the whole line of a labelled image by one formatting, and the cells of any other.

    A million lines take half the time so. None where options added columns, or their order or decimal sign is another.
    """
    _, separator, decimal, end = DIALECTS[layout.csv_dialect]
    if layout.more or layout.probability_names or layout.places or decimal != ".":
        return None
    names, groups = ([_cell(name or "", separator) for name in known] for known in (layout.names, layout.groups))
    ranks, is_judged, has_outliers = layout.ranks, bool(layout.thresholds), layout.outliers
    number = f"%.{CONFIDENCE_DIGITS}f"
    # The cells of an answer whose parts are places to fill, in the order in which they stand in a line.
    model, ranked = _cell(layout.model, separator).replace("%", "%%"), [("%s", number)] * ranks
    places: Any = ("%s", "ok", ranked, "%s", "%s", number, [], None, "", "%d", "%d", model, [])
    pattern = separator.join(str(cell or "") for cell in layout.values(Answer(*places))) + end

    def line(row: StoredRow) -> str | Iterable[Value]:
        top = row.top
        is_short = len(top) < ranks or (has_outliers and row.outlier is None)
        if is_short or not row.width or not row.height or row.error or row.detail:
            return layout.values(next(layout.answers((row,))))
        best, confidence = top[0]
        others = [part for index, value in top[1:ranks] for part in (names[index], value)]
        path = _cell(row.path, separator)
        judged: list[Value] = [layout.decision(row)] if is_judged else []
        judged += [row.outlier] if has_outliers else []
        return pattern % (path, names[best], confidence, groups[best], *judged, *others, row.width, row.height)

    return line


def write_errors(run: RunFile, path: Path, layout: Layout) -> None:
    """Write the images that have an error row alone."""
    failed = layout.answers(run.rows(failed=True))
    cells = (
        [row.path, *row.more[: layout.pages], row.error, row.detail, row.width or None, row.height or None]
        for row in failed
    )
    write_cells(run, path, layout, [*ERROR_COLUMNS[:1], *(["page"] if layout.pages else []), *ERROR_COLUMNS[1:]], cells)


def write_cells(
    run: RunFile, path: Path, layout: Layout, head: Iterable[str], rows: Iterable[str | Iterable[Value]]
) -> None:
    """Write a table in the layout's dialect: each row as its cells, or as a line that is one already."""
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
            if isinstance(row, str):
                file.write(row)
            else:
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
