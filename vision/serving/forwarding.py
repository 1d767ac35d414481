"""Pictures through an engine: loaded by threads ahead of their turn, cut into micro-batches, answered in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vision.errors import EngineError
from vision.images import Pixels
from vision.serving.engines import Engine

LOADED_AHEAD = 64  # images decoded before the engine wants them: 10 MB at 224 x 224

Loaded = TypeVar("Loaded")


def forward(
    engine: Engine,
    pool: ThreadPoolExecutor,
    loads: Iterable[Callable[[], Loaded]],
    take: Callable[[Loaded], Pixels],
    ahead: int = LOADED_AHEAD,
) -> Iterator[NDArray[np.float32]]:
    """Yield the outputs of all pictures (n, H, W, 3) that ``take`` makes of each load: micro-batches of rows, in order.

    ``loads`` run in ``pool``, at most ``ahead`` of them before their turn; ``take`` runs here, in order. Micro-batches
    are cut across loads, so the same loads always make the same batches.
    """
    blocks: deque[Pixels] = deque()
    held = 0  # pictures in them
    running: deque[Future[NDArray[np.float32]]] = deque()
    waiting = iter(loads)
    loading = deque(pool.submit(load) for load in islice(waiting, ahead))
    try:
        while loading:
            blocks.append(take(loading.popleft().result()))
            held += len(blocks[-1])
            loading.extend(pool.submit(load) for load in islice(waiting, 1))
            while held >= engine.micro_batch:
                running.append(engine.submit(cut(blocks, engine.micro_batch)))
                held -= engine.micro_batch
            while running and running[0].done():
                yield running.popleft().result()
        if held:
            running.append(engine.submit(cut(blocks, held)))
        while running:
            yield running.popleft().result()
    finally:
        for load in loading:  # left over by an error, or by a caller that wants no more
            load.cancel()


def cut(blocks: deque[Pixels], count: int) -> Pixels:
    """Take the first ``count`` pictures off ``blocks``; they are copied only where they lie in several."""
    parts = []
    while count:
        block = blocks.popleft()
        parts.append(block[:count])
        if len(block) > count:
            blocks.appendleft(block[count:])
        count -= len(parts[-1])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def replay(engine: Engine, images: NDArray[np.uint8], expected: NDArray[np.float32], tolerance: float) -> float:
    """Run the golden images that the version was published with; return the largest difference.

    Proves channel order, scaling, padding and weights on the very machine that serves, and warms the engine up.

    Raises:
        EngineError: a probability is further than ``tolerance`` from the published one.
    """
    difference = engine.graph.difference(engine.predict(images), expected)
    if not difference <= tolerance:  # also catches NaN
        raise EngineError(
            f"{engine.describe()} answers the golden images with a difference of {difference:.2g} (allowed: "
            f"{tolerance:.2g}) and would serve this model wrongly; try another SORTLINE_ENGINE or _PRECISION"
        )
    return difference
