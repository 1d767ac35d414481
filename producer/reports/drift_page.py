"""drift.html: how far the answers of runs were from those of validation, over time; and the same as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from base import files
from base.text import safe_cell
from pages import template
from producer.errors import UsageError
from producer.reports.drift import Drift
from producer.reports.tally import Tally
from producer.runfile import RunFile

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BELOW = 760, 240, 44, 12, 10, 22
LEAST_TOP = 0.5  # of the axis of indexes


class Figure(NamedTuple):
    """One of the figures that are compared: its key in a summary, what people call it, its colour on the page."""

    key: str
    name: str
    css: str


FIGURES = {
    "confidence": Figure("psi", "stability index of confidences", ""),
    "labels": Figure("psi", "stability index of labels", "wrong"),
    "distance": Figure("two_sample", "two-sample distance", "far"),  # of versions with outlier scores
}
COLUMNS = (
    *("ended", "run", "source", "model", "images", "looks_alike", "mean_confidence", "expected_confidence"),
    *(f"{of}_{what}" for of, figure in FIGURES.items() for what in (figure.key, "limit")),
)
HEAD = ("ended", "source", "says", "images", "mean confidence", "confidences", "labels", "distance")


class Measured(NamedTuple):
    """One run: when it ended (ISO 8601, UTC), and what its summary says of drift."""

    ended: str
    run: str
    source: str
    model: str
    images: int
    drift: dict[str, Any]

    def shift(self, of: str) -> tuple[float, float] | None:
        """Return a figure of `FIGURES` and its limit; None where the version does not give it."""
        if of == "distance" and of not in self.drift:
            return None
        return float(self.drift[of][FIGURES[of].key]), float(self.drift[of]["limit"])

    def figures(self) -> list[float | None]:
        """Return those of `COLUMNS`, from the mean confidence on."""
        confidence = self.drift["confidence"]
        shifts = (figure for of in FIGURES for figure in self.shift(of) or (None, None))
        return [float(confidence["mean"]), float(confidence["expected"]), *shifts]

    def cells(self) -> list[str]:
        alike = {True: "yes", False: "no", None: ""}[self.drift["looks_alike"]]
        known = [self.ended, self.run, self.source, self.model, str(self.images), alike]
        return [*known, *("" if figure is None else f"{figure:.4f}" for figure in self.figures())]


def measured_in(run: Path) -> Measured | None:
    """Return what the rows of a run file say; None without a label, or where its model has nothing to compare with."""
    with RunFile.reading(run) as reading:
        plan, counts = reading.plan, Tally()
        if plan.expected is None:
            return None
        for row in reading.rows:
            if row.top:
                counts.count_answer(row, plan.expected)
        drift = Drift.of(plan, counts)
    if drift is None or not counts.ok:
        return None
    ended = datetime.fromtimestamp(reading.ended, timezone.utc).isoformat(timespec="seconds")
    return Measured(ended, plan.run, plan.source, str(plan.model), counts.ok, drift.to_json())


def measured_by(summary: Path) -> Measured | None:
    """Return what a summary.json says; None where it says nothing of drift.

    Raises:
        UsageError: it is no summary of a run.
    """
    try:
        found = json.loads(summary.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or "run" not in found:
            raise UsageError(f"{summary} is no summary of a run")
        if "drift" not in found or not found["ended"]:
            return None
        pin = f"{found['model']['name']}:{int(found['model']['version'])}"
        made = Measured(found["ended"], found["run"], found["source"], pin, int(found["ok"]), found["drift"])
        datetime.fromisoformat(made.ended)
        if not all(figure is None or math.isfinite(figure) for figure in made.figures()) or not isinstance(
            made.drift["sentence"], str
        ):
            raise UsageError(f"{summary}: what it says of drift has no figures")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{summary} can't be read as the summary of a run: {error}") from error
    return made


def write_drift(measured: Sequence[Measured], page: Path, table: Path) -> None:
    """Write the page and the table, each by a rename."""
    from importlib.metadata import version

    by_model = groupby(sorted(measured, key=lambda one: (one.model, one.ended)), key=lambda one: one.model)
    text = template("drift.html").render(
        title="Drift",
        subtitle=f"{len(measured):,} runs, compared with the answers that their models gave to images held out",
        charts=[_chart(model, list(runs)) for model, runs in by_model],
        head=HEAD,
        footer=f"Made by Sortline {version('sortline')}.",
    )
    lines = [",".join(COLUMNS), *(",".join(map(_quoted, one.cells())) for one in measured)]
    for path, content in ((page, text), (table, "\n".join(lines) + "\n")):
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as draft:
            draft.write_text(content, encoding="utf-8")


def _chart(model: str, runs: list[Measured]) -> dict[str, Any]:
    moments = [datetime.fromisoformat(one.ended).timestamp() for one in runs]
    first, span = moments[0], moments[-1] - moments[0]
    room = WIDTH - LEFT - RIGHT
    places = [round(LEFT + room * ((moment - first) / span if span else 0.5), 1) for moment in moments]
    shifts = {of: [shift for one in runs if (shift := one.shift(of)) is not None] for of in FIGURES}
    drawn = [of for of, known in shifts.items() if len(known) == len(runs)]
    most = max([LEAST_TOP, *(1.1 * max(shift) for of in drawn for shift in shifts[of])])

    def height(index: float) -> float:
        return round(HEIGHT - BELOW - (HEIGHT - BELOW - TOP) * index / most, 1)

    def series(of: str) -> dict[str, Any]:
        heights = [height(index) for index, _ in shifts[of]]
        name = FIGURES[of].name
        words = [
            f"{one.ended}, {one.source}: {name} {index:.2f}" for one, (index, _) in zip(runs, shifts[of], strict=True)
        ]
        return {
            "name": name,
            "css": FIGURES[of].css,
            "dots": [{"x": x, "y": y, "words": said} for x, y, said in zip(places, heights, words, strict=True)],
            "points": _points(places, heights),
            "limits": _points(places, [height(limit) for _, limit in shifts[of]]),
        }

    return {
        "model": model,
        "newest": {"ended": _minute(runs[-1].ended), "sentence": str(runs[-1].drift["sentence"])},
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "lines": [{"y": height(most * part), "text": f"{most * part:.2f}"} for part in (0, 0.5, 1)],
        "marks": [
            {"x": places[0], "anchor": "start" if span else "middle", "text": runs[0].ended[:10]},
            *([{"x": places[-1], "anchor": "end", "text": runs[-1].ended[:10]}] if span else []),
        ],
        "series": [series(of) for of in drawn],
        "words": "Drift by run. " + "; ".join(f"{one.ended}: {one.drift['sentence']}" for one in runs),
        "rows": [_row(one) for one in reversed(runs)],
    }


def _minute(ended: str) -> str:
    return f"{ended[:16].replace('T', ' ')} UTC"


def _row(one: Measured) -> tuple[str, ...]:
    mean = f"{100 * one.drift['confidence']['mean']:.1f} %"
    indexes = (f"{shift[0]:.2f}" if (shift := one.shift(of)) is not None else "" for of in FIGURES)
    return _minute(one.ended), one.source, one.drift["sentence"], f"{one.images:,}", mean, *indexes


def _points(places: Sequence[float], heights: Sequence[float]) -> str:
    return " ".join(f"{x},{y}" for x, y in zip(places, heights, strict=True))


def _quoted(text: str) -> str:
    safe = safe_cell(text)
    return '"' + safe.replace('"', '""') + '"' if any(sign in safe for sign in ',"\r\n') else safe


def oldest_first(measured: Iterable[Measured | None]) -> Iterator[Measured]:
    """Yield what is known, each run once."""
    known = {one.run: one for one in measured if one is not None}
    yield from sorted(known.values(), key=lambda one: (one.ended, one.run))
