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
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.settings import load_settings
from model_store.store import ModelStore
from vision.engines import Engine, open_engine
from vision.preprocess import Preprocessing, load_image
from worker.precision import read_files

SORTLINE = str(Path(sys.executable).parent / "sortline")
MEASURED_S = 5.0
IN_MEMORY = 256  # images for the engine alone: 38 MB at 224 x 224
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def main() -> None:
    """Measure and print a table; ``--json`` prints one object instead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="NAME, NAME@ALIAS or NAME:VERSION in the store of SORTLINE_HOME")
    parser.add_argument("folder", type=Path, help="of photos")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    photos = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    with tempfile.TemporaryDirectory(prefix="sl-") as name:
        folder = Path(name)
        link_all(photos, folder / "photos", options.images)
        figures = measure(options.model, photos, folder, options.images)
    if options.json:
        print(json.dumps(figures))
        return
    for what, value in figures.items():
        print(f"{what:18} {value:8.3f}" if "/" in what else f"{what:18} {value:8.0f} img/s")


def measure(model: str, photos: list[Path], folder: Path, images: int) -> dict[str, float]:
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
    before = decode_rate(photos, preprocessing), infer_rate(photos, preprocessing, engine)
    ours = sortline_rate(model, folder, images)
    after = decode_rate(photos, preprocessing), infer_rate(photos, preprocessing, engine)
    decode, infer = map(max, zip(before, after, strict=True))
    limit = 1 / (1 / decode + 1 / infer)
    return {"decode": decode, "infer": infer, "limit": limit, "sortline": ours, "sortline / limit": ours / limit}


def decode_rate(photos: list[Path], preprocessing: Preprocessing) -> float:
    """Return images a second that the loader reads, decodes and resizes on all cores."""

    def load(path: Path) -> int:
        return load_image(path, preprocessing).pixels.size

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(load, photos[:64]))
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < MEASURED_S:
            count += len(list(pool.map(load, islice(cycle(photos), count, count + 256))))
        return count / (time.perf_counter() - started)


def infer_rate(photos: list[Path], preprocessing: Preprocessing, engine: Engine) -> float:
    """Return images a second that the engine labels with pixels in memory."""
    pixels: NDArray[np.uint8] = np.stack([load_image(path, preprocessing).pixels for path in photos[:IN_MEMORY]])
    engine.predict(pixels)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < MEASURED_S:
        engine.predict(pixels)
        count += len(pixels)
    return count / (time.perf_counter() - started)


def sortline_rate(model: str, folder: Path, images: int) -> float:
    """Return images a second of a whole command against a running stack, from its start to its end."""
    home = folder / "home"
    store = load_settings(None).store_root
    environment = {**os.environ, "SORTLINE_HOME": str(home), "SORTLINE_STORE": str(store)}
    command = [SORTLINE, "label", str(folder / "photos"), "-o", str(folder / "r.csv"), "-q", "--model", model]
    with stack(home, environment):
        first = sorted((folder / "photos").iterdir())[0]
        subprocess.run([*command[:2], str(first), *command[3:]], env=environment, check=True)  # loads the model
        started = time.perf_counter()
        subprocess.run([*command, "--on-existing", "overwrite"], env=environment, check=True)
        return images / (time.perf_counter() - started)


@contextmanager
def stack(home: Path, environment: dict[str, str]) -> Iterator[None]:
    """Keep `sortline up` running inside the block."""
    home.mkdir()
    log = home / "up.log"
    with log.open("wb") as output:
        up = subprocess.Popen([SORTLINE, "up", "--no-train"], env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        while b"now, in another terminal" not in log.read_bytes():
            if up.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.05)
        yield
    finally:
        up.send_signal(signal.SIGINT)
        up.wait()


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
