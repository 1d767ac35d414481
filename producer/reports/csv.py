"""report.csv: one row an input, in input order; the same bytes for the same inputs, model and engine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from base.text import safe_cell
from producer.reports.layout import CONFIDENCE_DIGITS, Answer, Layout
from producer.reports.report import replacing, table
from producer.runfile import RunFile, StoredRow

_SPECIAL = re.compile('^[=+\\-@\t]|[",\r\n]')  # few cells hold one: a single look at the others
_QUOTED = re.compile('[",\r\n]')
ERROR_COLUMNS = ["path", "error", "error_detail", "width", "height"]


def write_csv(run: RunFile, path: Path, layout: Layout | None = None, rows: Iterable[StoredRow] | None = None) -> None:
    """Write the report beside ``path`` and rename it there: UTF-8, RFC 4180, ``\\n`` line ends."""
    shown = layout or Layout.of(run.plan)
    _write(run, path, header(shown), _lines(shown, shown.answers(run.rows() if rows is None else rows)))


CSV = table("csv", write_csv)


def write_errors(run: RunFile, path: Path, layout: Layout) -> None:
    """Write the images that have an error row alone."""
    failed = layout.answers(run.rows(failed=True))
    _write(run, path, ERROR_COLUMNS, (f"{_cell(answer.path)},{_picture(answer)}\n" for answer in failed))


def header(layout: Layout) -> list[str]:
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


def _lines(layout: Layout, answers: Iterable[Answer]) -> Iterator[str]:
    known = {text: _cell(text) for text in {"", layout.model, *layout.names, *filter(None, layout.groups)}}
    one_rank, no_rank = f"%s,%.{CONFIDENCE_DIGITS}f", ","
    for answer in answers:
        ranked = [one_rank % (known[name], value) for name, value in answer.ranked]
        ranked += [no_rank] * (layout.ranks - len(ranked))
        cells = [
            _cell(answer.path),
            answer.status,
            ranked[0],
            known[answer.group or ""],
            *ranked[1:],
            _picture(answer),
            known[answer.model],
        ]
        if layout.duplicates:
            cells.append(_cell(answer.duplicate_of))
        if layout.probability_names:
            cells += [f"{value:.{CONFIDENCE_DIGITS}f}" if answer.ranked else "" for value in answer.probabilities]
        yield ",".join(cells) + "\n"


def _picture(answer: Answer) -> str:
    error = f"{_cell(answer.error or '')},{_cell(answer.detail)}" if answer.error or answer.detail else ","
    return f"{error},{answer.width or ''},{answer.height or ''}"


def _cell(text: str) -> str:
    """Return ``text`` as it stands in a line: safe, and quoted where it must be.

    Python's own writer takes twice the time. It also leaves a bare return unquoted, which a label may hold and readers
    take for the end of the row.
    """
    if _SPECIAL.search(text) is None:
        return text
    safe = safe_cell(text)
    return '"' + safe.replace('"', '""') + '"' if _QUOTED.search(safe) else safe


def _write(run: RunFile, path: Path, head: list[str], lines: Iterable[str]) -> None:
    with replacing(path, run.path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(map(_cell, head)) + "\n")
        file.writelines(lines)
