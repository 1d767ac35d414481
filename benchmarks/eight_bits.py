"""``python -m benchmarks.eight_bits HOME PHOTOS``: what a head learns on the features of a backbone in 8 bits.

HOME's store holds the backbone. For each precision, and each number of convolutions that stay in float at both ends:
what an image costs, and the accuracy over five folds, families together, of kernel ridge regression that was trained on
the features of f32, and on those of the very graph that answers.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy import hellinger
from benchmarks.fine_tuning import folds_on
from benchmarks.precisions import cpu_ms
from vision.images import load_image
from vision.serving import CALIBRATION_IMAGES, Engine, ModelFiles, graph_spec_of, quantise
from vision.training import frozen_spec
from worker.models.precision import open_on_cpu
from worker.train.body import frozen_onnx
from worker.train.images import InputReader, find_images, fold_images
from worker.train.network import build

TURNS, TIMED = 5, 128
GAMMA, PENALTY = 2.0, 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--backbone", default="mobilenetv2-imagenet")
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--ends", nargs="*", default=["3,9", "1,4", "0,0"], help="convolutions in float: first,last")
    options = parser.parse_args()
    table = {"network": options.network, "backbone": options.backbone, "freeze": "backbone"}
    size = {"height_px": options.size, "width_px": options.size, "fit": "crop"}
    training = folds_on(options, table | size)
    dataset, digests = find_images(training)
    network, _ = build(training, len(dataset.classes))
    reader = InputReader(training, network, digests)
    folds = fold_images(training, reader, dataset)
    images = [image for _, held in folds for image in held.images]
    fold = np.repeat(np.arange(len(folds)), [len(held.images) for _, held in folds])
    truth = np.array([image.class_index for image in images])
    limits = training.runtime.limits
    pixels = np.stack([load_image(image.path, reader.preprocessing, limits).pixels for image in images])
    spec = frozen_spec(network.spec, "backbone")
    onnx = frozen_onnx(training.runtime.store, None, network, "backbone", spec)
    model = ModelFiles(onnx=onnx, graph=graph_spec_of(spec))
    calibration = pixels[np.linspace(0, len(pixels) - 1, CALIBRATION_IMAGES).astype(int)]

    features: dict[str, NDArray[np.float32]] = {}
    for name, engine in _engines(model, calibration, options.ends):
        with closing(engine):
            cost = statistics.median(cpu_ms(engine, pixels[:TIMED]) for _ in range(TURNS))
            features[name] = np.concatenate([engine.predict(pixels[at : at + 64]) for at in range(0, len(pixels), 64)])
        for source in dict.fromkeys(("f32", name)):
            right = [
                ridge_accuracy(
                    features[source][fold != one], truth[fold != one], features[name][fold == one], truth[fold == one]
                )
                for one in range(len(folds))
            ]
            accuracy = np.average(right, weights=np.bincount(fold))
            print(f"{name:16} {cost:5.2f} CPU ms, trained on {source:16} {accuracy:.2%}", flush=True)


def ridge_accuracy(
    rows: NDArray[np.float32], targets: NDArray[np.int64], held: NDArray[np.float32], truth: NDArray[np.int64]
) -> float:
    """Return the accuracy of kernel ridge regression on Hellinger-normalised features."""
    known, new = (hellinger(np.maximum(features, 0).astype(np.float64)) for features in (rows, held))
    kernel, across = (np.exp(-GAMMA * (2 - 2 * one @ known.T)) for one in (known, new))
    solved = np.linalg.solve(kernel + PENALTY * np.eye(len(known)), np.eye(int(targets.max()) + 1)[targets])
    return float(((across @ solved).argmax(axis=1) == truth).mean())


def _engines(model: ModelFiles, calibration: NDArray[np.uint8], ends: list[str]) -> Iterator[tuple[str, Engine]]:
    for precision in ("f32", "bf16"):
        yield precision, open_on_cpu(model, f"openvino/{precision}")
    for end in ends:
        first, last = map(int, end.split(","))
        quantised = replace(model, int8=quantise(model, calibration, first, last))
        for precision in ("int8", "int8+bf16"):
            yield f"{precision} {end}", open_on_cpu(quantised, f"openvino/{precision}")


if __name__ == "__main__":
    main()
