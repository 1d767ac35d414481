"""Train the upper layers of a backbone after the head (LP-FT, Kumar et al. 2022, arXiv:2202.10054).

    python -m benchmarks.fine_tuning HOME photos --layer 20 --rates 0.0001 0.0005 --folds 1 2

HOME's store holds the backbone. Batch norm stays frozen. For each fold: a linear head on the frozen features; the
layers from N on and that head trained further in MindSpore at each rate; and kernel ridge regression on the features
before and after.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
from numpy.typing import NDArray

from configs import Recipe, Settings, read_recipe
from jobs import ModelPin, TrainModel
from model_store import ModelStore
from vision.images import DEFAULT_LIMITS, load_image
from vision.networks import get_weights, set_weights
from vision.serving import ModelFiles, graph_spec_of, open_engine
from vision.training import frozen_spec
from worker.runtime import Runtime
from worker.train.body import frozen_onnx
from worker.train.images import InputReader, find_images, fold_images
from worker.train.network import build, fit_network, with_new_head
from worker.train.training import Progress, Training

HEAD = {"epochs": 30, "lr_max": 0.003, "refit": False}
GAMMA, PENALTY = 2.0, 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--backbone", default="efficientnet-lite1")
    parser.add_argument("--network", default="efficientnet_lite1")
    parser.add_argument("--size", type=int, default=240)
    parser.add_argument("--layer", type=int, default=20)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0001])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--folds", type=int, nargs="+", default=[1], help="which of the five")
    options = parser.parse_args()
    started = time.process_time()
    for number in options.folds:
        _fold(options, number - 1)
        print(f"fold {number}: {time.process_time() - started:.0f} s of CPU until here", flush=True)


def _fold(options: argparse.Namespace, number: int) -> None:
    head = _training(options, "backbone", HEAD)
    dataset, digests = find_images(head)
    network, _ = build(head, len(dataset.classes))
    reader = InputReader(head, network, digests)
    inputs, held = fold_images(head, reader, dataset)[number]
    targets, truth = inputs.samples().targets, held.samples().targets
    mindspore.set_seed(0)
    linear = with_new_head(head, network, len(inputs.images))
    before = fit_network(head, linear, inputs, held).history[-1].val_top1
    ridge = _ridge(inputs.rows[:], targets, held.rows[:], truth)
    print(f"fold {number + 1}, {len(truth)} images: linear head {before:.2%}, ridge {ridge:.2%}", flush=True)
    for rate in options.rates:
        deeper = _training(
            options, f"features.{options.layer}", {"epochs": options.epochs, "lr_max": rate, "batch_norm": "frozen"}
        )
        lower = InputReader(deeper, network, digests)
        maps, held_maps = fold_images(deeper, lower, dataset)[number]
        tuned = with_new_head(deeper, network, len(maps.images))
        set_weights(tuned, get_weights(linear))
        history = fit_network(deeper, tuned, maps, held_maps).history
        images = [*maps.images, *held_maps.images]
        features = _features(deeper, lower, tuned, [image.path for image in images])
        count = len(maps.images)
        after = _ridge(features[:count], maps.samples().targets, features[count:], held_maps.samples().targets)
        tops = ", ".join(f"{epoch.val_top1:.2%}" for epoch in history)
        print(
            f"  from layer {options.layer}, rate {rate:g}: linear head {tops} by epoch; ridge {after:.2%}", flush=True
        )


def _training(options: argparse.Namespace, freeze: str, changes: dict[str, Any]) -> Training:
    table = {
        "network": options.network,
        "backbone": options.backbone,
        "height_px": options.size,
        "width_px": options.size,
        "fit": "crop",
        "freeze": freeze,
        **changes,
    }
    recipe: Recipe = read_recipe(table)
    runtime = Runtime(Settings(home=options.home, data_root=Path("/"), device="cpu"))
    version = ModelStore(runtime.settings.store_root).resolve(options.backbone)
    pin = ModelPin(name=version.name, version=version.version, digest=version.manifest.digest)
    job = TrainModel(
        job=f"fine-tuning-{freeze}-{time.monotonic_ns()}",
        dataset=str(options.dataset.resolve().relative_to("/")),
        name="fine-tuning",
        recipe={},
        backbones=(pin,),
        purpose="folds",
        folds=5,
    )
    return Training(job=job, recipe=recipe, runtime=runtime, progress=Progress(job.job, _say, lambda: False))


def _say(event: Any) -> None:
    print(f"    {event.text}", flush=True)


def _ridge(rows: NDArray[Any], targets: NDArray[np.int64], held: NDArray[Any], truth: NDArray[np.int64]) -> float:
    """Return the accuracy of kernel ridge regression on Hellinger-normalised features."""

    def normalised(features: NDArray[Any]) -> NDArray[np.float64]:
        roots = np.sqrt(np.maximum(features, 0).astype(np.float64))
        scaled: NDArray[np.float64] = roots / np.linalg.norm(roots, axis=1, keepdims=True)
        return scaled

    known, new = normalised(rows), normalised(held)
    kernel, across = (np.exp(-GAMMA * (2 - 2 * one @ known.T)) for one in (known, new))
    wanted = np.eye(int(targets.max()) + 1)[targets]
    solved = np.linalg.solve(kernel + PENALTY * np.eye(len(known)), wanted)
    return float(((across @ solved).argmax(axis=1) == truth).mean())


def _features(training: Training, reader: InputReader, network: Any, paths: list[Path]) -> NDArray[np.float32]:
    spec = frozen_spec(network.spec, "backbone")
    onnx = frozen_onnx(training.runtime.store, None, network, "backbone", spec)
    engine = open_engine(ModelFiles(onnx=onnx, graph=graph_spec_of(spec)))
    try:
        parts = []
        for start in range(0, len(paths), 64):
            some = [load_image(path, reader.preprocessing, DEFAULT_LIMITS).pixels for path in paths[start : start + 64]]
            parts.append(engine.predict(np.stack(some)))
        return np.concatenate(parts)
    finally:
        engine.close()


if __name__ == "__main__":
    main()
