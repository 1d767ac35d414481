"""``torch_loop.py FOLDER IMAGES f32|bf16``: a DataLoader and timm's MobileNetV2, as a user would write it.

Prints the seconds of the loop: from the first batch asked for to the last row, after start, model and a first pass.
"""

from __future__ import annotations

import csv
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm_network import PREPARE, SIDE_PX, build
from torch.utils.data import DataLoader, Dataset

BATCH = 32


class Photos(Dataset):  # type: ignore[misc]
    """The images of a folder, prepared."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return PREPARE(Image.open(self.paths[index]).convert("RGB"))


def main(folder: str, images: str, precision: str) -> None:
    """Label the first ``images`` photos of a folder into a CSV file that nobody keeps."""
    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = build().to(kind, memory_format=torch.channels_last)
    paths = sorted(Path(folder).rglob("*.jpg"))[: int(images)]
    loader = DataLoader(Photos(paths), batch_size=BATCH, num_workers=os.cpu_count() or 1)
    with torch.inference_mode(), tempfile.TemporaryFile("w+", newline="") as report:
        model(torch.zeros(BATCH, 3, SIDE_PX, SIDE_PX, dtype=kind).to(memory_format=torch.channels_last))
        rows = csv.writer(report)
        started, done = time.perf_counter(), 0
        for batch in loader:
            logits = model(batch.to(kind).to(memory_format=torch.channels_last))
            best = logits.float().softmax(1).topk(5)
            for probabilities, classes in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                rows.writerow([paths[done], *classes, *probabilities])
                done += 1
        print(f"{done} images in {time.perf_counter() - started:.3f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
