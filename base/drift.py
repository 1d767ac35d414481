"""Whether answers look like those about the images that a version was validated with, and how far they have moved.

The population stability index is sum((p - q) ln(p / q)) over bins, p and q the parts of the images in each. By habit of
the field 0.1 is a small change and 0.25 a large one. Of two samples of one source, with n and m images and b bins, it
is about (1/n + 1/m) times a chi-squared variable with b - 1 degrees of freedom (Yurdakul 2018), which is large where
there are few images: what chance makes in 1 of 1,000 comparisons is no drift.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

CONFIDENCE_BINS = 100
LARGE = 0.25
LEAST_IMAGES = 30  # with fewer nothing is said
_PARTS = 10  # bins of confidence that are compared, each of about as many validation images
_LEAST_PART = 0.01  # classes with less of the validation images are compared as one
_Z_999 = 3.0902  # of the normal distribution: 99.9 % lie below


@dataclass(frozen=True, slots=True)
class Expected:
    """What a version answered about images that it was not trained on: how many with which confidence and class.

    Attributes:
        confidences: images by confidence, in steps of a hundredth.
        labels: images by class index.
    """

    confidences: list[int]
    labels: list[int]

    @property
    def images(self) -> int:
        return sum(self.labels)


@dataclass(frozen=True, slots=True)
class Shift:
    """How far one figure's distribution has moved: its index, and the limit above which that is drift."""

    index: float
    limit: float

    @property
    def is_drift(self) -> bool:
        return self.index > self.limit


def confidence_bin(confidence: float) -> int:
    """Return the place of a confidence, 0 to 1, among the hundred."""
    return min(int(confidence * CONFIDENCE_BINS), CONFIDENCE_BINS - 1)


def mean_of(confidences: Sequence[int]) -> float:
    """Return the mean of confidences that are counted by hundredths; 0 without any."""
    total = sum((place + 0.5) * count for place, count in enumerate(confidences))
    return total / (sum(confidences) * CONFIDENCE_BINS) if any(confidences) else 0.0


def confidence_shift(expected: Sequence[int], found: Sequence[int]) -> Shift:
    """Return how far the confidences have moved; both are counts by hundredths."""
    if not any(expected):
        return Shift(0.0, LARGE)
    edges = _edges(expected)
    return _shift(_summed(expected, edges), _summed(found, edges))


def label_shift(expected: Sequence[int], found: Sequence[int]) -> Shift:
    """Return how far the mix of labels has moved; both are counts by class index."""
    images = sum(expected)
    common = [place for place, count in enumerate(expected) if count >= _LEAST_PART * images]
    rare = sorted(set(range(len(expected))) - set(common))
    groups = [[place] for place in common] + ([rare] if rare else [])
    return _shift(*([sum(counts[place] for place in group) for group in groups] for counts in (expected, found)))


def _edges(counts: Sequence[int]) -> list[int]:
    """Return the ends of bins with about as many of ``counts`` in each, and of one below all of them."""
    share = sum(counts) / _PARTS
    sums = list(accumulate(counts))
    ends = {bisect_right(sums, share * part - 1e-9) + 1 for part in range(1, _PARTS)}
    return sorted({bisect_right(sums, 0), *ends, len(counts)} - {0})


def _summed(counts: Sequence[int], edges: Sequence[int]) -> list[int]:
    return [sum(counts[start:end]) for start, end in zip([0, *edges], edges, strict=False)]


def _shift(expected: Sequence[int], found: Sequence[int]) -> Shift:
    if not sum(expected) or not sum(found):
        return Shift(0.0, LARGE)
    p, q = _parts(expected), _parts(found)
    index = sum((new - old) * math.log(new / old) for old, new in zip(p, q, strict=True))
    chance = (1 / sum(expected) + 1 / sum(found)) * _chi_squared_999(len(expected) - 1)
    return Shift(index, max(LARGE, chance))


def _parts(counts: Sequence[int]) -> list[float]:
    """Return shares of the whole, none of them zero: half an image more in each bin."""
    whole = sum(counts) + len(counts) / 2
    return [(count + 0.5) / whole for count in counts]


def _chi_squared_999(degrees: int) -> float:
    """Return what a chi-squared variable stays below in 999 of 1,000 cases (Wilson and Hilferty 1931)."""
    if degrees < 1:
        return 0.0
    part = 2 / (9 * degrees)
    return degrees * (1 - part + _Z_999 * math.sqrt(part)) ** 3
