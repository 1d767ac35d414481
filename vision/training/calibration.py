"""Confidences that mean what they say: one temperature for all logits (Guo et al. 2017, arXiv:1706.04599)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = 0.05, 20.0
ROUNDS = 60  # of golden-section search: far below float32


def fit_temperature(logits: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Return the temperature with the smallest cross-entropy of ``softmax(logits / temperature)``.

    Args:
        logits: (N, classes) of images that were not trained on.
        targets: (N,) class indices.
    """
    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(LOWEST), math.log(HIGHEST)  # the loss is convex in 1 / T, so it has one valley in log T
    for _ in range(ROUNDS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if cross_entropy(logits, targets, math.exp(left)) < cross_entropy(logits, targets, math.exp(right)):
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
