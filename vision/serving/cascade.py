"""A cascade of two stages: a cheap network answers the images that it is sure of, the version's own one the rest.

It is decided image by image, by the first stage's highest probability, so that an answer does not depend on which
images lie beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vision.images import Pixels
from vision.serving.engines import Engine
from vision.serving.forwarding import LOADED_AHEAD, Loaded, cut, forward


@dataclass(frozen=True, slots=True)
class FirstStage:
    """The cheap network, of the same pictures and classes, and how probable its answer must be to stand."""

    engine: Engine
    threshold: float

    def is_sure(self, outputs: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which rows of its engine stand; those that are no numbers do, too, since nothing mends them."""
        return ~(self.engine.graph.parted(outputs)[0].max(axis=1) < self.threshold)


def forward_cascade(
    first: FirstStage,
    engine: Engine,
    pool: ThreadPoolExecutor,
    loads: Iterable[Callable[[], Loaded]],
    take: Callable[[Loaded], Pixels],
    ahead: int = LOADED_AHEAD,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the outputs for all pictures of ``loads``, in order, and (N,) which the first stage answered.

    Both stages run at once. The pictures that are not sure wait until they fill a micro-batch of the second.
    """
    taken: deque[Pixels] = deque()  # pictures that the first stage is at
    unsure: deque[Pixels] = deque()
    waiting = 0
    found: list[NDArray[np.float32]] = []
    sure: list[NDArray[np.bool_]] = []
    running: list[Future[NDArray[np.float32]]] = []

    def keep(loaded: Loaded) -> Pixels:
        taken.append(take(loaded))
        return taken[-1]

    for outputs in forward(first.engine, pool, loads, keep, ahead):
        pictures = cut(taken, len(outputs))
        found.append(outputs)
        sure.append(first.is_sure(outputs))
        unsure.append(pictures[~sure[-1]])
        waiting += len(unsure[-1])
        while waiting >= engine.micro_batch:
            running.append(engine.submit(cut(unsure, engine.micro_batch)))
            waiting -= engine.micro_batch
    if waiting:
        running.append(engine.submit(cut(unsure, waiting)))
    if not found:
        return np.zeros((0, engine.graph.columns), np.float32), np.zeros(0, np.bool_)
    whole, early = np.concatenate(found), np.concatenate(sure)
    if running:
        whole[~early] = np.concatenate([future.result() for future in running])
    return whole, early
