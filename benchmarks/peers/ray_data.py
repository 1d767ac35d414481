"""``ray_data.py FOLDER IMAGES``: Ray Data around timm's MobileNetV2 in f32, as its guide to batch inference has it.

Prints the seconds from the first batch that the loaded network is given to the last row; what Ray has read before that
is a present to it.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from PIL import Image

BATCH = 32
SIDE_PX = 224


class Labeller:
    """The network, once an actor."""

    def __init__(self) -> None:
        from timm_network import PREPARE, build  # here: what Ray ships must not load torchvision on the way

        self.prepare = PREPARE
        torch.set_num_threads(os.cpu_count() or 1)  # Ray allows one thread a CPU asked for
        self.model = build()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        started = time.time()
        with torch.inference_mode():
            pixels = torch.stack([self.prepare(Image.fromarray(image)) for image in batch["image"]])
            best = self.model(pixels).softmax(1).topk(5)
        found = {"class": np.asarray(best.indices), "probability": np.asarray(best.values)}
        return {"path": batch["path"], "started": np.full(len(pixels), started), **found}


def main(folder: str, images: str) -> None:
    """Label the first ``images`` photos of a folder."""
    paths = [str(path) for path in sorted(Path(folder).rglob("*.jpg"))[: int(images)]]
    ray.init(logging_level="ERROR", include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    photos = ray.data.read_images(paths, size=(SIDE_PX, SIDE_PX), mode="RGB", include_paths=True)
    done = photos.map_batches(Labeller, batch_size=BATCH, compute=ray.data.ActorPoolStrategy(size=1)).take_all()
    print(f"{len(done)} images in {time.time() - min(row['started'] for row in done):.3f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
