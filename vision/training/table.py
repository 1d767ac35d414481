"""A table of labelled images instead of folders: a CSV with ``path`` and ``label``, of a spreadsheet or of Sortline.

``path`` is relative to the table's folder, or absolute; ``split`` (train, val, test) and ``group``, images that belong
together and are never parted, may stand beside it. A later row of an image takes the place of an earlier one. A report
of ``sortline label`` is such a table: its paths are those of the labelled folder, which its ``.summary.json`` names.
So are the corrections of ``sortline review``: a ``verdict`` may take an image out, ``sha256`` says which bytes it has.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from functools import cache, partial
from pathlib import Path
from typing import Final

from base.paths import as_on_disk, text_to_path
from base.text import plain_cell
from base.text_files import TextError, read_table
from vision.training.dataset import (
    SPLIT_FOLDERS,
    TRAIN_FOLDERS,
    VALIDATION_FOLDERS,
    ClassInfo,
    Dataset,
    DatasetError,
    LabelledImage,
)

MAX_LABEL: Final = 500  # characters, as a manifest takes them
NAMED: Final = 3  # files that are named in a message
TAKEN_BACK: Final = ("reject", "skip", "open")  # verdicts of rows without a label


def read_table_dataset(table: Path, data_root: Path, *, is_alone: bool = True) -> Dataset:
    """Return the classes and images of a table, classes in the order of their labels. No image is opened.

    Args:
        is_alone: whether nothing else is trained on. What comes to another dataset needs no two labels, and its images
            may be gone.

    Raises:
        DatasetError: it is no such table, has fewer than two classes, none of its images is there, or one lies outside
            ``data_root``; the line is named.
    """
    try:
        header, rows = read_table(table)
    except TextError as error:
        raise DatasetError(str(error)) from error
    except OSError as error:
        raise DatasetError(f"{table} can't be read: {error}") from error
    if not {"path", "label"} <= set(header):
        raise DatasetError(f"{table} has the columns {', '.join(header) or 'none'}; it needs path and label")
    bases = [table.parent, *_labelled_folder(table)]
    find = cache(partial(_find, bases=bases))
    limit, real_folder = os.path.realpath(data_root), cache(os.path.realpath)

    def is_below(path: str) -> bool:
        return os.path.commonpath([limit, path]) == limit

    chosen: dict[Path, tuple[str, str, str]] = {}  # label, split, group
    expected: dict[Path, str] = {}
    rejected: dict[Path, str] = {}
    counts: Counter[str] = Counter()
    for number, cells in rows:
        where = f"{table}, line {number}"
        label = " ".join(plain_cell(cells.get("label", "")).split())
        if (verdict := cells.get("verdict", "")) in TAKEN_BACK and "path" in cells:
            path = find(cells["path"])
            chosen.pop(path, None)
            rejected.pop(path, None)
            if verdict == "reject":
                rejected[path] = cells.get("sha256", "")
            continue
        if not label:
            counts["rows without a label"] += 1
            continue
        if "path" not in cells or len(label) > MAX_LABEL:
            raise DatasetError(f"{where}: it needs a path, and a label of at most {MAX_LABEL} characters")
        split = _side(cells.get("split", ""), where)
        path = find(cells["path"])
        earlier = chosen.pop(path, None)
        if earlier is None and not is_below(os.path.realpath(path) if path.is_symlink() else real_folder(path.parent)):
            raise DatasetError(f"{where}: {cells['path']} lies outside the data root {data_root}")
        if earlier is not None:
            counts["images with another label in a later row" if earlier[0] != label else "repeated rows"] += 1
        chosen[path] = (label, split, cells.get("group", ""))
        rejected.pop(path, None)
        if "sha256" in cells:
            expected[path] = cells["sha256"].lower()
    counts["images of split test"] = sum(split == "test" for _, split, _ in chosen.values())
    used = {path: row for path, row in chosen.items() if row[1] != "test"}
    labels = sorted({label for label, split, _ in used.values() if split == "train" or not is_alone})
    if is_alone:
        _check_there(table, list(used))
        if len(labels) < 2:
            raise DatasetError(f"{table} has {len(labels)} labels to train on; a classifier needs two")
    if unknown := sorted({label for label, split, _ in used.values() if split == "val"} - set(labels)):
        raise DatasetError(f"{table}: only rows of split val have the label {unknown[0]!r}; add some to train on")
    index = {label: number for number, label in enumerate(labels)}

    def side(name: str) -> tuple[LabelledImage, ...]:
        images = [LabelledImage(path, index[label]) for path, (label, split, _) in used.items() if split == name]
        return tuple(sorted(images, key=lambda image: (image.class_index, image.path)))

    return Dataset(
        root=Path(os.path.commonpath([table.parent, *used])),
        classes=tuple(ClassInfo(folder=label, label=label, names={}) for label in labels),
        train=side("train"),
        validation=side("val") or None,
        families={path: group for path, (_, _, group) in used.items() if group},
        notes=tuple(f"{table.name}: {what} {count:,}, passed over" for what, count in counts.items() if count),
        expected=expected,
        rejected=rejected,
    )


def _labelled_folder(table: Path) -> list[Path]:
    """Return the folder whose images a report names, where ``table`` is a report: alone, or in a folder of reports."""
    for summary in (table.with_name(f"{table.stem}.summary.json"), table.with_name("summary.json")):
        try:
            base = json.loads(summary.read_text(encoding="utf-8")).get("base")
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        if isinstance(base, str) and base.startswith("/"):
            return [Path(base)]
    return []


def _side(text: str, where: str) -> str:
    name = text.strip().lower()
    if name in ("", *TRAIN_FOLDERS):
        return "train"
    if name in VALIDATION_FOLDERS:
        return "val"
    if name in SPLIT_FOLDERS:
        return "test"
    raise DatasetError(f"{where}: the split {text!r} is unknown; use train, val or test")


def _find(text: str, bases: list[Path]) -> Path:
    """Return the path that a cell means: as written, or as reports write names that are no text."""
    names = dict.fromkeys((text, text_to_path(text), plain_cell(text), text_to_path(plain_cell(text))))
    found = (base / as_on_disk(name, str(base)) for base in bases for name in names)
    there = (path for path in found if os.path.lexists(path))
    return Path(os.path.normpath(next(there, bases[0] / text)))


def _check_there(table: Path, paths: list[Path]) -> None:
    missing = [path for path in paths if not path.exists()]
    if missing and len(missing) == len(paths):
        named = ", ".join(str(path) for path in missing[:NAMED])
        raise DatasetError(f"none of the {len(paths):,} images of {table} is there, such as {named}; paths are "
            "relative to the table's folder")  # fmt: skip
