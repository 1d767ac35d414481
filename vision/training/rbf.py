"""A head on RBF units: centers set from training features, and its weights by kernel ridge regression.

A head on RBF units k(x) = exp(-width |x - center|^2) separates classes that no plane in feature space does. With the
squared distance to 1 for the true class and 0 for the others as loss, and the length of the function in the space of
the kernel as penalty, the best weights are the solution of one linear system (Rifkin et al. 2003, "Regularized
least-squares classification"; with fewer centers than images, section 3 of Rudi et al. 2015, arXiv:1507.04717).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Tensor, nn
from numpy.typing import NDArray

from vision.errors import VisionError
from vision.networks import SCORE_FLOOR
from vision.training.samples import Rows, Samples

WIDTH = 1.5  # over the median squared distance of two centers that differ; from 1 to 2 the score hardly moves
EQUAL = 1e-5  # part of a mean squared length below which a squared distance is float32's rounding
JITTER = 1e-7  # part of the system's mean diagonal that is added to it, so that equal centers have a solution
ROWS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RbfCenters:
    """What RBF units need.

    Attributes:
        centers: float32 (C, F), features of training images.
        width: of the RBF units.
    """

    centers: NDArray[np.float32]
    width: float

    def similarities(self, features: NDArray[Any]) -> NDArray[Any]:
        """Return k (N, C) of features (N, F), in their precision."""
        found: NDArray[Any] = np.exp(-self.width * _distances(features, self.centers.astype(features.dtype)))
        return found


def choose_rbf_centers(features: Rows, count: int, seed: int) -> RbfCenters:
    """Return ``count`` rows of ``features``, float32 (N, F), drawn by ``seed``, as centers.

    Raises:
        VisionError: there are fewer rows.
    """
    if len(features) < count:
        raise VisionError(
            f"{count} RBF centers from {len(features)} training images; set rbf_centers to at most {len(features)}"
        )
    centers = np.ascontiguousarray(features[draw_rbf_centers(len(features), count, seed)], np.float32)
    return RbfCenters(centers=centers, width=WIDTH / _typical(_distances(centers, centers), centers))


def draw_rbf_centers(images: int, count: int, seed: int) -> NDArray[np.int64]:
    """Return the places of the ``images`` whose features are the ``count`` centers."""
    return np.sort(np.random.default_rng(seed).permutation(images)[:count])


def nearest_of_other_families(
    features: Rows, centers: NDArray[np.int64], families: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return each row's squared distance (N,) from the nearest center of another family; infinite where there is none.

    Args:
        features: (N, F).
        centers: places of the rows that are centers.
        families: (N,), the family of each row.
    """
    placed, found = features[centers].astype(np.float32), np.empty(len(features))
    for start in range(0, len(features), ROWS):
        some = slice(start, start + ROWS)
        distances = _distances(features[some].astype(np.float32), placed)
        distances[families[some, None] == families[centers]] = np.inf
        found[some] = distances.min(axis=1)
    return found


def solve_ridge(
    found: RbfCenters, training: Samples, goals: NDArray[np.float32], weights: NDArray[np.float32], penalty: float
) -> NDArray[np.float64]:
    """Return the head's weights (C, classes) with the least weighted squared distance to ``goals``, plus the penalty.

    Args:
        training: features (N, F) of images.
        goals: (N, classes).
        weights: (N,), what each image counts.
        penalty: what the squared length of a class's function in the kernel's space counts, against one image.
    """
    if len(found.centers) == len(training):  # each image is a center: the same solution without the normal equations
        system = found.similarities(found.centers).astype(np.float64)
        system[np.diag_indices_from(system)] += penalty / weights + JITTER
        return np.linalg.solve(system, goals)
    centers = found.centers.astype(np.float64)
    system = penalty * found.similarities(centers)
    right = np.zeros((len(centers), goals.shape[1]))
    for start in range(0, len(training), ROWS):
        some = slice(start, start + ROWS)
        likeness = found.similarities(training.inputs[some].astype(np.float32)).astype(np.float64)
        weighted = likeness * weights[some, None]
        system += weighted.T @ likeness
        right += weighted.T @ goals[some]
    system[np.diag_indices_from(system)] += JITTER * np.trace(system) / len(system)
    return np.linalg.solve(system, right)


def rbf_scores(found: RbfCenters, solved: NDArray[np.float64], features: Rows) -> NDArray[np.float64]:
    """Return what the head's layer gives (N, classes) for features (N, F)."""
    blocks = (features[start : start + ROWS].astype(np.float32) for start in range(0, len(features), ROWS))
    return np.concatenate([found.similarities(block) @ solved for block in blocks])


def logits_of_scores(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logits that `vision.networks.network.Head` makes of them."""
    logits: NDArray[np.float64] = np.log(np.maximum(scores, 0) + SCORE_FLOOR) + np.minimum(scores, 0)
    return logits


def set_rbf_head(network: nn.Cell, found: RbfCenters, solved: NDArray[np.float64]) -> None:
    """Give ``network`` the RBF units of ``found`` and the weights ``solved``; its bias, if it has one, becomes 0."""
    head = network.head
    head.rbf.centers.set_data(Tensor(found.centers))
    head.rbf.width.set_data(Tensor(np.array([found.width], np.float32)))
    head.dense.weight.set_data(Tensor(np.ascontiguousarray(solved.T, np.float32)))
    if head.dense.has_bias:
        head.dense.bias.set_data(Tensor(np.zeros(solved.shape[1], np.float32)))


def _typical(distances: NDArray[np.float32], centers: NDArray[np.float32]) -> float:
    """Return the median of the squared distances of centers that differ; if none do, one that keeps them equal."""
    length = float((centers * centers).sum(1).mean())
    apart = distances[distances > EQUAL * length]
    return float(np.median(apart)) if apart.size else length or 1.0


def _distances(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """Return the squared distances (N, C) of rows."""
    squares = (left * left).sum(1)[:, None] + (right * right).sum(1)[None]
    distances: NDArray[Any] = np.maximum(squares - 2 * left @ right.T, 0)
    return distances
