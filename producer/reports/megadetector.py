"""report.megadetector.json: what camera-trap programs such as Timelapse read, the output format of MegaDetector.

https://lila.science/megadetector-output-format, version 1.4. Labels of whole images are its classifications. These
belong to a detection, so each image has one that is as large as itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from base.paths import is_utf8, text_to_path
from producer.errors import UsageError
from producer.reports.layout import CONFIDENCE_DIGITS, Answer, Layout
from producer.reports.report import replacing, table
from producer.runfile import Plan, RunFile, StoredRow

VERSION = "1.4"
WHOLE_IMAGE = "1"


def check_plan(plan: Plan) -> None:
    """Raise UsageError where a file has several rows: the format has one record a file."""
    if plan.pages:
        raise UsageError("--format megadetector: not of a run with --pages all, of which a file has several rows")


def write_megadetector(run: RunFile, path: Path, layout: Layout, rows: Iterable[StoredRow] | None = None) -> None:
    numbers = {name: str(number) for number, name in enumerate(dict.fromkeys(layout.names))}
    head = {
        "info": {"format_version": VERSION, "detector": "none: whole images", "classifier": layout.model},
        "detection_categories": {WHOLE_IMAGE: "image"},
        "classification_categories": {number: name for name, number in numbers.items()},
    }
    with replacing(path, run.path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        file.write(json.dumps(head, ensure_ascii=False, indent=1)[:-2] + ',\n "images": [')
        mark = "\n"
        for answer in layout.answers(run.rows() if rows is None else rows):
            file.write(mark + json.dumps(record(answer, numbers), ensure_ascii=False))
            mark = ",\n"
        file.write("\n ]\n}\n")


MEGADETECTOR = table("megadetector", write_megadetector, own_suffix="megadetector.json", check_plan=check_plan)


def record(answer: Answer, numbers: dict[str, str]) -> dict[str, Any]:
    """Return one image; ``numbers`` are those of the labels."""
    path = text_to_path(answer.path)
    file = path if is_utf8(path) else answer.path
    if not answer.ranked:
        why = f"{answer.error}: {answer.detail}" if answer.error else "no answer yet"
        return {"file": file, "failure": why, "detections": None}
    labels = [[numbers[name], round(value, CONFIDENCE_DIGITS)] for name, value in answer.ranked]
    whole = {"category": WHOLE_IMAGE, "conf": 1.0, "bbox": [0.0, 0.0, 1.0, 1.0], "classifications": labels}
    return {"file": file, "detections": [whole]}
