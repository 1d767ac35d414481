"""An imported classifier answers the photos of ``--calibrate``: outlier score, thresholds, usual answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from base.decisions import FARTHEST
from model_store import Decisions, HeldOut
from vision.images import DEFAULT_LIMITS
from vision.imported import Served, fit_outlier_score
from vision.training import LabelledImage
from worker.models.decisions import FEW, Judged, described, find_decisions, held_out
from worker.models.precision import read_images


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What some photos say of an imported classifier.

    Attributes:
        served: with its outlier score, if it got one.
        held_out: how it answered the photos; None where they are few.
        lines: for people.
    """

    served: Served
    held_out: HeldOut | None = None
    decisions: Decisions | None = None
    lines: tuple[str, ...]


def calibrate(served: Served, photos: Sequence[LabelledImage]) -> Calibration:
    """Let the graph as it came answer photos; those whose class is known (not -1) give thresholds, if enough."""
    answers, classes = [], []
    for pixels, indices in read_images(photos, served.preprocessing, DEFAULT_LIMITS):
        answers.append(served.reference(pixels))
        classes += indices
    if len(classes) < FEW:
        few = f"outlier score: none; {len(classes)} photos could be read, {FEW} or more are needed"
        return Calibration(served=served, lines=(few,))
    probabilities = np.concatenate(answers).astype(np.float64)
    targets = np.array(classes)
    labelled = int((targets >= 0).sum())
    if labelled < FEW:
        targets[:] = -1
    score = fit_outlier_score(probabilities)
    outliers = np.zeros(len(targets)) if score is None else score.of(probabilities)
    decisions = find_decisions(Judged(probabilities, outliers), targets)
    lines = ["outlier score: none; all photos are answered alike"]
    if score is not None:
        unknown = float((outliers > FARTHEST).mean())
        lines = [f"outlier score: by {len(targets)} photos, of which {unknown:.1%} are unknown"]
    if decisions.thresholds:
        lines.append(f"thresholds: {described(decisions, 'in folders called as the labels')}")
    else:
        lines.append(f"thresholds: none; {labelled} photos lie in folders called as the labels, {FEW} are needed")
    return Calibration(
        served=served if score is None else served.scored(score),
        held_out=held_out(probabilities),
        decisions=decisions if score is not None or decisions.thresholds else None,
        lines=tuple(lines),
    )
