"""``python -m benchmarks.limit MODEL FOLDER``: how far `sortline label` stays behind what this machine's cores can do.

All in one run, since ratios matter and absolute numbers depend on the machine and its neighbours:

* decode: the loader alone, on all cores, the photos in the page cache
* infer: the worker's own engine and precision alone, with pixels in memory
* limit: what the same cores could do if they did both and nothing else, 1 / (1 / decode + 1 / infer)
* sortline: the whole command against a running stack with the model loaded: queue, worker, run file, report

decode and infer are measured before and after the command, and the better of each counts. The folder's photos are
labelled under ``--images`` different names (hard links), as nothing is gained from a name that was seen before.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.home import label, stack
from configs.settings import load_settings
from model_store.store import ModelStore
from vision.engines import Engine, open_engine
from vision.preprocess import Preprocessing, load_image
from worker.precision import read_files

MEASURED_S = 5.0
IN_MEMORY = 256  # images for the engine alone: 38 MB at 224 x 224
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def main() -> None:
    """Measure and print a table; ``--json`` prints one object instead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="NAME, NAME@ALIAS or NAME:VERSION in the store of SORTLINE_HOME")
    parser.add_argument("folder", type=Path, help="of photos")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--measured-s", type=float, default=MEASURED_S, help="of decoder and engine alone, each twice")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    photos = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    with tempfile.TemporaryDirectory(prefix="sl-") as name:
        folder = Path(name)
        link_all(photos, folder / "photos", options.images)
        figures = measure(options.model, photos, folder, options.images, options.measured_s)
    if options.json:
        print(json.dumps(figures))
        return
    for what, value in figures.items():
        print(f"{what:18} {value:8.3f}" if "/" in what else f"{what:18} {value:8.0f} img/s")


def measure(model: str, photos: list[Path], folder: Path, images: int, measured_s: float) -> dict[str, float]:
    """Return all rates, in images a second, and what they are to each other."""
    settings = load_settings(None)
    store = ModelStore(settings.store_root)
    version = store.resolve(model)
    preprocessing = Preprocessing.from_json(version.manifest.preprocessing)
    engine = open_engine(
        read_files(store, version),
        precision=settings.precision,
        judged={name: proof.passed for name, proof in version.manifest.precisions.items()},
    )
    print(engine.describe(), file=sys.stderr)
    before = decode_rate(photos, preprocessing, measured_s), infer_rate(photos, preprocessing, engine, measured_s)
    ours = sortline_rate(model, folder, images)
    after = decode_rate(photos, preprocessing, measured_s), infer_rate(photos, preprocessing, engine, measured_s)
    decode, infer = map(max, zip(before, after, strict=True))
    limit = 1 / (1 / decode + 1 / infer)
    return {"decode": decode, "infer": infer, "limit": limit, "sortline": ours, "sortline / limit": ours / limit}


def decode_rate(photos: list[Path], preprocessing: Preprocessing, measured_s: float) -> float:
    """Return images a second that the loader reads, decodes and resizes on all cores."""

    def load(path: Path) -> int:
        return load_image(path, preprocessing).pixels.size

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(load, photos[:64]))
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < measured_s:
            count += len(list(pool.map(load, islice(cycle(photos), count, count + 256))))
        return count / (time.perf_counter() - started)


def infer_rate(photos: list[Path], preprocessing: Preprocessing, engine: Engine, measured_s: float) -> float:
    """Return images a second that the engine labels with pixels in memory."""
    pixels: NDArray[np.uint8] = np.stack([load_image(path, preprocessing).pixels for path in photos[:IN_MEMORY]])
    engine.predict(pixels)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < measured_s:
        engine.predict(pixels)
        count += len(pixels)
    return count / (time.perf_counter() - started)


def sortline_rate(model: str, folder: Path, images: int) -> float:
    """Return images a second of a whole command against a running stack, from its start to its end."""
    settings = load_settings(None)
    home = folder / "home"
    home.mkdir()
    more = {"SORTLINE_STORE": str(settings.store_root), "SORTLINE_PRECISION": settings.precision}
    with stack(home, more):
        label(home, min((folder / "photos").iterdir()), more, model=model)  # the worker loads the model
        return images / label(home, folder / "photos", more, model=model).seconds


def link_all(photos: list[Path], folder: Path, count: int) -> None:
    """Give ``count`` names in ``folder`` to the photos, which are copied into it once."""
    folder.mkdir()
    for number, photo in enumerate(islice(cycle(photos), count)):
        path = folder / f"{number:06d}{photo.suffix}"
        if number < len(photos):
            path.write_bytes(photo.read_bytes())
        else:
            os.link(folder / f"{number % len(photos):06d}{photo.suffix}", path)


if __name__ == "__main__":
    main()
