"""RBF units set from training features, and the map in which a linear head on them trains well.

A head on RBF units k(x) = exp(-width |x - center|^2) separates classes that no plane in feature space does. Their
outputs are strongly correlated, so training sees them in the principal axes of the centers' own likenesses K, scaled
so that products of z are likenesses (the Nystroem map of Williams & Seeger 2001), where Adam's step for each weight
suits its axis. The map is multiplied into the head's weights afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn
from numpy.typing import NDArray

from vision.errors import VisionError
from vision.training.samples import Rows

WIDTH = 1.5  # over the median squared distance of two centers that differ; from 1 to 2 the score hardly moves
EQUAL = 1e-5  # part of a mean squared length below which a squared distance is float32's rounding
SMALLEST = 1e-4  # part of the largest eigenvalue to which smaller ones are raised: they hold rounding, no likeness
ROWS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RbfCenters:
    """What RBF units need, and the map to train on.

    Attributes:
        centers: float32 (C, F), features of training images.
        width: of the RBF units.
        whitening: float32 (C, C), K's eigenvectors in columns, each divided by the root of its eigenvalue.
    """

    centers: NDArray[np.float32]
    width: float
    whitening: NDArray[np.float32]

    def transform(self, features: Rows, file: Path) -> NDArray[np.float32]:
        """Return z float32 (N, C) for features (N, F); it lies in ``file`` and is read when it is asked for.

        Raises:
            OSError: the disk is full.
        """
        # Written, not mapped for writing: a full disk would then be a signal that kills the process, and no error.
        with file.open("wb") as rows:
            for start in range(0, len(features), ROWS):
                likeness = np.exp(-self.width * _distances(features[start : start + ROWS], self.centers))
                rows.write((likeness @ self.whitening).astype(np.float32).tobytes())
        return np.memmap(file, np.float32, "r", shape=(len(features), len(self.centers)))


def choose_rbf_centers(features: Rows, count: int, seed: int) -> RbfCenters:
    """Return ``count`` rows of ``features``, float32 (N, F), drawn by ``seed``, as centers.

    Raises:
        VisionError: there are fewer rows.
    """
    if len(features) < count:
        raise VisionError(
            f"{count} RBF centers from {len(features)} training images; set rbf_centers to at most {len(features)}"
        )
    chosen = np.sort(np.random.default_rng(seed).permutation(len(features))[:count])
    centers = np.ascontiguousarray(features[chosen], np.float32)
    distances = _distances(centers, centers)
    width = WIDTH / _typical(distances, centers)
    values, vectors = np.linalg.eigh(np.exp(-width * distances).astype(np.float64))
    roots = np.sqrt(np.maximum(values, values[-1] * SMALLEST))
    return RbfCenters(centers=centers, width=width, whitening=(vectors / roots).astype(np.float32))


def _typical(distances: NDArray[np.float32], centers: NDArray[np.float32]) -> float:
    """Return the median of the squared distances of centers that differ; if none do, one that keeps them equal."""
    length = float((centers * centers).sum(1).mean())
    apart = distances[distances > EQUAL * length]
    return float(np.median(apart)) if apart.size else length or 1.0


def _distances(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the squared distances (N, C) of rows."""
    squares = (left * left).sum(1)[:, None] + (right * right).sum(1)[None]
    distances: NDArray[np.float32] = np.maximum(squares - 2 * left @ right.T, 0)
    return distances


def set_rbf_head(network: nn.Cell, centers: RbfCenters, dense: nn.Dense) -> None:
    """Give ``network`` the RBF units of ``centers``, and what ``dense`` learned on their whitened outputs."""
    head = network.head
    head.rbf.centers.set_data(Tensor(centers.centers))
    head.rbf.width.set_data(Tensor(np.array([centers.width], np.float32)))
    head.dense.weight.set_data(Tensor(dense.weight.asnumpy() @ centers.whitening.T))  # equal on the units themselves
    if dense.has_bias:
        head.dense.bias.set_data(Tensor(dense.bias.asnumpy()))
