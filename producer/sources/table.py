"""A table of labelled images (path, label) as a source: its images, and what they are called in it.

The rows are read as for training: the last row of an image counts, and where a column ``split`` says so, only images
of split test, else of val, are taken: the others were trained on. Paths are relative to the table's folder, or to the
folder that a report beside its summary is of.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from base.paths import as_on_disk, path_to_text, text_to_path
from base.text import plain_cell
from base.text_files import TextError, read_table
from producer.errors import UsageError

TABLES = (".csv", ".tsv")
SIDES = (("test", "testing"), ("val", "valid", "validation"))  # what an evaluation takes of a table with splits


@dataclass(frozen=True, slots=True)
class LabelledTable:
    """The images of a table as they lie on disk from ``base`` on, and the label of each."""

    base: str
    labels: dict[str, str]


def read_labelled_table(table: Path) -> LabelledTable:
    """Return what a table says; UsageError when it is none, or has no labels."""
    try:
        header, rows = read_table(table)
    except (TextError, OSError) as error:
        raise UsageError(f"{table} can't be read as a table: {error}") from error
    if not {"path", "label"} <= set(header):
        raise UsageError(f"{table} has the columns {', '.join(header) or 'none'}; it needs path and label")
    base = base_of(table)
    found: dict[str, tuple[str, str]] = {}
    for number, cells in rows:
        if "path" not in cells:
            raise UsageError(f"{table}, line {number}: it has no path")
        path = as_on_disk(text_to_path(plain_cell(cells["path"])), base)
        found.pop(path, None)
        if label := " ".join(plain_cell(cells.get("label", "")).split()):
            found[path] = label, cells.get("split", "").strip().lower()
    splits = {split for _, split in found.values()}
    side = next((side for side in SIDES if splits.intersection(side)), None)
    labels = {path: label for path, (label, split) in found.items() if side is None or split in side}
    if not labels:
        raise UsageError(f"{table} has no image with a label")
    return LabelledTable(base, labels)


def base_of(table: Path) -> str:
    """Return the folder whose images a report names, by the summary beside it; else its own folder."""
    for name in (f"{table.stem}.summary.json", "summary.json"):
        try:
            base = json.loads(table.with_name(name).read_text(encoding="utf-8")).get("base")
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        if isinstance(base, str) and base.startswith("/"):
            return text_to_path(base)
    return str(table.parent)


def truths_by_path(table: Path) -> dict[str, str]:
    """Return the label of each image of a table by the text of its absolute path."""
    read = read_labelled_table(table)
    return {os.path.normpath(path_to_text(os.path.join(read.base, path))): of for path, of in read.labels.items()}  # noqa: PTH118
