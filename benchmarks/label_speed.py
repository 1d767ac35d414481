"""``python benchmarks/label_speed.py``: how far `sortline label` stays behind what this machine's cores can do.

MobileNetV2 at 224 x 224 with seeded weights, on JPEG files made here. Everything is measured in one run, since these
ratios matter and absolute numbers depend on the machine and its neighbours:

* decode: the loader alone, on all cores
* engine: the engine alone, on pixels in memory
* limit: loader and engine together on the same cores, in one process, no queue
* sortline: the whole command against a running stack: queue, worker, run file, report
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import mindspore
import numpy as np

from model_store.manifest import ClassEntry
from model_store.store import ModelStore
from vision.classifier import Classifier
from vision.decode import DEFAULT_LIMITS, read_file
from vision.engines import ModelFiles, open_engine
from vision.networks.served import build_network
from vision.networks.spec import NetworkSpec
from vision.preprocess import Preprocessing, load_image
from worker.publishing import publish_network

SORTLINE = str(Path(sys.executable).parent / "sortline")
SIDE_PX = 224
CLASSES = 26
PREPROCESSING = Preprocessing(height_px=SIDE_PX, width_px=SIDE_PX)


def main() -> None:
    """Measure and print a table; ``--json`` prints one object instead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sl-") as name:
        home = Path(name)
        paths = write_photos(home / "photos", options.images)
        files = publish(home / "store")
        rates = {**in_process(paths, files), "sortline": whole_command(home, len(paths))}
    rates["sortline / limit"] = rates["sortline"] / rates["limit"]
    if options.json:
        print(json.dumps(rates))
        return
    for what, rate in rates.items():
        print(f"{what:18} {rate:8.2f}" if "/" in what else f"{what:18} {rate:8.0f} img/s")


def write_photos(folder: Path, count: int) -> list[Path]:
    """Write photo-like JPEG files: smooth shapes with a little noise, about 10 KB each."""
    folder.mkdir()
    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = random.integers(0, 256, (7, 7, 3), dtype=np.uint8)
        pixels = cv2.resize(coarse, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        pixels += random.integers(-6, 7, pixels.shape, dtype=np.int16)
        paths.append(folder / f"{number:06d}.jpg")
        cv2.imwrite(str(paths[-1]), np.clip(pixels, 0, 255).astype(np.uint8))
    return paths


def publish(root: Path) -> ModelFiles:
    """Publish the seeded network, in production; return its files."""
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_seed(0)
    store = ModelStore(root)
    spec = NetworkSpec(name="mobilenet_v2", classes=CLASSES, height_px=SIDE_PX, width_px=SIDE_PX)
    version = publish_network(
        store,
        "bench",
        build_network(spec),
        PREPROCESSING,
        golden_images=np.random.default_rng(0).integers(0, 256, (4, SIDE_PX, SIDE_PX, 3), dtype=np.uint8),
        classes=[ClassEntry(label=str(index), folder=str(index)) for index in range(CLASSES)],
        training={},
        scores={},
    )
    store.set_alias("bench", "production", version.version, who="benchmark", why="the only one")
    return ModelFiles(onnx=store.open_file("bench", 1, "serving.onnx"), weights=None, spec=spec)


def in_process(paths: list[Path], files: ModelFiles) -> dict[str, float]:
    """Return the rates of loader, engine and both, in images a second."""
    started = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        pixels = np.stack(list(pool.map(lambda path: load_image(path, PREPROCESSING).pixels, paths)))
    decode = len(paths) / (time.perf_counter() - started)
    engine = open_engine(files)
    engine.predict(pixels[:64])
    started = time.perf_counter()
    engine.predict(pixels)
    alone = len(paths) / (time.perf_counter() - started)
    classifier = Classifier(engine, PREPROCESSING)
    started = time.perf_counter()
    classifier.infer([partial(read_file, path, DEFAULT_LIMITS.max_bytes) for path in paths])
    limit = len(paths) / (time.perf_counter() - started)
    classifier.close()
    return {"decode": decode, "engine": alone, "limit": limit}


def whole_command(home: Path, count: int) -> float:
    """Return images a second of the second of two commands against a running stack, from its start to its end."""
    environment = {**os.environ, "SORTLINE_HOME": str(home)}
    log = home / "up.log"
    with log.open("wb") as output:
        up = subprocess.Popen([SORTLINE, "up", "--no-train"], env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        while b"now, in another terminal" not in log.read_bytes():
            time.sleep(0.05)
        command = [
            SORTLINE,
            "label",
            str(home / "photos"),
            "-o",
            str(home / "r.csv"),
            "-q",
            "--on-existing",
            "overwrite",
        ]
        seconds = 0.0
        for _ in range(2):  # the first loads the model
            started = time.perf_counter()
            subprocess.run(command, env=environment, check=True)
            seconds = time.perf_counter() - started
        return count / seconds
    finally:
        up.send_signal(signal.SIGINT)
        up.wait()


if __name__ == "__main__":
    main()
