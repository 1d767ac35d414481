"""report.html: one page that holds all it needs. Its only script is ours, known to the browser by its hash.

Text of files, labels and workers passes jinja's escaping, or stands as JSON in a block that browsers don't run; the
page's policy is a second lock.
"""

from __future__ import annotations

from pathlib import Path
from time import localtime, strftime
from typing import Any

from base.paths import path_to_text
from base.text import duration
from pages import accuracy_card, card, template
from producer.reports.comparison_page import versions
from producer.reports.drift import Drift
from producer.reports.gallery import Gallery
from producer.reports.report import Format, Report, replacing
from producer.reports.summary import Timing
from producer.reports.tally import Tally, ranked
from producer.reports.truth import ClassScore, Evaluation, Score
from producer.runfile import RunFile

MOST_IN_MATRIX = 60  # classes; beyond, the most frequent confusions are listed
MOST_LISTED = 100
SHADES = 8
WIDTH, HEIGHT, LEFT, BELOW = 420, 200, 44, 20  # of the histogram, in its own units


def write_page(report: Report, path: Path) -> None:
    from importlib.metadata import version

    from markupsafe import Markup

    run, counts = report.run, report.counts
    gallery = Gallery(report, path)
    page = template(
        "label.html"
    ).stream(
        title=_title(run),
        subtitle=_subtitle(run),
        images_from=gallery.images_from,
        cards=_cards(run, counts),
        drift=_drift(run, counts),
        counts=counts,
        labels=ranked(counts.labels),
        groups=ranked(counts.groups),
        reasons=ranked(counts.reasons),
        histogram=histogram(counts),
        evaluation=evaluated(counts.evaluation) if counts.evaluation else None,
        shadow=_shadow(run),
        review=gallery.figures(counts.least_sure),
        mistakes=gallery.figures(counts.mistakes),
        errors=gallery.errors,
        sampled=gallery.note,
        data=(Markup(piece) for piece in gallery.json()),  # noqa: S704 - its text is escaped
        footer=f"Made by Sortline {version('sortline')} from run {run.plan.run}; model {run.plan.model}, "
        f"{run.plan.model.digest[:12]}.",
    )
    page.enable_buffering(64)
    with replacing(path, run.path) as beside, beside.open("wb") as file:
        page.dump(file, encoding="utf-8")


HTML = Format("html", lambda report, path, rows: write_page(report, path), is_table=False)


def _shadow(run: RunFile) -> dict[str, Any] | None:
    found = run.shadow()
    return {**versions(found), "share": f"{found['share']:.0%}"} if found is not None else None


def _drift(run: RunFile, counts: Tally) -> str:
    """Return whether the images look like those of training; "" where that can't be said."""
    drift = Drift.of(run.plan, counts)
    return drift.sentence() if drift is not None and drift.is_known else ""


def _cards(run: RunFile, counts: Tally) -> list[dict[str, str]]:
    timing = Timing.of(run)
    missing = f", {counts.missing:,} without an answer yet" if counts.missing else ""
    cards = [card("Images", f"{counts.images:,}", f"{counts.ok:,} labelled{missing}")]
    evaluation = counts.evaluation
    if evaluation is not None and evaluation.images:
        shown = [("Accuracy", evaluation.top1)]
        shown += [("In the first 5", evaluation.top5)] if len(set(counts.labels)) > 5 else []
        shown += [("Right group", evaluation.groups)] if evaluation.groups else []
        shown += [("Accepted and right", evaluation.accepted)] if evaluation.accepted else []
        cards += [accuracy_card(name, score.right, score.images, score.interval) for name, score in shown]
    failed_note = ", ".join(f"{name} {count:,}" for name, count in ranked(counts.reasons)[:3])
    cards.append(card("Not readable", f"{counts.failed:,}", failed_note or "every image was read"))
    if skipped := run.plan.skipped:
        note = ", ".join(f"{what} {count:,}" for what, count in ranked(skipped)[:5])
        cards.append(card("Skipped", f"{sum(skipped.values()):,}", f"no images: {note}"))
    if counts.ok:
        unsure = sum(counts.histogram[: len(counts.histogram) // 2])
        mean = f"{100 * counts.confidence_sum / counts.ok:.1f} %"
        cards.append(card("Confidence", mean, f"on average; {unsure:,} images below 50 %"))
    if counts.decisions:
        note = f"not accepted; {counts.decisions['unknown']:,} of them unlike all that the model was trained on"
        cards.append(card("To review", f"{counts.to_review:,}", note))
    if timing.rate:
        early = f"; {timing.early / timing.images:.0%} answered by the first stage" if timing.early else ""
        note = f"{timing.images:,} images in {duration(max(1, round(timing.seconds)))}{early}"
        cards.append(card("Rate", f"{timing.rate:,.0f} img/s", note))
    return cards


def _title(run: RunFile) -> str:
    """Return the last two folders of what was labelled: whoever gets the page need not learn all of the path."""
    return path_to_text("/".join(Path(run.plan.base).parts[-2:]).strip("/")) if run.plan.walked else run.plan.source


def _subtitle(run: RunFile) -> str:
    timing = Timing.of(run)
    parts = [f"labelled by {run.plan.model}"]
    if timing.ended:
        parts.append(strftime("%Y-%m-%d %H:%M", localtime(timing.ended)))
    engines = [name.replace("/", " ") for name in timing.engines if name != "unknown"]
    parts += [", ".join(engines)] if engines else []
    parts += [f"{len(timing.workers)} workers"] if len(timing.workers) > 1 else []
    return " · ".join(parts)


def histogram(counts: Tally) -> dict[str, Any]:
    """Return bars and marks of the images by confidence; wrong ones lie on top of right ones."""
    bins = len(counts.histogram)
    most = max(*counts.histogram, 1)
    room = HEIGHT - BELOW - 10
    step = (WIDTH - LEFT - 4) / bins
    drawn: list[dict[str, Any]] = []
    for place, (images, wrong) in enumerate(zip(counts.histogram, counts.wrong_histogram, strict=True)):
        height, wrong_height = room * (images - wrong) / most, room * wrong / most
        words = f"{100 * place // bins} to {100 * (place + 1) // bins} %: {images:,} images"
        if counts.evaluation is not None:
            words += f", {wrong:,} of them wrong"
        top = HEIGHT - BELOW - height
        drawn.append(
            {
                "x": round(LEFT + 2 + place * step, 2),
                "width": round(step - 2, 2),
                "y": round(top, 2),
                "height": round(height, 2),
                "wrong_y": round(top - wrong_height, 2),
                "wrong_height": round(wrong_height, 2),
                "words": words,
            }
        )
    filled = [bar["words"] for bar, images in zip(drawn, counts.histogram, strict=True) if images]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "bins": drawn,
        "lines": [{"y": round(HEIGHT - BELOW - room * part, 2), "text": f"{most * part:,.0f}"} for part in (0, 0.5, 1)],
        "marks": [
            {"x": LEFT + 2 + (WIDTH - LEFT - 4) * part, "text": f"{100 * part:.0f} %", "anchor": anchor}
            for part, anchor in ((0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1, "end"))
        ],
        "words": "Images by confidence. " + "; ".join(filled) + ".",
    }


def evaluated(evaluation: Evaluation) -> dict[str, Any]:
    classes = evaluation.classes()
    names = [item.name for item in classes]
    folders = ranked(evaluation.other_folders)
    confusions = evaluation.confusions()
    return {
        "words": _words(evaluation),
        "by": "table" if evaluation.table else "folder",
        "title": f"Against {evaluation.table}" if evaluation.table else "Against the folders' names",
        "names": names,
        "truths": [item.name for item in classes if item.images],
        "matrix": _matrix(evaluation, classes) if len(names) <= MOST_IN_MATRIX else [],
        "confusions": confusions[:MOST_LISTED],
        "classes": [_class(item) for item in sorted(classes, key=lambda item: (item.recall.share, item.name))],
        "groups": [(row[0] or "(none)", row[1], row[2], row[4]) for row in map(_class, evaluation.group_classes())],
        "other_folders": folders[:MOST_LISTED],
        "more_folders": max(0, len(folders) - MOST_LISTED),
    }


def _words(evaluation: Evaluation) -> str:
    who = f"The table {evaluation.table}" if evaluation.table else "The folder that an image lies in"
    words = f"{who} says what it shows; {evaluation.images:,} images are compared with it."
    if evaluation.unreadable:
        words += f" {evaluation.unreadable:,} more could not be labelled and count neither as right nor as wrong."
    other = sum(evaluation.other_folders.values())
    if other:
        words += f" {other:,} {'have other labels' if evaluation.table else 'lie in folders of other names'}."
    return words


def _matrix(evaluation: Evaluation, classes: list[ClassScore]) -> list[dict[str, Any]]:
    def cell(true: ClassScore, answer: ClassScore) -> dict[str, Any]:
        count = evaluation.pairs[true.name, answer.name]
        shade = -(-SHADES * count // true.images)  # any image at all is seen
        return {"name": answer.name, "count": count, "shade": shade, "off": true is not answer}

    seen = (true for true in classes if true.images)  # others were only ever answered
    return [{"truth": true.name, "cells": [cell(true, answer) for answer in classes]} for true in seen]


def _class(item: ClassScore) -> tuple[str, ...]:
    """Return name, images, recall, its interval, precision and F1 as the table shows them."""
    low, high = item.recall.interval
    interval = f"{100 * low:.0f} to {100 * high:.0f}" if item.images else ""
    rates = _percent(item.recall), interval, _percent(item.precision), f"{item.f1:.3f}"
    return item.name, f"{item.images:,}", *rates


def _percent(score: Score) -> str:
    return f"{100 * score.share:.1f} %" if score.images else "none"
