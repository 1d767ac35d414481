"""What a network is fitted to: inputs and classes, their batches, weights and masks. Loads no MindSpore."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray


class StoredRows:
    """Chosen rows of an array on disk, read when they are asked for: ``rows[indices]`` is (n, *shape) of ``dtype``."""

    def __init__(self, stored: NDArray[Any], places: NDArray[np.int64], shape: tuple[int, ...], dtype: Any) -> None:
        self._stored, self._places = stored, places
        self.shape = (len(places), *shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    @classmethod
    def of(cls, stored: NDArray[Any]) -> StoredRows:
        """Return all rows of an array (N, ...), as they are."""
        return cls(stored, np.arange(len(stored)), stored.shape[1:], stored.dtype)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, chosen: slice | NDArray[np.int64]) -> NDArray[Any]:
        rows = self._stored[self._places[chosen]]
        if len(rows) and rows.dtype == np.float16 and self.dtype == np.float32:
            rows = cv2.convertFp16(rows.view(np.int16))  # by the CPU's own instruction: a tenth of numpy's time
        return rows.astype(self.dtype, copy=False).reshape(len(rows), *self.shape[1:])

    def only(self, chosen: NDArray[np.int64]) -> StoredRows:
        """Return the rows at ``chosen``, in that order, still on disk."""
        return StoredRows(self._stored, self._places[chosen], self.shape[1:], self.dtype)


Rows = NDArray[Any] | StoredRows


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Network inputs (N, ...), and the class index (N,) of each."""

    inputs: Rows
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)


def grouped_batches(order: NDArray[np.int64], batch_size: int, most: int) -> Iterator[NDArray[np.int64]]:
    """Yield the batches (up to ``most``, ``batch_size``) of an epoch, and at last the short one, if any, as (1, n)."""
    whole = len(order) // batch_size * batch_size
    batches = order[:whole].reshape(-1, batch_size)
    for start in range(0, len(batches), most):
        yield batches[start : start + most]
    if whole < len(order):
        yield order[None, whole:]


def soft_targets(targets: NDArray[np.int64], classes: int, smoothing: float) -> NDArray[np.float32]:
    """Return float32 (N, classes): 1 - smoothing on the true class, and smoothing spread over all of them."""
    goals = np.full((len(targets), classes), smoothing / classes, np.float32)
    goals[np.arange(len(targets)), targets] += 1 - smoothing
    return goals


def class_weights(targets: NDArray[np.int64], classes: int, rule: Literal["none", "balanced"]) -> NDArray[np.float32]:
    """Return float32 (classes,): what an image of each class counts; over all images the mean is 1."""
    if rule == "none":
        return np.ones(classes, np.float32)
    counts = np.bincount(targets, minlength=classes)
    return (len(targets) / np.maximum(counts, 1) / np.count_nonzero(counts)).astype(np.float32)


def dropout_mask(count: int, width: int, dropout: float, random: np.random.Generator) -> NDArray[np.float32]:
    """Return float32 (count, width), or (count, 1) of ones without dropout: what the head's inputs are multiplied by.

    From our generator and not MindSpore's, whose state can't be kept: a resumed training must draw the same masks.
    """
    if not dropout:
        return np.ones((count, 1), np.float32)
    return ((random.random((count, width), np.float32) >= dropout) / (1 - dropout)).astype(np.float32)
