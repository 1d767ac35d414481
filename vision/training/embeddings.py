"""Features of images as short vectors, which may be sent and kept; and which images are far from all others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vision.training.samples import Rows

WIDTH = 256  # distances keep to about 5 % (Johnson and Lindenstrauss 1984)
SEED = 0  # the same for all images and times, so that vectors of two datasets can be compared
NEIGHBOURS = 10
_ROWS = 1024


def embed(features: Rows) -> NDArray[np.float32]:
    """Return float32 (N, `WIDTH`): features (N, F) of length 1, by a random projection that is always the same."""
    width = int(np.prod(features.shape[1:]))
    projection = np.random.default_rng(SEED).standard_normal((width, WIDTH), np.float32) / np.float32(WIDTH**0.5)
    found = np.empty((len(features), WIDTH), np.float32)
    for start in range(0, len(features), _ROWS):
        block = features[start : start + _ROWS].reshape(-1, width).astype(np.float32)
        found[start : start + _ROWS] = _unit(block) @ projection
    return found


def outlier_scores(
    embeddings: NDArray[np.float32], families: NDArray[np.int64], labels: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return for each image 1 less its mean cosine to the ten nearest of its class, cut at 0 and 1.

    Those of other classes don't count: a dozen pictures of something else that lie in several classes would be the
    nearest of each other. Where a class is a single family, all other classes stand for it.

    Args:
        embeddings: (N, D).
        families: (N,), a number a family: near-duplicates don't speak for each other.
        labels: (N,), class indices.
    """
    unit, count = _unit(embeddings), min(NEIGHBOURS, len(embeddings) - 1)
    found = np.ones(len(unit), np.float32)
    for start in range(0, len(unit) if count else 0, _ROWS):
        rows = slice(start, start + _ROWS)
        likeness = np.where(families[rows, None] == families[None], -np.inf, unit[rows] @ unit.T)
        of_class = np.where(labels[rows, None] == labels[None], likeness, -np.inf)
        of_class = np.where(np.isneginf(of_class.max(axis=1))[:, None], likeness, of_class)
        nearest = -np.partition(-of_class, count - 1, axis=1)[:, :count]
        others = np.isfinite(nearest).sum(axis=1)
        found[rows] = 1 - np.clip(nearest, 0, 1).sum(axis=1) / np.maximum(others, 1)
    return found


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
