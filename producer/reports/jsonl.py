"""report.jsonl: one JSON object an input, in input order."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from producer.reports.layout import CONFIDENCE_DIGITS, Answer, Layout, rounded
from producer.reports.report import replacing, table
from producer.runfile import RunFile, StoredRow


def write_jsonl(run: RunFile, path: Path, layout: Layout, rows: Iterable[StoredRow] | None = None) -> None:
    with replacing(path, run.path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        for answer in layout.answers(run.rows() if rows is None else rows):
            # One line whatever a label holds: JSON escapes line ends; U+2028 is none for readers of JSON lines.
            file.write(json.dumps(record(layout, answer), ensure_ascii=False) + "\n")


JSONL = table("jsonl", write_jsonl)


def record(layout: Layout, answer: Answer) -> dict[str, Any]:
    """Return one row; text stands as it is, since nothing runs formulas in JSON."""
    if layout.chosen:
        return dict(zip(layout.columns, map(rounded, layout.values(answer)), strict=True))
    best = answer.ranked[0] if answer.ranked else None
    found: dict[str, Any] = {
        "path": answer.path,
        "status": answer.status,
        "label": best[0] if best else None,
        "confidence": round(best[1], CONFIDENCE_DIGITS) if best else None,
        "group": answer.group,
        "top": [{"label": name, "confidence": round(value, CONFIDENCE_DIGITS)} for name, value in answer.ranked],
        "error": answer.error,
        "error_detail": answer.detail or None,
        "width": answer.width or None,
        "height": answer.height or None,
        "model": answer.model or None,
    }
    if layout.thresholds:
        found["decision"] = answer.decision
    if layout.outliers:
        found["outlier"] = rounded(answer.outlier)
    found.update(zip(layout.more, map(rounded, answer.more), strict=True))
    if layout.probability_names and best:
        values = (round(value, CONFIDENCE_DIGITS) for value in answer.probabilities)
        found["probabilities"] = dict(zip(layout.probability_names, values, strict=True))
    return found
