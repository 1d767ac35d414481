"""Text files as the editors and spreadsheets of every system save them: their text, their lines, their tables.

A byte order mark says UTF-8 or UTF-16; a file without one is UTF-8.
"""

from __future__ import annotations

import csv
import io
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from base.text import distinct

SEPARATORS = ",;\t"  # of tables; spreadsheets write semicolons where the comma is the decimal sign


class TextError(ValueError):
    """A file is not a text that can be read; the message names it and says what to do."""


def read_text(path: Path) -> str:
    """Return the text of a file, without its byte order mark; TextError if it is not UTF-8 or UTF-16 with a mark."""
    data = path.read_bytes()
    try:
        return _checked(data.decode(_encoding(data)), str(path))
    except UnicodeDecodeError as error:
        raise _refused(str(path), error) from error


def read_table(path: Path, *, numbered: bool = False) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the header of a CSV file, and line number and cells of each row; empty cells and rows are left out.

    The header, or a line ``sep=;`` before it as Excel reads it, shows whether commas, semicolons or tabs separate.
    Of columns with one name the last one counts, or with ``numbered`` each, by the names that `distinct` gives.
    """
    lines = io.StringIO(read_text(path), newline="")
    first = next(lines, "").rstrip("\r\n")
    named = first.lower().startswith("sep=") and len(first) == 5
    if not named:
        lines.seek(0)
    reader = csv.DictReader(lines, delimiter=first[4] if named else max(SEPARATORS, key=first.count))
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = distinct(names) if numbered else names
        rows = [
            (reader.line_num + named, {key: value.strip() for key, value in row.items() if key and value})
            for row in reader
        ]
    except csv.Error as error:
        raise TextError(f"{path} is not a table that can be read: {error}") from error
    filled = ((number, {key: value for key, value in cells.items() if value}) for number, cells in rows)
    return list(reader.fieldnames), [(number, cells) for number, cells in filled if cells]


def text_lines(file: TextIO, name: str) -> Iterator[str]:
    """Yield the lines of a list of paths, without line ends and empty lines; ``name`` is the file's for people.

    Without a mark, bytes that are not UTF-8 survive as ``os.fsdecode`` gives them.
    """
    if isinstance(file, io.TextIOWrapper):  # most locales would refuse names that are not UTF-8
        start = getattr(file.buffer, "peek", lambda _: b"")(2)
        file.reconfigure(encoding=_encoding(start), errors="surrogateescape")
    try:
        for line in file:
            if path := _checked(line, name).rstrip("\r\n"):
                yield path
    except UnicodeDecodeError as error:
        raise _refused(name, error) from error


def _encoding(start: bytes) -> str:
    return "utf-16" if start.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"


def _checked(text: str, name: str) -> str:
    if "\0" in text:
        raise TextError(f"{name} holds NUL bytes, as UTF-16 and UTF-32 do; save it as UTF-8")
    return text


def _refused(name: str, error: UnicodeDecodeError) -> TextError:
    encoding = "UTF-16" if error.encoding.startswith("utf-16") else "UTF-8"
    return TextError(f"{name} is not valid {encoding}; save it as UTF-8")
