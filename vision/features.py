"""Labelled images -> arrays to train on: pixels for a whole network, features of the frozen part for a head.

Both go through the loader and the engines that label, so a head never meets features that serving would not give it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vision.classifier import Classifier
from vision.decode import ImageLimits, read_file
from vision.engines import Engine
from vision.errors import ImageError
from vision.preprocess import Preprocessing, load_image

# Paths -> (features float32 (R, F), the position of each row's path, a line for each image that can't be read).
FeaturesOf = Callable[[Sequence[Path]], tuple[NDArray[np.float32], list[int], list[str]]]


@contextmanager
def extract(engine: Engine, preprocessing: Preprocessing, limits: ImageLimits) -> Iterator[FeaturesOf]:
    """Give a function that runs images through ``engine``; the engine is closed at the end."""
    classifier = Classifier(engine, preprocessing, limits=limits)

    def features_of(paths: Sequence[Path]) -> tuple[NDArray[np.float32], list[int], list[str]]:
        inference = classifier.infer([partial(read_file, path, limits.max_bytes) for path in paths])
        errors = [
            f"{path}: {image}"
            for path, image in zip(paths, inference.images, strict=True)
            if isinstance(image, ImageError)
        ]
        return inference.outputs, inference.positions, errors

    try:
        yield features_of
    finally:
        classifier.close()


def load_all(
    paths: Sequence[Path], preprocessing: Preprocessing, limits: ImageLimits
) -> tuple[NDArray[np.uint8], list[int], list[str]]:
    """Return (pixels uint8 (R, H, W, 3) RGB, the position of each row's path, a line for each unreadable image)."""

    def load(path: Path) -> NDArray[np.uint8] | str:
        try:
            return load_image(path, preprocessing, limits).pixels
        except ImageError as error:
            return f"{path}: {error}"

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        loaded = list(pool.map(load, paths))
    kept = [position for position, pixels in enumerate(loaded) if not isinstance(pixels, str)]
    rows = [pixels for pixels in loaded if not isinstance(pixels, str)]
    empty = np.zeros((0, preprocessing.height_px, preprocessing.width_px, 3), np.uint8)
    return np.stack(rows) if rows else empty, kept, [error for error in loaded if isinstance(error, str)]
