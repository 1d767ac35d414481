"""report.xlsx: the columns of report.csv as a sheet; the same bytes for the same answers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from base.install import pip_install
from base.text import printable
from producer.errors import UsageError
from producer.reports.layout import Degrees, Layout
from producer.reports.report import replacing, table
from producer.runfile import RunFile, StoredRow

MOST_ROWS = 1_048_575  # of a sheet, below the header
MOST_CHARACTERS = 32_767  # of a cell
CREATED = datetime(2000, 1, 1)  # noqa: DTZ001 - of no run: the same answers give the same bytes
_NO_XML = {0xFFFE: "\ufffd", 0xFFFF: "\ufffd"}


def check_xlsxwriter() -> None:
    """Raise UsageError where XlsxWriter is missing."""
    try:
        import xlsxwriter  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--format xlsx needs XlsxWriter ({error}); install it with: {pip_install('sortline[xlsx]')}"
        ) from error


def write_xlsx(run: RunFile, path: Path, layout: Layout, rows: Iterable[StoredRow] | None = None) -> None:
    check_xlsxwriter()
    from xlsxwriter import Workbook
    from xlsxwriter.exceptions import FileCreateError

    with replacing(path, run.path) as beside:
        book = Workbook(str(beside), {"constant_memory": True})  # rows go to the disk one by one
        book.set_properties({"created": CREATED, "comments": f"{layout.model} {run.plan.model.digest}"})
        sheet, degrees = book.add_worksheet("report"), book.add_format({"num_format": "0.000000"})
        number = book.add_format({"num_format": "0.0000"})
        sheet.freeze_panes(1, 0)
        for column, name in enumerate(layout.columns):
            sheet.write_string(0, column, _text(name))
        answers = layout.answers(run.rows() if rows is None else rows)
        for place, cells in enumerate(map(layout.values, answers), start=1):
            for column, cell in enumerate(cells):
                if isinstance(cell, str):
                    sheet.write_string(place, column, _text(cell))  # never as a formula or link
                elif cell is not None:
                    shown = degrees if isinstance(cell, Degrees) else number if isinstance(cell, float) else None
                    sheet.write_number(place, column, cell, shown)
        try:
            book.close()
        except FileCreateError as error:  # of whatever the system refused
            raise OSError(str(error)) from error


XLSX = table("xlsx", write_xlsx, check_xlsxwriter, most_rows=MOST_ROWS)


def _text(text: str) -> str:
    return printable(text).translate(_NO_XML)[:MOST_CHARACTERS]
