"""The list of jobs as text: a table where one fits, two or three lines a job where none does, tabs for a pipe."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from base.text import duration, printable
from jobs import JobState
from producer.terminal.report import shortened

COLUMNS = ("job", "what", "state", "message", "model", "age")
GAP = "  "


def job_lines(jobs: Sequence[JobState], width: int | None, now: float) -> list[str]:
    """Return the lines of ``jobs``, each at most ``width`` columns wide but for a job's own name.

    Args:
        width: of the terminal; None for a pipe, which gets one line a job with tabs between the columns.
        now: seconds since 1970.
    """
    cells = [_cells(job, now) for job in jobs]
    rows = [COLUMNS, *cells]
    if width is None:
        return ["\t".join(row) for row in rows]
    table = aligned(rows)
    if max(map(cell_len, table)) <= width:
        return table
    return [line for row in cells for line in _block(row, width)]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each row, with every column as wide as its widest cell."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [
        GAP.join(set_cell_size(cell, size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _cells(job: JobState, now: float) -> tuple[str, ...]:
    age = duration(max(0, round(now - job.created)))
    return tuple(printable(text) for text in (job.job, job.title, job.state, job.text, job.model, age))


def _block(row: Sequence[str], width: int) -> list[str]:
    job, what, state, message, model, age = row
    head = f"{job}{GAP}{state}, {age} old"
    # A name is there to be copied: it stays whole, and what doesn't fit beside it goes below.
    lines = [head] if cell_len(head) <= width else [job, f"{GAP}{state}, {age} old"]
    what = f"{what}; {model}" if model else what
    return [*lines, *(shortened(f"{GAP}{line}", width) for line in (what, message) if line)]
