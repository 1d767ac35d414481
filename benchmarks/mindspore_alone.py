"""The same features as a training job's, by MindSpore alone: its own data pipeline, its own forward passes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import mindspore
import mindspore.dataset as data
from mindspore.dataset import vision

from vision.networks.parts import build_frozen

BATCH = 32
SINGLE_IMAGES = 40


def batched_rate(network: Any, photos: Path, batches: int) -> float:
    """Return augmented views a second in batches of 32; the first batch, which compiles, is left out."""
    return _rate(network, photos, BATCH, batches)


def single_rate(network: Any, photos: Path) -> float:
    """Return augmented views a second, one at a time, as the course project read them."""
    return _rate(network, photos, 1, SINGLE_IMAGES)


def _rate(network: Any, photos: Path, batch: int, batches: int) -> float:
    frozen = build_frozen(network, "backbone")
    side = frozen.spec.height_px
    folder = photos / "train" if (photos / "train").is_dir() else photos
    images = data.ImageFolderDataset(str(folder), shuffle=True, decode=True, num_parallel_workers=2)
    changes = [
        vision.RandomResizedCrop(side, scale=(0.35, 1.0), ratio=(0.75, 1.33)),
        vision.RandomHorizontalFlip(),
        vision.RandomColorAdjust(0.2, 0.2, 0.2),
    ]
    images = images.map(changes, ["image"], num_parallel_workers=2).batch(batch).take(batches + 1)
    started = 0.0
    for number, (pixels, _) in enumerate(images.create_tuple_iterator(num_epochs=1)):
        if number == 1:
            started = time.perf_counter()
        frozen(pixels if pixels.dtype == mindspore.uint8 else pixels.astype(mindspore.uint8)).asnumpy()
    return batch * batches / (time.perf_counter() - started)
