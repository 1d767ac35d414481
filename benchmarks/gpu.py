"""``python -m benchmarks.gpu MODEL FOLDER --store STORE``: parity and throughput of ONNX Runtime on a GPU host.

For each provider: how far its probabilities are from the published ones on the golden images, how many photos get the
same label as from f32 on the CPU, and images a second from memory. Then the ceiling, which is the slower of decoding on
all cores and inference on the device, since they share nothing; and how close a whole `sortline label` comes to it.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.home import label, stack, temporary_home
from model_store.store import ModelStore
from vision.preprocess import Preprocessing, load_image

CPU = "CPUExecutionProvider"
PROVIDERS: dict[str, dict[str, Any]] = {
    CPU: {},
    "CUDAExecutionProvider": {},
    "TensorrtExecutionProvider": {"trt_fp16_enable": True},
}
PHOTOS_IN_MEMORY = 1024
COMPARED = 256


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="NAME[@ALIAS|:VERSION]")
    parser.add_argument("folder", type=Path, help="of JPEG photos")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--device", default="cuda", help="of the label worker")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--measured-s", type=float, default=5.0, help="of each provider")
    options = parser.parse_args()
    store = ModelStore(options.store)
    version = store.resolve(options.model)
    graph = store.open_file(version.name, version.version, "serving.onnx")
    golden_file = io.BytesIO(store.open_file(version.name, version.version, "golden.npz"))
    pixels, decode = decoded(options.folder, Preprocessing.from_json(version.manifest.preprocessing))
    print(f"decode, all cores{'':23} {decode:9.0f} img/s")
    with np.load(golden_file, allow_pickle=False) as golden:
        images, published = golden["images"], golden["outputs"]
    infer, expected = 0.0, probabilities(session(graph, CPU), pixels[:COMPARED])
    for provider in (name for name in PROVIDERS if name in onnxruntime.get_available_providers()):
        runtime = session(graph, provider)
        difference = float(np.abs(probabilities(runtime, images) - published).max())
        equal = (probabilities(runtime, pixels[:COMPARED]).argmax(1) == expected.argmax(1)).mean()
        infer = rate(runtime, pixels, options.batch, options.measured_s)  # the last one is the fastest that there is
        print(f"{provider:40} {infer:9.0f} img/s, golden difference {difference:.1e}, {equal:.1%} equal labels")
    whole = whole_command(options)
    ceiling = min(decode, infer)
    print(
        f"sortline label, whole command{'':11} {whole:9.0f} img/s, {whole / ceiling:.1%} of the ceiling {ceiling:.0f}"
    )


def decoded(folder: Path, preprocessing: Preprocessing) -> tuple[NDArray[np.uint8], float]:
    """Return the first photos as the network takes them, and how many a second all cores decode."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:PHOTOS_IN_MEMORY]
    started = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pixels = list(pool.map(lambda path: load_image(path, preprocessing).pixels, paths))
    return np.stack(pixels), len(paths) / (time.perf_counter() - started)


def session(graph: bytes, provider: str) -> Any:
    """Return the graph on a provider; what it can't compute falls to the CPU."""
    return onnxruntime.InferenceSession(graph, providers=[(provider, PROVIDERS[provider]), CPU])


def probabilities(runtime: Any, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the outputs for these pixels, in one pass."""
    outputs: NDArray[np.float32] = runtime.run(None, {runtime.get_inputs()[0].name: pixels})[0]
    return outputs


def rate(runtime: Any, pixels: NDArray[np.uint8], batch: int, measured_s: float) -> float:
    """Return images a second in passes of ``batch``."""
    batches = [pixels[start : start + batch] for start in range(0, len(pixels) - batch + 1, batch)] or [pixels]
    probabilities(runtime, batches[0])  # a provider compiles for a shape when it first sees it
    seen, started = 0, time.perf_counter()
    while time.perf_counter() - started < measured_s:
        for part in batches:
            probabilities(runtime, part)
            seen += len(part)
    return seen / (time.perf_counter() - started)


def whole_command(options: argparse.Namespace) -> float:
    """Return images a second of the second of two commands against a running stack; the first loads the model."""
    where = {"SORTLINE_STORE": str(options.store.absolute()), "SORTLINE_DEVICE": options.device}
    where |= {"SORTLINE_ENGINE": "onnxruntime"}
    with temporary_home() as home, stack(home, where):
        label(home, options.folder.absolute(), where, model=options.model)
        done = label(home, options.folder.absolute(), where, model=options.model)
    return done.images / done.seconds


if __name__ == "__main__":
    main()
