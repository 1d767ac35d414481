"""Whether answers look like those about the images that a version was validated with, and how far they have moved.

The population stability index is sum((p - q) ln(p / q)) over bins, p and q the parts of the images in each. By habit of
the field 0.1 is a small change and 0.25 a large one. Of two samples of one source, with n and m images and b bins, it
is about (1/n + 1/m) times a chi-squared variable with b - 1 degrees of freedom (Yurdakul 2018), which is large where
there are few images: what chance makes in 1 of 1,000 comparisons is no drift.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

CONFIDENCE_BINS = 100
LARGE = 0.25
FURTHER = 0.2  # part of the images that would have to be nearer: less is no change worth a word
CHANCE = 0.001
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
        outliers: 101 quantiles of their outlier scores, from the lowest to the highest; empty where there are none.
    """

    confidences: list[int]
    labels: list[int]
    outliers: list[float] = field(default_factory=list)

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


def outlier_place(quantiles: Sequence[float], score: float) -> int:
    """Return how many of the quantiles are below an outlier score."""
    return bisect_left(quantiles, score)


def outlier_shift(quantiles: Sequence[float], images: int, places: Mapping[int, int]) -> Shift:
    """Return how much further images are from those of training: Smirnov's one-sided statistic of two samples.

    Args:
        quantiles: of so many images held out.
        places: images by `outlier_place`.
    """
    found = sum(places.values())
    if not found or not images:
        return Shift(0.0, FURTHER)
    index, nearer, last = 0.0, 0, len(quantiles) - 1
    for place, quantile in enumerate(quantiles):
        nearer += places.get(place, 0)
        if place == last or quantiles[place + 1] > quantile:  # of equal ones the last counts
            index = max(index, place / last - nearer / found)
    chance = math.sqrt(math.log(1 / CHANCE) / 2 * (1 / images + 1 / found))  # exp(-2 n m / (n + m) limit^2) = CHANCE
    return Shift(index, max(FURTHER, chance))


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
