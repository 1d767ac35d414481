"""A trained network ready to label: engine, labels, preprocessing; decoding and inference side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from base.errors import ImageError
from base.process import available_cpus
from vision.errors import EngineError
from vision.images import DEFAULT_LIMITS, ImageLimits, Page, Pixels, Preprocessing, load_image
from vision.serving.cascade import FirstStage, forward_cascade
from vision.serving.engines import Engine
from vision.serving.forwarding import LOADED_AHEAD, forward

# A thread takes so many at a time, since it would else be woken for each image of 0.2 ms. The last ones go one by one,
# or a core would wait for another's large photos.
TOGETHER = 4
LAST_ALONE = 16
OUTLIER_DIGITS = 6

Source = Callable[[], bytes | Page]  # returns the bytes of an image file or a picture in it, or raises ImageError


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image: (class index, probability) pairs, the most probable first, or an error.

    ``outlier``: its score, where the network gives one. ``early``: the first stage of a cascade answered it.
    """

    top: list[tuple[int, float]] = field(default_factory=list)
    width_px: int = 0
    height_px: int = 0
    error: ImageError | None = None
    outlier: float | None = None
    early: bool = False


class Inference(NamedTuple):
    """What became of a list of images.

    Attributes:
        images: for each, its (width, height) in pixels, or why it could not be read.
        outputs: float32 (R, columns), a row for each image that could be read, in order.
        early: bool (R,), whether the first stage of a cascade answered it.
        seconds: by stage; decode seconds are summed over threads.
    """

    images: list[tuple[int, int] | ImageError]
    outputs: NDArray[np.float32]
    early: NDArray[np.bool_]
    seconds: dict[str, float]


class _Loaded(NamedTuple):
    """Sizes or errors of a few images, the pixels (n, H, W, 3) of those that could be read, and what it took."""

    images: list[tuple[int, int] | ImageError]
    pixels: Pixels
    seconds: float


class Classifier:
    """Labels images with one network. Holds threads and the engine until closed; one chunk at a time.

    Args:
        engine: uint8 (N, H, W, 3) -> probabilities (N, classes), perhaps with outlier scores, or features.
        preprocessing: with the height and width that the engine expects.
        decode_threads: 0 is one a core.
        first: the first stage of a cascade, where the version has one that is to be used; it is closed with the engine.
    """

    def __init__(
        self,
        engine: Engine,
        preprocessing: Preprocessing,
        *,
        limits: ImageLimits = DEFAULT_LIMITS,
        decode_threads: int = 0,
        first: FirstStage | None = None,
    ) -> None:
        self.engine = engine
        self.first = first
        self.preprocessing = preprocessing
        self._limits = limits
        threads = decode_threads or available_cpus()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._loads_ahead = max(LOADED_AHEAD // TOGETHER, 2 * threads)

    def close(self) -> None:
        """End the threads and free the engine."""
        self._pool.shutdown(cancel_futures=True)
        self.engine.close()
        if self.first is not None:
            self.first.engine.close()

    def classify(self, sources: Sequence[Source], top_k: int) -> tuple[list[Outcome], dict[str, float]]:
        """Return one outcome a source, in order, and the seconds of each stage; ``top_k`` labels each at most."""
        images, outputs, early, seconds = self.infer(sources)
        if not np.isfinite(outputs).all():
            raise EngineError(f"{self.engine.describe()} gave probabilities that are no numbers")
        probabilities, outliers = self.engine.graph.parted(outputs)
        tops = top_labels(probabilities, top_k)
        scores = (
            [None] * len(tops) if outliers is None else [round(score, OUTLIER_DIGITS) for score in outliers.tolist()]
        )
        read = [place for place, image in enumerate(images) if not isinstance(image, ImageError)]
        found = dict(zip(read, zip(tops, scores, early.tolist(), strict=True), strict=True))

        def outcome(place: int, image: tuple[int, int] | ImageError) -> Outcome:
            if isinstance(image, ImageError):
                return Outcome(error=image)
            top, outlier, is_early = found[place]
            return Outcome(top, *image, outlier=outlier, early=is_early)

        return [outcome(place, image) for place, image in enumerate(images)], seconds

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
        if self.first is not None:
            outputs, early = forward_cascade(self.first, self.engine, self._pool, loads, take, self._loads_ahead)
        else:
            parts = list(forward(self.engine, self._pool, loads, take, self._loads_ahead))
            outputs = np.concatenate(parts) if parts else np.zeros((0, self.engine.graph.columns), np.float32)
            early = np.zeros(len(outputs), np.bool_)
        seconds = {"decode_s": round(decode_s, 4), "chunk_s": round(time.perf_counter() - started, 4)}
        return Inference(images, outputs, early, seconds)

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


def top_labels(probabilities: NDArray[np.float32], top_k: int) -> list[list[tuple[int, float]]]:
    """Return the ``top_k`` most probable classes of each row; equal ones in the order of their index."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    values = np.take_along_axis(probabilities, order, axis=1)
    return [
        [(int(index), min(1.0, max(0.0, float(value)))) for index, value in zip(row, row_values, strict=True)]
        for row, row_values in zip(order, values, strict=True)
    ]
