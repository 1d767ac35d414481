"""An outlier score for a graph that came without one: the generalised entropy of its probabilities.

Liu, Lochman & Zach 2023 (CVPR, "GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection"): the sum of
(p (1 - p))^0.1 over the classes. It is high where many classes are not quite ruled out, however the first one stands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

OUTLIER: Final = "sortline_outlier"  # the output of the served form
KNOWN: Final = 0.95  # part of the photos of a calibration that are not unknown
POWER: Final = 0.1
FLOOR: Final = 1e-6  # of a probability and of what it lacks to 1: 16-bit floats and rounding know little below
LEAST_WIDTH: Final = 0.01  # a class: engines round, and a narrower scale would show it
SUREST: Final = 0.01  # part of the scale that is 0: many photos are as sure as can be, and rounding must not order them


@dataclass(frozen=True, slots=True)
class OutlierScore:
    """The score max(0, (entropy - lowest) / width): 0 for the surest photos, above 1 an image is unknown."""

    lowest: float
    width: float

    def of(self, probabilities: NDArray[Any]) -> NDArray[np.float64]:
        """Return the scores (N,) of probabilities (N, classes)."""
        scores: NDArray[np.float64] = np.maximum(0.0, (generalised_entropy(probabilities) - self.lowest) / self.width)
        return scores


def fit_outlier_score(probabilities: NDArray[Any]) -> OutlierScore | None:
    """Return a score beyond which at most 5 % of some photos are, (N, classes); None where all are answered alike."""
    entropies = np.sort(generalised_entropy(probabilities))
    known = math.ceil(KNOWN * len(entropies))
    # Between two photos, or rounding would decide about one of them.
    edge, surest = float(entropies[known - 1 : known + 1].mean()), float(entropies[0])
    lowest = surest + SUREST * (edge - surest)
    return OutlierScore(lowest, edge - lowest) if edge - surest >= LEAST_WIDTH * probabilities.shape[1] else None


def generalised_entropy(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """Return the entropies (N,) of probabilities (N, classes)."""
    bounded = np.clip(probabilities.astype(np.float64), FLOOR, 1 - FLOOR)
    entropies: NDArray[np.float64] = ((bounded * (1 - bounded)) ** POWER).sum(axis=1)
    return entropies
