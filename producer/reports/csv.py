"""report.csv: one row an input, in input order; the same bytes for the same inputs, model and engine."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from jobs.fault import fault
from producer.run_file import Plan, RunFile, StoredRow

CONFIDENCE_DIGITS = 4  # more would show the noise between engines
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_csv(run: RunFile, path: Path) -> int:
    """Write the report beside ``path`` and rename it there; return its rows. UTF-8, RFC 4180, ``\\n`` line ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with beside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header(run.plan))
            count = 0
            for cells in cells_of(run):
                writer.writerow(cells)
                count += 1
            file.flush()
            os.fsync(file.fileno())
        fault("report written")
        beside.replace(path)
        fault("report renamed")
    finally:
        beside.unlink(missing_ok=True)
    return count


def header(plan: Plan) -> list[str]:
    """Return the column names."""
    more = [name for rank in range(2, ranks(plan) + 1) for name in (f"label_{rank}", f"confidence_{rank}")]
    return [
        "path",
        "status",
        "label",
        "confidence",
        "group",
        *more,
        "error",
        "error_detail",
        "width",
        "height",
        "model",
    ]


def ranks(plan: Plan) -> int:
    """How many labels a row holds."""
    return min(plan.top_k, len(plan.labels))


def cells_of(run: RunFile) -> Iterator[list[str]]:
    """Yield the cells of each row."""
    plan, model = run.plan, str(run.plan.model)
    for row in run.rows():
        yield [safe_cell(row.path), *_answer(plan, row), *_picture(row), model if row.top or row.error else ""]


def safe_cell(text: str) -> str:
    """Return ``text`` so that no spreadsheet runs it as a formula: a ``'`` goes before = + - @ tab and return."""
    return "'" + text if text.startswith(_FORMULA_STARTS) else text


def _answer(plan: Plan, row: StoredRow) -> list[str]:
    width = 2 * ranks(plan) + 2
    if not row.top:
        return ["error" if row.error else "missing", *[""] * (width - 1)]
    cells = [cell for index, value in row.top for cell in (plan.labels[index], f"{value:.{CONFIDENCE_DIGITS}f}")]
    cells = [safe_cell(cell) for cell in cells] + [""] * (width - 2 - len(cells))
    group = plan.groups[row.top[0][0]] or ""
    return ["ok", *cells[:2], safe_cell(group), *cells[2:]]


def _picture(row: StoredRow) -> list[str]:
    return [
        row.error or "",
        safe_cell(row.detail),
        str(row.width) if row.width else "",
        str(row.height) if row.height else "",
    ]
