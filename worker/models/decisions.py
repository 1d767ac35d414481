"""What a version says of its answers: which are accepted, which images are unknown, and what later ones are held to."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from base.decisions import DEFAULT_TARGET, FARTHEST, TARGETS, target_name
from base.drift import CONFIDENCE_BINS, confidence_bin
from model_store import Decisions, HeldOut
from vision.training import are_accepted, find_thresholds

FEW: Final = 100  # images, of which the accuracy alone has a standard error of 4 points at 80 %
QUANTILES: Final = np.linspace(0, 1, 101)


class Judged(NamedTuple):
    """Probabilities (N, classes) of images, and their outlier scores (N,), by a network that has not seen them."""

    probabilities: NDArray[np.float64]
    outliers: NDArray[np.float64]


def held_out(probabilities: NDArray[np.float64]) -> HeldOut:
    """Return how images were answered, (N, classes), as the manifest keeps it."""
    confidences = [confidence_bin(confidence) for confidence in probabilities.max(axis=1).tolist()]
    return HeldOut(
        confidences=np.bincount(confidences, minlength=CONFIDENCE_BINS).tolist(),
        labels=np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1]).tolist(),
    )


def find_decisions(judged: Judged, targets: NDArray[np.int64]) -> Decisions:
    """Return the thresholds with which the target parts of the accepted answers are right; unknown images have none.

    Images whose class is not known (-1) count for the outlier scores alone. Without others there are no thresholds.
    """
    labelled = int((targets >= 0).sum())
    known = (judged.outliers <= FARTHEST) & (targets >= 0)
    probabilities, classes = judged.probabilities[known], judged.probabilities.shape[1]
    best, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = best == targets[known]
    thresholds = {
        target_name(target): find_thresholds(best, confidences, right, classes, target)
        for target in (TARGETS if labelled else ())
    }
    return Decisions(
        images=labelled or len(targets),
        thresholds=thresholds,
        accepted={
            name: float(are_accepted(best, confidences, of_target).sum()) / labelled
            for name, of_target in thresholds.items()
        },
        outliers=[round(float(score), 6) for score in np.quantile(judged.outliers, QUANTILES)],
    )


def described(decisions: Decisions, how: str) -> str:
    """Return which part of the images is accepted; ``how`` says which images they are."""
    part = decisions.accepted[target_name(DEFAULT_TARGET)]
    return f"{part:.0%} of {decisions.images} images, {how}, are accepted for {DEFAULT_TARGET:.0%} right"
