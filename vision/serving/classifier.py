"""A trained network ready to label: engine, labels, preprocessing; decoding and inference side by side."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, pairwise
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from base.errors import ImageError
from base.process import available_cpus
from vision.errors import EngineError
from vision.images import DEFAULT_LIMITS, ImageLimits, Page, Pixels, Preprocessing, load_image
from vision.serving.engines import Engine

LOADED_AHEAD = 64  # images decoded before the engine wants them: 10 MB at 224 x 224
# A thread takes so many at a time, since it would else be woken for each image of 0.2 ms. The last ones go one by one,
# or a core would wait for another's large photos.
TOGETHER = 4
LAST_ALONE = 16

Loaded = TypeVar("Loaded")
Source = Callable[[], bytes | Page]  # returns the bytes of an image file or a picture in it, or raises ImageError


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image: (class index, probability) pairs, the most probable first, or an error."""

    top: list[tuple[int, float]] = field(default_factory=list)
    width_px: int = 0
    height_px: int = 0
    error: ImageError | None = None


class Inference(NamedTuple):
    """What became of a list of images.

    Attributes:
        images: for each, its (width, height) in pixels, or why it could not be read.
        outputs: float32 (R, outputs), a row for each image that could be read, in order.
        seconds: by stage; decode seconds are summed over threads.
    """

    images: list[tuple[int, int] | ImageError]
    outputs: NDArray[np.float32]
    seconds: dict[str, float]


class _Loaded(NamedTuple):
    """Sizes or errors of a few images, the pixels (n, H, W, 3) of those that could be read, and what it took."""

    images: list[tuple[int, int] | ImageError]
    pixels: Pixels
    seconds: float


class Classifier:
    """Labels images with one network. Holds threads and the engine until closed; one chunk at a time.

    Args:
        engine: uint8 (N, H, W, 3) -> probabilities (N, classes), or features.
        preprocessing: with the height and width that the engine expects.
        decode_threads: 0 is one a core.
    """

    def __init__(
        self,
        engine: Engine,
        preprocessing: Preprocessing,
        *,
        limits: ImageLimits = DEFAULT_LIMITS,
        decode_threads: int = 0,
    ) -> None:
        self.engine = engine
        self.preprocessing = preprocessing
        self._limits = limits
        threads = decode_threads or available_cpus()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._loads_ahead = max(LOADED_AHEAD // TOGETHER, 2 * threads)

    def close(self) -> None:
        """End the threads and free the engine."""
        self._pool.shutdown(cancel_futures=True)
        self.engine.close()

    def classify(self, sources: Sequence[Source], top_k: int) -> tuple[list[Outcome], dict[str, float]]:
        """Return one outcome a source, in order, and the seconds of each stage; ``top_k`` labels each at most."""
        images, outputs, seconds = self.infer(sources)
        if not np.isfinite(outputs).all():
            raise EngineError(f"{self.engine.describe()} gave probabilities that are no numbers")
        read = [place for place, image in enumerate(images) if not isinstance(image, ImageError)]
        top = dict(zip(read, top_labels(outputs, top_k), strict=True))
        return [
            Outcome(error=image) if isinstance(image, ImageError) else Outcome(top[place], *image)
            for place, image in enumerate(images)
        ], seconds

    def infer(self, sources: Sequence[Source]) -> Inference:
        """Return the engine's outputs for each image.

        Decoding runs on all cores ahead of inference. Micro-batches are cut in input order from the images that could
        be read, so the same chunk always makes the same batches, and the same bytes in a report.
        """
        started = time.perf_counter()
        images: list[tuple[int, int] | ImageError] = []
        decode_s = 0.0

        def take(loaded: _Loaded) -> Pixels:
            nonlocal decode_s
            decode_s += loaded.seconds
            images.extend(loaded.images)
            return loaded.pixels

        alone = max(0, len(sources) - LAST_ALONE) // TOGETHER * TOGETHER  # from this one on
        starts = [*range(0, alone, TOGETHER), *range(alone, len(sources) + 1)]
        loads = (partial(self._load, sources[start:end]) for start, end in pairwise(starts))
        outputs = list(forward(self.engine, self._pool, loads, take, self._loads_ahead))
        seconds = {"decode_s": round(decode_s, 4), "chunk_s": round(time.perf_counter() - started, 4)}
        return Inference(images, np.concatenate(outputs) if outputs else np.zeros((0, 0), np.float32), seconds)

    def replay(self, images: NDArray[np.uint8], expected: NDArray[np.float32], tolerance: float) -> float:
        """Run the golden images that the version was published with; return the largest difference.

        Proves channel order, scaling, padding and weights on the very machine that serves, and warms the engine up.

        Raises:
            EngineError: a probability is further than ``tolerance`` from the published one.
        """
        difference = float(np.abs(self.engine.predict(images) - expected).max(initial=0.0))
        if not difference <= tolerance:  # also catches NaN
            raise EngineError(
                f"{self.engine.describe()} answers the golden images with a difference of {difference:.2g} (allowed: "
                f"{tolerance:.2g}) and would serve this model wrongly; try another SORTLINE_ENGINE or _PRECISION"
            )
        return difference

    def _load(self, sources: Sequence[Source]) -> _Loaded:
        started = time.perf_counter()
        pixels = np.empty((len(sources), self.preprocessing.height_px, self.preprocessing.width_px, 3), np.uint8)
        images: list[tuple[int, int] | ImageError] = []
        rows = 0
        for source in sources:
            try:
                loaded = load_image(source(), self.preprocessing, self._limits)
            except ImageError as error:
                images.append(error)
            except Exception as error:
                images.append(ImageError("corrupt", f"{type(error).__name__}: {error}"))
            else:
                pixels[rows] = loaded.pixels
                images.append((loaded.width_px, loaded.height_px))
                rows += 1
        return _Loaded(images, pixels[:rows], time.perf_counter() - started)


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
                running.append(engine.submit(_cut(blocks, engine.micro_batch)))
                held -= engine.micro_batch
            while running and running[0].done():
                yield running.popleft().result()
        if held:
            running.append(engine.submit(_cut(blocks, held)))
        while running:
            yield running.popleft().result()
    finally:
        for load in loading:  # left over by an error, or by a caller that wants no more
            load.cancel()


def _cut(blocks: deque[Pixels], count: int) -> Pixels:
    """Take the first ``count`` pictures off ``blocks``; they are copied only where they lie in several."""
    parts = []
    while count:
        block = blocks.popleft()
        parts.append(block[:count])
        if len(block) > count:
            blocks.appendleft(block[count:])
        count -= len(parts[-1])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def top_labels(probabilities: NDArray[np.float32], top_k: int) -> list[list[tuple[int, float]]]:
    """Return the ``top_k`` most probable classes of each row; equal ones in the order of their index."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    values = np.take_along_axis(probabilities, order, axis=1)
    return [
        [(int(index), min(1.0, max(0.0, float(value)))) for index, value in zip(row, row_values, strict=True)]
        for row, row_values in zip(order, values, strict=True)
    ]
