"""``python -m benchmarks.limit MODEL FOLDER``: how far `sortline label` stays behind what this machine's cores can do.

All in one run, since ratios matter and absolute numbers depend on the machine and its neighbours:

* decode: the loader alone, on all cores, the photos in the page cache
* infer: the worker's own engine and precision alone, with pixels in memory
* limit: what the same cores could do if they did both and nothing else, 1 / (1 / decode + 1 / infer)
* sortline: the whole command against a running stack with the model loaded: queue, worker, run file, report
* idle / cores: the part of all cores' time in which they had nothing to do while the command ran

decode and infer are measured before and after the command, and the better of each counts. The folder's photos are
labelled under ``--images`` different names (hard links), as nothing is gained from a name that was seen before.

``--camera`` makes photos as a camera writes them of the folder's first ones, 12 Mpx and about 3 MB each, and adds

* full decode: the same photos decoded whole and then resized, on all cores: what a loader does that does not let the
  JPEG decoder skip what the network won't see
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.home import label, stack
from configs.settings import load_settings
from model_store.store import ModelStore
from vision.images.preprocess import Preprocessing, load_image
from vision.serving.engines import Engine, open_engine
from worker.models.files import read_files

MEASURED_S = 5.0
IN_MEMORY = 256  # images for the engine alone: 38 MB at 224 x 224
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
CAMERA_PHOTOS = 16
CAMERA_WIDTH_PX, CAMERA_HEIGHT_PX = 4000, 3000
CAMERA_NOISE = 9  # standard deviation: 3 MB a photo at the quality below
CAMERA_QUALITY = 90


def main() -> None:
    """Measure and print a table; ``--json`` prints one object instead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="NAME, NAME@ALIAS or NAME:VERSION in the store of SORTLINE_HOME")
    parser.add_argument("folder", type=Path, help="of photos")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--camera", action="store_true", help="12 Mpx photos made of the folder's")
    parser.add_argument("--measured-s", type=float, default=MEASURED_S, help="of decoder and engine alone, each twice")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    photos = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    with tempfile.TemporaryDirectory(prefix="sl-") as name:
        folder = Path(name)
        if options.camera:
            photos = camera_photos(photos[:CAMERA_PHOTOS], folder / "camera")
            print(f"{np.mean([photo.stat().st_size for photo in photos]) / 1e6:.1f} MB a photo", file=sys.stderr)
        link_all(photos, folder / "photos", options.images)
        figures = measure(options.model, photos, folder, options.images, options.measured_s, options.camera)
    if options.json:
        print(json.dumps(figures))
        return
    for what, value in figures.items():
        print(f"{what:18} {value:8.3f}" if "/" in what else f"{what:18} {value:8.0f} img/s")


def measure(
    model: str, photos: list[Path], folder: Path, images: int, measured_s: float, full: bool = False
) -> dict[str, float]:
    """Return all rates, in images a second, and what they are to each other; ``full`` adds that of decoding whole."""
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
    ours, idle = sortline_rate(model, folder, images)
    after = decode_rate(photos, preprocessing, measured_s), infer_rate(photos, preprocessing, engine, measured_s)
    decode, infer = map(max, zip(before, after, strict=True))
    limit = 1 / (1 / decode + 1 / infer)
    figures = {"decode": decode, "infer": infer, "limit": limit, "sortline": ours, "sortline / limit": ours / limit}
    figures["idle / cores"] = idle
    if full:
        whole = load_rate(photos, lambda path: resize_whole(path, preprocessing), measured_s)
        figures.update({"full decode": whole, "decode / full": decode / whole})
    return figures


def decode_rate(photos: list[Path], preprocessing: Preprocessing, measured_s: float) -> float:
    """Return images a second that the loader reads, decodes and resizes on all cores."""
    return load_rate(photos, lambda path: load_image(path, preprocessing).pixels.size, measured_s)


def resize_whole(path: Path, preprocessing: Preprocessing) -> int:
    """Decode every pixel of a photo, then make it small, in OpenCV too."""
    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise SystemExit(f"{path} is no photo that OpenCV decodes")
    size = (preprocessing.width_px, preprocessing.height_px)
    return int(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).size)


def load_rate(photos: list[Path], load: Callable[[Path], int], measured_s: float) -> float:
    """Return images a second that ``load`` does on all cores."""
    cores = os.cpu_count() or 1

    def load_until(deadline: float, first: int) -> int:
        for count, photo in enumerate(islice(cycle(photos), first, None)):
            if time.perf_counter() >= deadline:
                return count
            load(photo)
        raise AssertionError("a cycle has no end")

    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(load, photos[:64]))
        started = time.perf_counter()
        firsts = range(0, cores * 64, 64)  # no two threads read the same photo at once
        loaded = sum(pool.map(load_until, [started + measured_s] * cores, firsts))
        return loaded / (time.perf_counter() - started)


def infer_rate(photos: list[Path], preprocessing: Preprocessing, engine: Engine, measured_s: float) -> float:
    """Return images a second that the engine labels with pixels in memory."""
    pixels: NDArray[np.uint8] = np.stack([load_image(path, preprocessing).pixels for path in photos[:IN_MEMORY]])
    engine.predict(pixels)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < measured_s:
        engine.predict(pixels)
        count += len(pixels)
    return count / (time.perf_counter() - started)


def sortline_rate(model: str, folder: Path, images: int) -> tuple[float, float]:
    """Return images a second of a whole command against a running stack, from its start to its end; the idle part."""
    settings = load_settings(None)
    home = folder / "home"
    home.mkdir()
    more = {"SORTLINE_STORE": str(settings.store_root), "SORTLINE_PRECISION": settings.precision}
    with stack(home, more):
        label(home, min((folder / "photos").iterdir()), more, model=model)  # the worker loads the model
        before = psutil.cpu_times()
        seconds = label(home, folder / "photos", more, model=model).seconds
        idle_s = psutil.cpu_times().idle - before.idle
        return images / seconds, idle_s / seconds / (os.cpu_count() or 1)


def camera_photos(photos: list[Path], folder: Path) -> list[Path]:
    """Write each photo enlarged to 12 Mpx, with noise, as a JPEG of about 3 MB."""
    folder.mkdir()
    random = np.random.default_rng(0)
    made = []
    for photo in photos:
        small = cv2.imread(str(photo))
        if small is None:
            continue
        large = cv2.resize(small, (CAMERA_WIDTH_PX, CAMERA_HEIGHT_PX), interpolation=cv2.INTER_CUBIC)
        noise = random.normal(0, CAMERA_NOISE, large.shape).astype(np.int16)
        made.append(folder / f"{photo.stem}.jpg")
        cv2.imwrite(
            str(made[-1]),
            np.clip(large + noise, 0, 255).astype(np.uint8),
            [cv2.IMWRITE_JPEG_QUALITY, CAMERA_QUALITY],
        )
    return made


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
