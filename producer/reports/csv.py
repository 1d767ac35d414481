"""report.csv: one row an input, in input order; the same bytes for the same inputs, model and engine."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from producer.reports.files import replacing
from producer.reports.layout import CONFIDENCE_DIGITS, Answer, Layout
from producer.run_file import RunFile

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
ERROR_COLUMNS = ["path", "error", "error_detail", "width", "height"]


def write_csv(run: RunFile, path: Path, layout: Layout | None = None) -> int:
    """Write the report beside ``path`` and rename it there; return its rows. UTF-8, RFC 4180, ``\\n`` line ends."""
    shown = layout or Layout.of(run.plan)
    return _write(run, path, header(shown), (cells_of(shown, answer) for answer in shown.answers(run)))


def write_errors(run: RunFile, path: Path, layout: Layout) -> int:
    """Write the images that have an error row alone, and return how many there are."""
    failed = layout.answers(run, failed=True)
    return _write(run, path, ERROR_COLUMNS, ([safe_cell(answer.path), *_picture(answer)] for answer in failed))


def header(layout: Layout) -> list[str]:
    """Return the column names."""
    more = [name for rank in range(2, layout.ranks + 1) for name in (f"label_{rank}", f"confidence_{rank}")]
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
        *(["duplicate_of"] if layout.duplicates else []),
        *(f"p:{name}" for name in layout.probability_names),
    ]


def cells_of(layout: Layout, answer: Answer) -> list[str]:
    """Return the cells of one row."""
    cells = [cell for name, value in answer.ranked for cell in (safe_cell(name), _digits(value))]
    cells += [""] * (2 * layout.ranks - len(cells))
    probabilities = [_digits(value) if answer.ranked else "" for value in answer.probabilities]
    return [
        safe_cell(answer.path),
        answer.status,
        *cells[:2],
        safe_cell(answer.group or ""),
        *cells[2:],
        *_picture(answer),
        answer.model,
        *([safe_cell(answer.duplicate_of)] if layout.duplicates else []),
        *probabilities,
    ]


def safe_cell(text: str) -> str:
    """Return ``text`` so that no spreadsheet runs it as a formula: a ``'`` goes before = + - @ tab and return."""
    return "'" + text if text.startswith(_FORMULA_STARTS) else text


def _picture(answer: Answer) -> list[str]:
    return [
        answer.error or "",
        safe_cell(answer.detail),
        str(answer.width) if answer.width else "",
        str(answer.height) if answer.height else "",
    ]


def _digits(value: float) -> str:
    return f"{value:.{CONFIDENCE_DIGITS}f}"


def _write(run: RunFile, path: Path, head: list[str], rows: Iterator[list[str]]) -> int:
    count = 0
    with replacing(path, run.path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        # The writer quotes what holds a character of its line end. With "\n" alone a bare return, which a label may
        # hold, would stand unquoted, and readers would take it for the end of the row.
        writer = csv.writer(_UnixLines(file), lineterminator="\r\n")
        writer.writerow(head)
        for cells in rows:
            writer.writerow(cells)
            count += 1
    return count


@dataclass(slots=True)
class _UnixLines:
    """A file for ``csv.writer`` whose rows end with ``\\n`` instead of ``\\r\\n``."""

    file: TextIO

    def write(self, line: str) -> None:
        self.file.write(line[:-2] + "\n")
