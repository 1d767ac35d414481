"""The page of a search: the trials in their order, the accuracy by each value that was tried, and the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from base.files import write_file
from pages import template
from producer.training.sweep import Trial, ranked, shown

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BELOW = 760, 220, 52, 14, 12, 24
WIDE = 10  # times: numbers above 0 that lie further apart stand by their logarithm
MOST_MARKS = 12  # below a chart
LEAST_SPAN = 0.01  # of the axis of accuracies


def write_sweep_page(trials: Sequence[Trial], title: str, path: Path) -> None:
    """Write the page, by a rename."""
    from importlib.metadata import version

    keys, scored = [*trials[0].values], [trial for trial in trials if trial.scores]
    ended = sum(trial.ended for trial in trials)
    page = template("sweep.html").render(
        title=title,
        subtitle=f"{ended} of {len(trials)} trials have ended, {len(scored)} with a score. The best of many trials on "
        "one validation split is an optimistic score: part of it is luck.",
        charts=[_by_order(scored), *(_by_value(scored, key) for key in keys)] if scored else [],
        head=["trial", *keys, "val top-1", "val loss", "message"],
        rows=[_row(trial) for trial in ranked(trials)],
        footer=f"Made by Sortline {version('sortline')}.",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, page.encode())


def _row(trial: Trial) -> list[str]:
    scores = trial.scores
    rates = [f"{scores['val_top1']:.2%}", f"{scores['val_loss']:.4f}"] if scores else ["", ""]
    message = trial.text if trial.state in ("done", "running") else f"{trial.state}{trial.text and ': '}{trial.text}"
    return [str(trial.number), *map(shown, trial.values.values()), *rates, message]


def _by_order(scored: Sequence[Trial]) -> dict[str, Any]:
    """Return the accuracy of each trial, and the best one until then."""
    numbers = [float(trial.number) for trial in scored]
    chart = _chart(
        "Validation top-1 by trial", scored, numbers, _ends(numbers, [f"{number:.0f}" for number in numbers])
    )
    across, best = [dot["x"] for dot in chart["dots"]], [*accumulate((dot["y"] for dot in chart["dots"]), min)]
    steps = [
        point
        for x, before, now in zip(across, [best[0], *best], best, strict=False)
        for point in ((x, before), (x, now))
    ]
    return {**chart, "best": " ".join(f"{x},{y}" for x, y in steps)}


def _by_value(scored: Sequence[Trial], key: str) -> dict[str, Any]:
    """Return the accuracy by the value of a key: numbers to scale, all else side by side."""
    values = [trial.values[key] for trial in scored]
    title = f"Validation top-1 by {key}"
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        places, is_wide = list(map(float, values)), min(values) > 0 and max(values) >= WIDE * min(values)
        if is_wide:
            places, title = [math.log(value) for value in places], f"{title}, logarithmic"
        return _chart(title, scored, places, _ends(places, list(map(shown, values))))
    names = list(dict.fromkeys(map(shown, values)))
    places = [float(names.index(shown(value))) for value in values]
    marks = [(float(place), name) for place, name in enumerate(names)][:MOST_MARKS]
    return _chart(title, scored, places, marks)


def _ends(places: Sequence[float], texts: Sequence[str]) -> list[tuple[float, str]]:
    """Return every place where they are few, else the first and the last."""
    known = sorted(dict(zip(places, texts, strict=True)).items())
    return known if len(known) <= MOST_MARKS // 2 else [known[0], known[-1]]


def _chart(
    title: str, scored: Sequence[Trial], places: Sequence[float], marks: Sequence[tuple[float, str]]
) -> dict[str, Any]:
    """Return a chart of accuracies; ``places`` of the trials and ``marks`` of the axis are in the same unit."""
    rates = [trial.scores["val_top1"] for trial in scored]
    low, high = min(rates), max(rates)
    low, high = max(0.0, min(low, high - LEAST_SPAN)), min(1.0, max(high, low + LEAST_SPAN))
    first, span = min(places), max(places) - min(places)
    best = ranked(scored)[0]

    def across(place: float) -> float:
        return round(LEFT + 8 + (WIDTH - LEFT - RIGHT - 16) * ((place - first) / span if span else 0.5), 1)

    def up(rate: float) -> float:
        return round(HEIGHT - BELOW - 6 - (HEIGHT - BELOW - TOP - 6) * (rate - low) / (high - low), 1)

    def anchor(x: float) -> str:
        return "start" if x < LEFT + 40 else "end" if x > WIDTH - 60 else "middle"

    dots = [
        {
            "x": across(place),
            "y": up(rate),
            "css": "wrong" if trial is best else "",
            "words": f"trial {trial.number}, {trial.name}: {rate:.2%}",
        }
        for trial, place, rate in zip(scored, places, rates, strict=True)
    ]
    return {
        "title": title,
        "words": f"{title}. " + "; ".join(str(dot["words"]) for dot in dots),
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "lines": [{"y": up(rate), "text": f"{rate:.1%}"} for rate in (low, (low + high) / 2, high)],
        "marks": [{"x": x, "anchor": anchor(x), "text": text} for place, text in marks for x in [across(place)]],
        "best": "",
        "dots": dots,
    }
