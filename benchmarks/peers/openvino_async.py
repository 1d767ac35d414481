"""``openvino_async.py FOLDER IMAGES GRAPH``: OpenVINO's AsyncInferQueue and threads that decode, as users write it.

GRAPH is the ``serving.onnx`` of a version, so that both compute the same. OpenVINO chooses precision (bf16 where the
CPU has it), streams and requests for throughput. Prints the seconds of the loop, after start, model and a first pass.
"""

from __future__ import annotations

import csv
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino


def main(folder: str, images: str, graph: str) -> None:
    """Label the first ``images`` photos of a folder into a CSV file that nobody keeps."""
    core = openvino.Core()
    model = core.read_model(graph)
    _, height, width, _ = [int(side.get_length()) if side.is_static else 1 for side in model.input(0).partial_shape]
    model.reshape([1, height, width, 3])
    queue = openvino.AsyncInferQueue(core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"}))
    cv2.setNumThreads(1)
    found = sorted(Path(folder).rglob("*.jpg"))
    paths = [found[number % len(found)] for number in range(int(images))]
    answers: list[Any] = [None] * len(paths)

    def decode(path: Path) -> Any:
        pixels = cv2.imread(str(path))
        scale = max(height / pixels.shape[0], width / pixels.shape[1])
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        return cv2.cvtColor(pixels[top : top + height, left : left + width], cv2.COLOR_BGR2RGB)[None]

    def take(request: Any, place: int) -> None:
        answers[place] = np.argsort(-request.get_output_tensor(0).data[0])[:5].tolist()

    queue.set_callback(take)
    queue.start_async({0: np.zeros([1, height, width, 3], np.uint8)}, 0)
    queue.wait_all()
    started = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool, tempfile.TemporaryFile("w+", newline="") as report:
        for place, pixels in enumerate(pool.map(decode, paths)):
            queue.start_async({0: pixels}, place)
        queue.wait_all()
        csv.writer(report).writerows([path, *answer] for path, answer in zip(paths, answers, strict=True))
    print(f"{len(paths)} images in {time.perf_counter() - started:.3f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
