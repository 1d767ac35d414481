"""A training job's features and head by MindSpore alone: its data pipeline, its forward passes, its `Model.train`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import mindspore
import mindspore.dataset as data
import numpy as np
from mindspore import nn
from mindspore.dataset import vision

from vision.training.parts import build_frozen

BATCH = 32
SINGLE_IMAGES = 40
HEAD_STEPS = 400  # timed; as many before them compile and warm up


def batched_rate(network: Any, photos: Path, batches: int) -> float:
    """Return augmented views a second in batches of 32; the first batch, which compiles, is left out."""
    return _rate(network, photos, BATCH, batches)


def single_rate(network: Any, photos: Path) -> float:
    """Return augmented views a second, one at a time, as the course project read them."""
    return _rate(network, photos, 1, SINGLE_IMAGES)


def step_seconds(features: int, classes: int) -> float:
    """Return the seconds of one step of `Model.train`: a linear head on features in memory, AdamW, batches of 32."""
    random = np.random.default_rng(0)
    inputs = random.random((HEAD_STEPS * BATCH, features), np.float32)
    targets = random.integers(0, classes, len(inputs)).astype(np.int32)
    rows = data.NumpySlicesDataset((inputs, targets), shuffle=True).batch(BATCH)
    head = nn.Dense(features, classes)
    optimizer = nn.AdamWeightDecay(head.trainable_params(), learning_rate=0.001)
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    model = mindspore.train.Model(head, loss, optimizer)
    model.train(1, rows, dataset_sink_mode=False)
    started = time.perf_counter()
    model.train(1, rows, dataset_sink_mode=False)
    return (time.perf_counter() - started) / HEAD_STEPS


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
