"""Lists of labels as people keep them: a line each, a table, or JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from base.text import distinct
from base.text_files import TextError, read_table, read_text

IMAGENET: Final = "imagenet"  # the list that ships: the 1,000 classes of ILSVRC 2012 in their usual order


def read_labels(source: str | Path) -> list[str]:
    """Return the labels of a file in the order of the network's outputs, each of them once.

    ``source`` is "imagenet", a text with a label a line, a CSV with a column ``label`` (and ``index``, where its lines
    are in another order), or JSON: a list, or names by number. What stands there twice is numbered: ImageNet calls two
    kinds of crane "crane", and a label must mean one class.

    Raises:
        TextError: the file holds no labels.
        OSError: it can't be read.
    """
    if source == IMAGENET:
        return distinct(read_text(Path(__file__).with_name("imagenet.txt")).splitlines())
    path = Path(source)
    if path.suffix.lower() == ".json":
        return distinct(_from_json(path))
    if path.suffix.lower() == ".csv":
        return distinct(_from_table(path))
    return distinct([stripped for line in read_text(path).splitlines() if (stripped := line.strip())])


def _from_json(path: Path) -> list[str]:
    try:
        found = json.loads(read_text(path))
        if isinstance(found, dict):
            found = [found[str(number)] for number in range(len(found))]
        if not isinstance(found, list) or not all(isinstance(label, str) for label in found):
            raise ValueError("neither a list of texts nor an object of texts numbered from 0")
    except (ValueError, KeyError, RecursionError) as error:
        raise TextError(f"{path} holds no labels: {error}") from error
    return found


def _from_table(path: Path) -> list[str]:
    header, rows = read_table(path)
    if "label" not in header:
        raise TextError(f"{path} has no column label; it has {', '.join(header)}")
    labels = [cells.get("label", "") for _, cells in rows]
    if "index" not in header:
        return labels
    try:
        placed = {int(cells["index"]): label for (_, cells), label in zip(rows, labels, strict=True)}
    except (KeyError, ValueError) as error:
        raise TextError(f"{path}: the column index must hold a number in every line: {error}") from error
    if sorted(placed) != list(range(len(rows))):
        raise TextError(f"{path}: the column index must hold 0 to {len(rows) - 1}, each once")
    return [placed[number] for number in range(len(rows))]
