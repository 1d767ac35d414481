"""How good predictions are, and one temperature for all logits that makes confidences mean what they say.

Class indices are int64 in [0, classes). A rate of nothing, 0/0, is nan: it was not measured, and 0 would say that it
was and came out badly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 15  # of confidence, as in Guo et al. 2017 (arXiv:1706.04599), who also found that one temperature does
LOWEST, HIGHEST = 0.05, 20.0  # temperatures
ROUNDS = 60  # of golden-section search: far below float32


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    """Float64 (classes,) each; ``support`` is int64: the images that truly are of the class."""

    precision: NDArray[np.float64]  # nan for a class that was never predicted
    recall: NDArray[np.float64]  # nan for a class without images
    f1: NDArray[np.float64]  # nan for a class that is neither
    support: NDArray[np.int64]


class ConfusedPair(NamedTuple):
    """How many images of class ``true`` were taken for class ``predicted``."""

    true: int
    predicted: int
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Equal bins of confidence over [0, 1], and in each the images, their mean confidence and their accuracy.

    Mean confidence and accuracy of an empty bin are nan.
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    images: NDArray[np.int64]

    @property
    def expected_error(self) -> float:
        """The gap between confidence and accuracy, averaged over images (ECE); in [0, 1]."""
        filled = self.images > 0
        gaps = np.abs(self.confidence - self.accuracy)[filled]
        return float((gaps * self.images[filled]).sum() / self.images.sum())


def confusion_matrix(targets: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Return int64 (classes, classes): images by true class (row) and predicted class (column)."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (targets, predicted), 1)
    return matrix


def class_scores(matrix: NDArray[np.int64]) -> ClassScores:
    """Return the scores of each class of a confusion matrix."""
    right, support, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore"):  # 0/0 is nan, as promised
        return ClassScores(
            precision=right / predicted,
            recall=right / support,
            f1=2 * right / (support + predicted),
            support=support,
        )


def group_accuracy(matrix: NDArray[np.int64], groups: Sequence[str | None]) -> float:
    """Return the rate of images whose predicted class is in the group of their true class.

    Args:
        matrix: a confusion matrix.
        groups: the group of each class. A class without one is a group of its own.
    """
    numbers: dict[str | int, int] = {}
    group = np.array([numbers.setdefault(index if name is None else name, index) for index, name in enumerate(groups)])
    return float(matrix[group[:, None] == group[None, :]].sum() / matrix.sum())


def confused_pairs(matrix: NDArray[np.int64], limit: int) -> list[ConfusedPair]:
    """Return up to ``limit`` pairs of classes that were mistaken, the most frequent first, then in class order."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    places = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [
        ConfusedPair(int(row), int(column), int(wrong[row, column])) for row, column in places if wrong[row, column]
    ]


def top_k_accuracy(logits: NDArray[np.float64], targets: NDArray[np.int64], k: int) -> float:
    """Return the rate of images that have fewer than ``k`` classes ranked above the true one."""
    own = logits[np.arange(len(targets)), targets]
    return float(((logits > own[:, None]).sum(axis=1) < k).mean())


def reliability(probabilities: NDArray[np.float64], targets: NDArray[np.int64], bins: int = BINS) -> Reliability:
    """Return how often the predictions of each bin of confidence are right.

    Args:
        probabilities: (N, classes); the largest of a row is its confidence.
        targets: (N,) class indices.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)  # a confidence of 1 belongs to the last bin
    images = np.bincount(bin_of, minlength=bins).astype(np.int64)
    with np.errstate(invalid="ignore"):
        return Reliability(
            confidence=np.bincount(bin_of, confidence, bins) / images,
            accuracy=np.bincount(bin_of, right, bins) / images,
            images=images,
        )


def fit_temperature(logits: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Return the temperature with the smallest cross-entropy of ``softmax(logits / temperature)``.

    Of N images the true class counts 1 - 1 / (N + 2) and the others the rest, so that few images, all of them right,
    don't make confidences of 100 % (Platt 1999, "Probabilistic outputs for support vector machines", section 2.2).

    Args:
        logits: (N, classes) of images that were not trained on.
        targets: (N,) class indices.
    """
    smoothing = 1 / (len(targets) + 2)

    def loss(temperature: float) -> float:
        found = _log_softmax(logits / temperature)
        own = found[np.arange(len(targets)), targets]
        others = (found.sum(axis=1) - own) / max(found.shape[1] - 1, 1)
        return -float(((1 - smoothing) * own + smoothing * others).mean())

    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(LOWEST), math.log(HIGHEST)  # the loss is convex in 1 / T, so it has one valley in log T
    for _ in range(ROUNDS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(math.exp(left)) < loss(math.exp(right)):
            high = right
        else:
            low = left
    return round(math.exp((low + high) / 2), 6)


def softmax(logits: NDArray[np.float64], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the probabilities ``softmax(logits / temperature)`` of each row."""
    return np.exp(_log_softmax(logits / temperature))


def cross_entropy(logits: NDArray[np.float64], targets: NDArray[np.int64], temperature: float = 1.0) -> float:
    """Return the mean cross-entropy of ``softmax(logits / temperature)``, in nats."""
    return -float(_log_softmax(logits / temperature)[np.arange(len(targets)), targets].mean())


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
