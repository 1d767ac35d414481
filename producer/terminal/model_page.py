"""What a person wants to know of a model version, as text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from base.intervals import wilson_interval
from base.text import printable
from model_store import Manifest, ModelStore, ModelVersion


def report_page(version: ModelVersion) -> Path | None:
    """Return where the page about a version's training lies, if it has one."""
    return version.folder / "report.html" if "report.html" in version.manifest.files else None


def about(store: ModelStore, version: ModelVersion) -> Iterable[str]:
    """Yield lines: what the version is, how right it was, of what it was made, where it lies, and its history."""
    manifest = version.manifest
    held = sorted(alias for alias, number in store.aliases(manifest.name).items() if number == manifest.version)
    labels = ", ".join(entry.label for entry in manifest.classes)
    size_mb = sum(file.bytes for file in manifest.files.values()) / 1e6
    training: dict[str, Any] = manifest.training
    images = training.get("images", {})
    facts = {
        "model": manifest.reference + (f" ({', '.join(held)})" if held else ""),
        "kind": f"{manifest.kind} on {(manifest.network or {}).get('name', 'a graph of its own')}",
        "made": f"{manifest.created} by {training.get('job', 'hand')}",
        "grown on": ", ".join(manifest.parents),
        "accuracy": _accuracy(manifest.scores, images.get("validation", 0)),
        "cascade": _cascade(manifest),
        "accepted": _accepted(manifest),
        "images": f"{images['training']:,} to train, {images['validation']:,} to validate" if images else None,
        "split": training.get("split"),
        "classes": f"{len(manifest.classes)}: {labels}" if labels else None,
        "report": report_page(version),
        "files": f"{version.folder}, {size_mb:,.1f} MB",
        "digest": manifest.digest,
    }
    yield from (f"{name:9} {printable(str(fact))}" for name, fact in facts.items() if fact)
    if history := store.history(manifest.name):
        yield "history"
    for move in history:
        yield printable(
            f"  {move.when} {move.alias}: {move.previous or 'none'} -> {move.new} by {move.who}, {move.why}"
        )


def _cascade(manifest: Manifest) -> str | None:
    if (cascade := manifest.cascade) is None:
        return None
    return (
        f"a first stage answers {cascade.early:.0%}; {cascade.equal:.1%} of {cascade.images:,} images get the answer "
        f"that they get without it, {cascade.accuracy:.1%} the right one instead of {cascade.alone_accuracy:.1%}"
    )


def _accepted(manifest: Manifest) -> str | None:
    if (decisions := manifest.decisions) is None or not decisions.accepted:
        return None
    parts = ", ".join(f"{part:.0%} for {float(target):.0%} right" for target, part in decisions.accepted.items())
    which = "photos of --calibrate" if "imported_from" in manifest.training else "images answered out of fold"
    return f"{parts}, of {decisions.images:,} {which}"


def _accuracy(scores: dict[str, float], images: int) -> str | None:
    if "val_top1" not in scores:
        return None
    low, high = wilson_interval(scores["val_top1"], images)
    top5 = f"; {scores['val_top5']:.1%} within the first 5" if "val_top5" in scores else ""
    return f"{scores['val_top1']:.1%} of the validation images (95 % interval {low:.1%} to {high:.1%}){top5}"
