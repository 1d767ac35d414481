"""``python -m benchmarks.precisions MODEL``: what an image costs in each precision on this CPU, in turns.

Pixels lie in memory. The figures are CPU time, which other work on the machine changes least. Whether a precision has
passed its gate plays no part.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.settings import load_settings
from model_store.store import ModelStore
from vision.images.preprocess import Preprocessing
from vision.serving.engines import Engine, open_engine, precisions
from worker.models.files import read_files

IMAGES = 128
ENGINE = "openvino"


def main() -> None:
    """Measure and print; ``--json`` prints one object instead of lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="NAME, NAME@ALIAS or NAME:VERSION in the store of SORTLINE_HOME")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options.model, options.turns)
    if options.json:
        print(json.dumps(figures))
        return
    for precision, found in figures.items():
        cpu_ms_an_image, times = found.values()
        print(f"{precision:10} {cpu_ms_an_image:6.2f} CPU ms an image, {times:.2f} times as fast as f32")


def measure(model: str, turns: int) -> dict[str, Any]:
    """Return the figures of each precision that this host and version have: medians of ``turns``."""
    store = ModelStore(load_settings(None).store_root)
    version = store.resolve(model)
    preprocessing = Preprocessing.from_json(version.manifest.preprocessing)
    shape = (IMAGES, preprocessing.height_px, preprocessing.width_px, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    files = read_files(store, version)
    with ExitStack() as stack:
        engines = {
            precision: stack.enter_context(closing(open_engine(files, engine=ENGINE, precision=precision)))
            for precision in precisions(ENGINE, files)
        }
        for engine in engines.values():
            engine.predict(pixels)
        rounds = [{precision: cpu_ms(engine, pixels) for precision, engine in engines.items()} for _ in range(turns)]
    return {
        precision: {
            "CPU ms an image": statistics.median(taken[precision] for taken in rounds),
            "times as fast as f32": statistics.median(taken["f32"] / taken[precision] for taken in rounds),
        }
        for precision in engines
    }


def cpu_ms(engine: Engine, pixels: NDArray[np.uint8]) -> float:
    """Return the CPU milliseconds that an image takes, of all threads."""
    started = time.process_time()
    engine.predict(pixels)
    return 1000 * (time.process_time() - started) / len(pixels)


if __name__ == "__main__":
    main()
