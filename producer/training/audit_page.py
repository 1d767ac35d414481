"""The page of an audit: what looks wrong, with pictures."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from base.paths import text_to_path
from jobs import Finding
from pages import card, data_uri, template
from producer.reports.thumbnails import SMALL_PX, thumbnails

SUSPICIOUS_SHOWN: Final = 48
PAIRS_SHOWN: Final = 12
SCORED_SHOWN: Final = 12
# Scores by their column: what they are called, and what they say.
SCORES: Final = {
    "outlier": ("Outliers", "How far an image is from the ten most like it of its label, near-duplicates aside."),
    "blur": ("Blur", "Few fine edges, at about the size that a network sees."),
    "dark": ("Dark", "How far the brightest part is from white."),
    "overexposed": ("Overexposed", "How bright the darkest part is."),
    "tiny": ("Tiny", "What the shorter side lacks of 224 pixels, as a part of them."),
    "odd_shape": ("Odd shape", "What the shorter side lacks of the longer one, as a part of it."),
}

Pair = tuple[str, str]


def audit_page(findings: Sequence[Finding], result: str, table: Path, root: str, max_pixels: int) -> str:
    """Return the page as HTML; it needs nothing but itself.

    Args:
        findings: the most suspicious first.
        result: the sentence of the job.
        root: of the images, below which their paths are.
        table: the audit's table, which `sortline review` opens.
    """
    label_of = {finding.path: finding.label for finding in findings}
    wrong = [finding for finding in findings if finding.suspicious]
    pairs = {
        "Data leakage": _pairs(findings, lambda finding: finding.leak),
        "Same picture": _pairs(findings, lambda finding: finding.same_as),
        "Similar pictures": _pairs(findings, lambda finding: finding.similar_to),
    }
    ranked = {name: _highest(findings, name) for name in SCORES}
    shown = dict.fromkeys(finding.path for finding in wrong[:SUSPICIOUS_SHOWN])
    shown |= dict.fromkeys(path for found in pairs.values() for pair in found[:PAIRS_SHOWN] for path in pair)
    shown |= dict.fromkeys(finding.path for found in ranked.values() for finding in found[:SCORED_SHOWN])
    pictures = _pictures(list(shown), root, max_pixels)
    notes = {
        "Data leakage": "One of each pair is in train, the other in val: the score of a training is too good.",
        "Same picture": "The files have the same bytes. With two labels, one of them is wrong.",
        "Similar pictures": "Near-duplicates of one class: a split should not part them.",
    }
    return template("audit.html").render(
        title=f"Audit of {table.stem}" if table.stem != "audit" else "Audit",
        subtitle="",
        cards=[
            card("Images", f"{len(findings):,}"),
            card("Labels that look wrong", f"{len(wrong):,}"),
            *(card(title, f"{len(found):,}", "pairs") for title, found in pairs.items()),
        ],
        result=result,
        review=shlex.join(["sortline", "review", str(table)]),
        suspicious=[
            {
                "image": pictures[finding.path],
                "name": finding.suggested,
                "score": finding.suggested_probability,
                "note": f"labelled {finding.label}",
            }
            for finding in wrong[:SUSPICIOUS_SHOWN]
        ],
        suspicious_count=len(wrong),
        paired=[
            {
                "title": title,
                "note": notes[title],
                "count": len(found),
                "pairs": [
                    tuple({"image": pictures[path], "name": label_of.get(path, "")} for path in pair)
                    for pair in found[:PAIRS_SHOWN]
                ],
            }
            for title, found in pairs.items()
        ],
        scores=[_scored(name, found, pictures) for name, found in ranked.items() if found],
    )


def _pairs(findings: Iterable[Finding], other: Callable[[Finding], str]) -> list[Pair]:
    """Return (one, other) of each pair once, in the order of paths."""
    found = {(min(pair), max(pair)) for finding in findings if (pair := (finding.path, other(finding)))[1]}
    return sorted(found)


def _highest(findings: Iterable[Finding], name: str) -> list[Finding]:
    scored = [finding for finding in findings if getattr(finding, name) is not None]
    return sorted(scored, key=lambda finding: (-getattr(finding, name), finding.path))


def _scored(name: str, found: Sequence[Finding], pictures: Mapping[str, Any]) -> dict[str, Any]:
    title, note = SCORES[name]
    images = [
        {"image": pictures[finding.path], "name": finding.label, "score": getattr(finding, name), "note": ""}
        for finding in found[:SCORED_SHOWN]
    ]
    return {"title": title, "note": note, "count": len(found), "images": images}


def _pictures(paths: Sequence[str], root: str, max_pixels: int) -> dict[str, dict[str, Any]]:
    """Return what the page shows of each image."""
    from PIL import Image

    whole = [(str(Path(root, text_to_path(path))), 0) for path in paths]
    found = {}
    for path, webp in zip(paths, thumbnails(whole, max_pixels), strict=True):
        is_tiny = webp is not None and max(Image.open(io.BytesIO(webp)).size) <= SMALL_PX
        source = data_uri("webp", webp) if webp is not None else ""
        found[path] = {"path": path, "source": source, "missing": "no picture", "tiny": is_tiny}
    return found
