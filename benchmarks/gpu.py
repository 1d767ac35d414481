"""``python -m benchmarks.gpu MODEL FOLDER --store STORE``: parity and throughput of ONNX Runtime on a GPU host.

For each precision of the worker's own engine: how far its probabilities are from the published ones on the golden
images, how many photos get the same label as from f32 on the CPU, and images a second from memory. Then the ceiling,
which is the slower of decoding on all cores and inference on the device, since they share nothing; and how close a
whole `sortline label` comes to it, with each number of label processes that share the device and the cores; 0 lets the
worker choose, and prints why it chose so.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, suppress
from hashlib import sha256
from itertools import cycle, product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from base.process import available_cpus
from benchmarks.home import label, stack, temporary_home, wait_for
from benchmarks.limit import link_all
from model_store.store import ModelStore
from vision.images.preprocess import Preprocessing, load_image
from vision.serving.engines import Engine, open_engine, precisions
from worker.device_use import Nvidia
from worker.models.files import read_files

PHOTOS_IN_MEMORY = 1024
WARM_UPS = 5
ENGINE = "onnxruntime"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="NAME[@ALIAS|:VERSION]")
    parser.add_argument("folder", type=Path, help="of JPEG photos")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--device", default="cuda", help="of the label workers")
    parser.add_argument("--images", type=int, default=100_000, help="names of photos that each command labels")
    parser.add_argument("--processes", type=int, nargs="+", default=[0, 1, 4], help="that share the device; 0 is auto")
    parser.add_argument("--repeats", type=int, default=2, help="of each command")
    parser.add_argument("--precisions", nargs="+", help="of whole commands; by default all")
    parser.add_argument("--measured-s", type=float, default=5.0, help="of decoding, and of each precision")
    options = parser.parse_args()
    store = ModelStore(options.store)
    version = store.resolve(options.model)
    preprocessing = Preprocessing.from_json(version.manifest.preprocessing)
    paths = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    decode = decode_rate(paths, preprocessing, options.measured_s)
    print(f"decode, {available_cpus():3} cores {decode:9.0f} img/s", flush=True)
    with ThreadPoolExecutor() as pool:
        pixels = np.stack([image.pixels for image in pool.map(
            lambda path: load_image(path, preprocessing), paths[:PHOTOS_IN_MEMORY])])  # fmt: skip
    files = read_files(store, version)
    golden_file = io.BytesIO(store.open_file(version.name, version.version, "golden.npz"))
    with np.load(golden_file, allow_pickle=False) as golden:
        images, published = golden["images"], golden["outputs"]
    with closing(open_engine(files, engine=ENGINE, device="cpu", precision="f32")) as engine:
        expected = engine.predict(pixels).argmax(axis=1)
    infer: dict[str, float] = {}
    for precision in precisions(ENGINE, files, options.device):
        with closing(open_engine(files, engine=ENGINE, device=options.device, precision=precision)) as engine:
            difference = float(np.abs(engine.predict(images) - published).max())
            equal = (engine.predict(pixels).argmax(axis=1) == expected).mean()
            infer[precision] = infer_rate(engine, pixels, options.measured_s)
            print(
                f"{engine.describe():60} {infer[precision]:9.0f} img/s, golden difference {difference:.1e}, "
                f"{equal:.1%} equal labels",
                flush=True,
            )
    whole_commands(options, paths, decode, infer)


def decode_rate(paths: list[Path], preprocessing: Preprocessing, measured_s: float) -> float:
    """Return images a second that the loader reads, decodes and resizes in a process a core."""
    processes = available_cpus()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(decoded_in, [paths[:1]] * processes, [preprocessing] * processes, [0.1] * processes))
        shares = [paths[number % len(paths) :] for number in range(processes)]
        counts = pool.map(decoded_in, shares, [preprocessing] * processes, [measured_s] * processes)
        return sum(counts) / measured_s


def decoded_in(paths: list[Path], preprocessing: Preprocessing, seconds: float) -> int:
    """Return how many images one process decodes in this time."""
    deadline = time.perf_counter() + seconds
    for count, path in enumerate(cycle(paths)):
        if time.perf_counter() > deadline:
            return count
        load_image(path, preprocessing)
    return 0


def infer_rate(engine: Engine, pixels: NDArray[np.uint8], measured_s: float) -> float:
    """Return images a second that the engine labels with pixels in memory."""
    engine.predict(pixels)  # a device compiles for a shape when it first sees it
    seen, started = 0, time.perf_counter()
    while time.perf_counter() - started < measured_s:
        engine.predict(pixels)
        seen += len(pixels)
    return seen / (time.perf_counter() - started)


def whole_commands(options: argparse.Namespace, paths: list[Path], decode: float, infer: Mapping[str, float]) -> None:
    """Print the rate of a whole command with each precision and number of processes, against a running stack."""
    for precision, processes in product(options.precisions or infer, options.processes):
        more = {
            "SORTLINE_STORE": str(options.store.absolute()),
            "SORTLINE_DEVICE": options.device,
            "SORTLINE_ENGINE": ENGINE,
            "SORTLINE_PRECISION": precision,
            "SORTLINE_PROCESSES": str(processes),
        }
        free = free_bytes()
        with temporary_home() as home, stack(home, more):
            link_all(paths, home / "photos", options.images)
            count, reason = chosen(home)
            for _ in range(WARM_UPS):  # each process loads the model with its first chunk
                label(home, home / "photos", more, model=options.model)
                if len(json.loads((home / "report.summary.json").read_text())["workers"]) == count:
                    break
            runs = [label(home, home / "photos", more, model=options.model) for _ in range(options.repeats)]
            digest = sha256((home / "report.csv").read_bytes()).hexdigest()[:12]
            device_gb, host_gb = (free - free_bytes()) / count / 1e9, resident_bytes() / 1e9
        ceiling = min(decode, infer[precision])
        asked = f"{processes or 'auto'} process{'es' if processes != 1 else ''}" + (reason if not processes else "")
        for done in runs:
            print(
                f"sortline label, {precision}, {asked}: whole command {done.images / done.seconds:.0f} img/s, "
                f"{done.images / done.seconds / ceiling:.1%} of the ceiling {ceiling:.0f}; first chunk to last row "
                f"{done.rate:.0f} img/s, {done.rate / ceiling:.1%}",
                flush=True,
            )
        print(
            f"  each process: {device_gb:.2f} GB of the device, {host_gb:.2f} GB resident; report {digest}", flush=True
        )


def chosen(home: Path) -> tuple[int, str]:
    """Return how many processes the stack's label worker has, and why, as its log says."""
    log = home / "logs" / "up-label-worker.log"
    said = re.compile(r"processes=(\d+) reason=(.+)")
    wait_for(lambda: said.search(log.read_text()), "the worker")
    found = said.search(log.read_text())
    return (int(found[1]), f" ({found[1]}: {found[2]})") if found else (0, "")


def free_bytes() -> int:
    """Return the free memory of the first GPU, 0 without one."""
    return Nvidia().free_memory("0") or 0


def resident_bytes() -> int:
    """Return the memory of the largest label process of this benchmark."""
    found = [0]
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "worker" in process.cmdline():
                found.append(process.memory_info().rss)
    return max(found)


if __name__ == "__main__":
    main()
