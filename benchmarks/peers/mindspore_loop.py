"""``mindspore_loop.py FOLDER IMAGES BATCH graph|pynative``: MobileNetV2 in MindSpore alone.

In batches: MindSpore's own data pipeline, decoding in parallel. With BATCH 1, a course's loop: open, resize, predict,
next. "pynative" is MindSpore's mode when nobody asks for another. The network is the one that Sortline trains. Prints
the seconds after the first pass, which compiles.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mindspore
import mindspore.dataset as data
import numpy as np
from mindspore.dataset import vision
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from vision.networks.mobilenet_v2 import MobileNetV2Spec
from vision.networks.network import build_network, build_served


def main(folder: str, images: str, batch: str, mode: str) -> None:
    """Label the first ``images`` photos of a folder."""
    mindspore.set_context(mode=mindspore.GRAPH_MODE if mode == "graph" else mindspore.PYNATIVE_MODE)
    mindspore.set_seed(0)
    network = build_served(build_network(MobileNetV2Spec(convention="tf", classes=26, height_px=224, width_px=224)))
    paths = sorted(Path(folder).rglob("*.jpg"))[: int(images)]
    size = int(batch)
    network(mindspore.Tensor(np.zeros((size, 224, 224, 3), np.uint8))).asnumpy()
    started, rows = time.perf_counter(), []
    for pixels in in_batches(paths, size) if size > 1 else one_by_one(paths):
        probabilities = network(pixels).asnumpy()
        best = np.argsort(-probabilities, axis=1)[:, :5]
        rows += [(row.tolist(), line[row].tolist()) for row, line in zip(best, probabilities, strict=True)]
    print(f"{len(rows)} images in {time.perf_counter() - started:.3f} s")


def in_batches(paths: list[Path], size: int) -> Iterator[Any]:
    """Yield the photos in full batches; what is left over would compile the graph again."""

    def read() -> Iterator[tuple[Any]]:
        for path in paths:
            yield (np.fromfile(path, np.uint8),)

    threads = os.cpu_count() or 1
    photos = data.GeneratorDataset(read, ["image"], shuffle=False)
    photos = photos.map([vision.Decode(), vision.Resize((224, 224))], ["image"], num_parallel_workers=threads)
    for (pixels,) in photos.batch(size, drop_remainder=True).create_tuple_iterator(num_epochs=1):
        yield pixels


def one_by_one(paths: list[Path]) -> Iterator[Any]:
    """Yield each photo as a batch of one."""
    for path in paths:
        yield mindspore.Tensor(np.asarray(Image.open(path).convert("RGB").resize((224, 224)))[None])


if __name__ == "__main__":
    main(*sys.argv[1:])
