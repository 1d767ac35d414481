"""comparison.html: what changes from one version to another, and the images about which they disagree."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from base.errors import UnavailableError
from base.intervals import paired_interval
from jobs import ModelPin
from pages import accuracy_card, card, data_uri, template
from producer.reports.comparison import Comparison, Pair
from producer.reports.gallery import thumbnails_of
from producer.reports.report import replacing
from producer.reports.thumbnails import SMALL_PX
from producer.runfile import RunFile
from storage import ExtraMissing

MOST_LISTED = 100


def write_comparison_page(
    run: RunFile, found: Comparison, path: Path, table: Path, *, max_pixels: int, say: Callable[[str], None]
) -> None:
    """Write the page of a comparison; ``run`` is that of its first version, ``table`` what review opens."""
    from importlib.metadata import version

    page = template("compare.html").render(
        title=f"{found.first} and {found.second}",
        subtitle=f"on the same images: {run.plan.source}",
        cards=_cards(found),
        versions=versions(found.to_json()),
        disagreements=found.images - found.agreed.right,
        pairs=_tiles(run, found.disagreements, max_pixels, say),
        review=shlex.join(["sortline", "review", table.name, "--order", "disagreement"]),
        footer=f"Made by Sortline {version('sortline')} from run {run.plan.run}.",
    )
    with replacing(path, run.path) as beside:
        beside.write_text(page, encoding="utf-8")


def versions(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `parts.html: versions` shows of a comparison's summary."""
    first, second = (version_in(summary, place) for place in ("first", "second"))
    moves, classes, is_judged = summary["moves"], summary["classes"], "truth" in summary
    judged = ["won", "lost"] if is_judged else []
    return {
        "first": first,
        "second": second,
        "sentence": summary["sentence"],
        "unanswered": summary["unanswered"],
        "moves_head": [f"by {first}", f"by {second}", "images", *judged],
        "moves": [
            (move["from"], move["to"], *(f"{move[name]:,}" for name in ("images", *judged)))
            for move in moves[:MOST_LISTED]
        ],
        "more_moves": max(0, len(moves) - MOST_LISTED),
        "classes_head": [
            *("label", f"by {first}", f"by {second}", "by both"),
            *(["images", f"recall of {first}", f"recall of {second}"] if is_judged else []),
        ],
        "classes": [_class(name, classes[name]) for name in [*classes][:MOST_LISTED]],
    }


def version_in(summary: Mapping[str, Any], place: str) -> str:
    """Return the first or the second version of a comparison's summary, as ``kitchen:3``."""
    return str(ModelPin.model_validate(summary[place]))


def _class(name: str, counts: Mapping[str, int]) -> tuple[str, ...]:
    shown = [f"{counts[what]:,}" for what in ("first", "second", "both", "images") if what in counts]
    recalls = [_recall(counts[what], counts["images"]) for what in ("first_right", "second_right") if what in counts]
    return name, *shown, *recalls


def _cards(found: Comparison) -> list[dict[str, str]]:
    without = f"{found.unanswered:,} more could not be labelled by both" if found.unanswered else "labelled by both"
    cards = [card("Images", f"{found.images:,}", without)]
    if found.images:
        cards.append(accuracy_card("Same label", found.agreed.right, found.images, found.agreed.interval))
    if found.judged:
        for pin, score in zip((found.first, found.second), found.right, strict=True):
            cards.append(accuracy_card(f"{pin} right", score.right, score.images, score.interval))
        won, lost, images = found.won.total(), found.lost.total(), found.judged.total()
        low, high = (100 * bound for bound in paired_interval(won, lost, images))
        note = f"95 % interval {low:+.1f} to {high:+.1f}; {won:,} won, {lost:,} lost, McNemar p = {found.chance:.2g}"
        cards.append(card("Difference, points", f"{100 * (won - lost) / images:+.1f}", note))
    return cards


def _tiles(run: RunFile, pairs: list[Pair], max_pixels: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    found: list[bytes | None] = [None] * len(pairs)
    try:
        with closing(thumbnails_of(run.plan, (pair.row for pair in pairs), max_pixels)) as made:
            found = list(made)
    except (ExtraMissing, UnavailableError) as error:
        say(f"no thumbnails: {error}")
    return [
        {
            "path": pair.row.path,
            "source": data_uri("webp", picture) if picture is not None else "",
            "missing": "no picture to be had here",
            "tiny": 0 < max(pair.row.width, pair.row.height) <= SMALL_PX,
            "said": [said._asdict() for said in (pair.first, pair.second) if said is not None],
            "truth": pair.truth,
        }
        for pair, picture in zip(pairs, found, strict=True)
    ]


def _recall(right: int, images: int) -> str:
    return f"{100 * right / images:.1f} %" if images else "none"
