"""summary.json: what a script wants to know of a run without reading its rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from base.decisions import DECISIONS
from base.paths import path_to_text
from producer.reports.drift import Drift
from producer.reports.layout import Layout
from producer.reports.report import replacing
from producer.reports.tally import Tally, ranked
from producer.reports.truth import ClassScore, Evaluation, Score
from producer.runfile import RunFile


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a run took, and who did it.

    Attributes:
        seconds: from the start of a command to its last chunk, summed over the commands that worked on the run.
        images: how many came in that time.
        stages: seconds by stage, summed over workers.
        engines, workers: images by "name/device/precision", and by worker.
        early: images that the first stage of a cascade answered.
    """

    started: float
    ended: float
    seconds: float
    images: int
    stages: dict[str, float]
    engines: dict[str, int]
    workers: dict[str, int]
    early: int

    @property
    def rate(self) -> float:
        """Images a second; 0 when unknown."""
        return self.images / self.seconds if self.seconds > 0 else 0.0

    @classmethod
    def of(cls, run: RunFile) -> Timing:
        stages: Counter[str] = Counter()
        engines: Counter[str] = Counter()
        workers: Counter[str] = Counter()
        images = early = 0
        for chunk in run.chunks():
            images += chunk.images
            early += chunk.early
            engines[chunk.engine or "unknown"] += chunk.images
            workers[chunk.worker or "unknown"] += chunk.images
            for stage, seconds in chunk.seconds.items():
                stages[stage] += seconds  # type: ignore[assignment]  # a Counter of floats
        periods = run.work_periods()
        return cls(
            started=periods[0][0] if periods else 0.0,
            ended=periods[-1][1] if periods else 0.0,
            seconds=sum(end - start for start, end in periods),
            images=images if periods else 0,
            stages={stage: round(float(seconds), 3) for stage, seconds in stages.items()},
            engines=dict(engines.most_common()),
            workers=dict(workers.most_common()),
            early=early,
        )


def write_summary(run: RunFile, path: Path, tally: Tally, layout: Layout) -> None:
    with replacing(path, run.path) as beside:
        text = json.dumps(summary(run, tally, layout), indent=2, ensure_ascii=False)
        beside.write_text(text + "\n", encoding="utf-8")


def summary(run: RunFile, tally: Tally, layout: Layout | None = None) -> dict[str, Any]:
    """Return the summary; counts are sorted, the largest first."""
    plan, timing = run.plan, Timing.of(run)
    found: dict[str, Any] = {
        "run": plan.run,
        "source": plan.source,
        "base": path_to_text(plan.base),
        "model": plan.model.model_dump(),
        "images": tally.images,
        "ok": tally.ok,
        "failed": tally.failed,
        "missing": tally.missing,
        "skipped": dict(ranked(plan.skipped)),
        "mean_confidence": round(tally.confidence_sum / tally.ok, 4) if tally.ok else None,
        "labels": dict(ranked(tally.labels)),
        "groups": dict(ranked(tally.groups)),
        "reasons": dict(ranked(tally.reasons)),
        "started": _moment(timing.started),
        "ended": _moment(timing.ended),
        "seconds": round(timing.seconds, 3),
        "images_per_second": round(timing.rate, 1),
        "engines": [_engine(name, images) for name, images in timing.engines.items()],
        "workers": timing.workers,
        "answered_early": timing.early,
        "stage_seconds": timing.stages,
    }
    if layout is not None and layout.thresholds:
        by = "min_confidence" if layout.target_precision is None else "target_precision"
        found |= {by: getattr(layout, by), "decisions": {name: tally.decisions[name] for name in DECISIONS}}
    if (drift := Drift.of(plan, tally)) is not None:
        found["drift"] = drift.to_json()
    if (shadow := run.shadow()) is not None:
        found["shadow"] = shadow
    if tally.evaluation is not None:
        found["evaluation"] = evaluated(tally.evaluation)
    return found


def evaluated(evaluation: Evaluation) -> dict[str, Any]:
    groups = evaluation.groups
    return {
        "images": evaluation.images,
        "unreadable": evaluation.unreadable,
        "other_folders": dict(ranked(evaluation.other_folders)),
        "top1": _score(evaluation.top1),
        "top5": _score(evaluation.top5),
        "group": _score(groups) if groups else None,
        "classes": _classes(evaluation.classes()),
        "groups": _classes(evaluation.group_classes()),
        **({"accepted": _score(evaluation.accepted)} if evaluation.accepted else {}),
        "confusions": [{"truth": truth, "label": name, "images": n} for truth, name, n in evaluation.confusions()],
    }


def _score(score: Score) -> dict[str, Any]:
    low, high = score.interval
    return {"right": score.right, "share": round(score.share, 4), "interval_95": [round(low, 4), round(high, 4)]}


def _classes(scores: Sequence[ClassScore]) -> dict[str, Any]:
    return {
        score.name: {
            "images": score.images,
            "answers": score.answers,
            "right": score.right,
            "recall": round(score.recall.share, 4) if score.images else None,
            "precision": round(score.precision.share, 4) if score.answers else None,
            "f1": round(score.f1, 4),
        }
        for score in scores
    }


def _engine(text: str, images: int) -> dict[str, Any]:
    name, device, precision = (text.split("/") + ["unknown"] * 2)[:3]
    return {"engine": name, "device": device, "precision": precision, "images": images}


def _moment(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds") if seconds else None
