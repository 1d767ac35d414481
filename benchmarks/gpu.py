"""``python -m benchmarks.gpu MODEL FOLDER --store STORE``: parity and throughput of ONNX Runtime on a GPU host.

For each precision of the worker's own engine: how far its probabilities are from the published ones on the golden
images, how many photos get the same label as from f32 on the CPU, and images a second from memory. Then the ceiling,
which is the slower of decoding on all cores and inference on the device, since they share nothing; and how close a
whole `sortline label` comes to it, with each number of label workers that share the device and the cores.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from base.process import available_cpus
from benchmarks.home import SORTLINE, environment, label, stack, temporary_home, wait_for
from benchmarks.limit import link_all
from model_store.store import ModelStore
from vision.images.preprocess import Preprocessing, load_image
from vision.serving.engines import Engine, open_engine, precisions
from worker.models.files import read_files

PHOTOS_IN_MEMORY = 1024
ENGINE = "onnxruntime"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="NAME[@ALIAS|:VERSION]")
    parser.add_argument("folder", type=Path, help="of JPEG photos")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--device", default="cuda", help="of the label workers")
    parser.add_argument("--images", type=int, default=100_000, help="names of photos that each command labels")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="label workers that share the device")
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
    """Print the rate of a whole command with each precision and number of workers, against a running stack."""
    for precision, rate in infer.items():
        for workers in options.workers:
            more = {
                "SORTLINE_STORE": str(options.store.absolute()),
                "SORTLINE_DEVICE": options.device,
                "SORTLINE_ENGINE": ENGINE,
                "SORTLINE_PRECISION": precision,
                "SORTLINE_DECODE_THREADS": str(max(1, available_cpus() // workers)),
            }
            with temporary_home() as home, stack(home, more), more_workers(home, more, workers - 1):
                link_all(paths, home / "photos", options.images)
                label(home, home / "photos", more, model=options.model)  # every worker loads the model
                done = label(home, home / "photos", more, model=options.model)
            ceiling = min(decode, rate)
            print(
                f"sortline label, {precision}, {workers} worker{'s' if workers > 1 else ''}: whole command "
                f"{done.images / done.seconds:9.0f} img/s, {done.images / done.seconds / ceiling:.1%} of the ceiling "
                f"{ceiling:.0f}; {done.rate:.0f} img/s without its start and report",
                flush=True,
            )


@contextmanager
def more_workers(home: Path, more: Mapping[str, str], count: int) -> Iterator[None]:
    """``count`` label workers beside that of the stack, ready to work."""
    broker = f"unix://{home}/run/up/redis.sock"
    env = environment(home, {**more, "SORTLINE_BROKER": broker, "SORTLINE_DATA_ROOT": "/"})
    names = [f"more-{number}" for number in range(count)]
    with ExitStack() as ending, (home / "workers.log").open("ab") as log:
        for name in names:
            command = [SORTLINE, "worker", "--queues", "label", "--name", name]
            worker = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
            ending.callback(worker.wait)
            ending.callback(worker.terminate)
        for name in names:
            check = [SORTLINE, "worker", "--queues", "label", "--name", name, "--check"]
            wait_for(lambda check=check: not subprocess.run(check, env=env, capture_output=True).returncode, name)  # type: ignore[misc]
        yield


if __name__ == "__main__":
    main()
