"""``python -m benchmarks.accuracy PHOTOS CACHE NAME=WEIGHTS@SIZE ...``: heads compared on cached features, by folds.

Each NAME is read from a weights file, as `sortline models import` reads it, at SIZE pixels; a second NAME may have the
same file at another size. The pooled maps of every block and of the mirror image are kept in CACHE, so that another
call takes seconds. Heads are kernel ridge regressions on Hellinger-normalised maps (RBF width 1.5 over the median
squared distance), on the families and folds of ``sortline train --folds 5``; of all NAMEs alone, joined, and with their
scores added.

    python -m benchmarks.accuracy waste cache lite1=efficientnet-lite1.pth@240 lite2=efficientnet-lite2.pth@260 \\
        --layers lite1=18 lite2=18 --flip
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.process import available_cpus
from vision.images import ImageLimits, Preprocessing, load_image
from vision.networks import LayeredSpec, backbone_only, build_network, read_foreign, set_weights
from vision.serving import ModelFiles, export_onnx, graph_spec_of, open_engine
from vision.training import Dataset, build_frozen, fit_temperature, fold_by_family, read_dataset, reliability, softmax
from vision.training.rbf import choose_rbf_centers, logits_of_scores

FOLDS = 5
Array = NDArray[Any]


def main() -> None:
    """Print top-1 and calibration error of each network, and of all together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("networks", nargs="+", metavar="NAME=WEIGHTS@SIZE")
    parser.add_argument("--layers", nargs="*", default=[], metavar="NAME=LAYER,LAYER", help="beside the last map")
    parser.add_argument("--flip", action="store_true", help="average with the mirror image")
    parser.add_argument("--ridge", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="each deals other folds")
    options = parser.parse_args()
    dataset = read_dataset(options.photos)
    images = [*dataset.train, *(dataset.validation or ())]
    targets = np.array([image.class_index for image in images], np.int64)
    deals = [fold_by_family(images, folds=FOLDS, seed=seed, known=dataset.families) for seed in options.seeds]
    layers = {name: [int(layer) for layer in chosen.split(",")] for name, chosen in map(_halves, options.layers)}
    joined: list[Array] = []
    added = np.zeros((len(deals), len(images), len(dataset.classes)))
    for name, where in map(_halves, options.networks):
        weights, _, size = where.rpartition("@")
        maps = pooled_maps(dataset, Path(weights), int(size), options.cache / f"{name}-{size}", flip=options.flip)
        features = np.concatenate([hellinger(maps[layer]) for layer in [*layers.get(name, []), max(maps)]], 1)
        joined.append(features)
        scores = [out_of_fold(features, targets, deal, options.ridge) for deal in deals]
        added += scores
        show(name, scores, targets)
    if joined[1:]:
        together = np.concatenate(joined, 1)
        show("joined", [out_of_fold(together, targets, deal, options.ridge) for deal in deals], targets)
        show("scores added", list(added / len(joined)), targets)


def _halves(text: str) -> tuple[str, str]:
    name, _, rest = text.partition("=")
    return name, rest


def pooled_maps(dataset: Dataset, weights: Path, size_px: int, cache: Path, *, flip: bool) -> dict[int, Array]:
    """Return the mean of every map over its places by layer, (N, channels); the last layer's is that of the network."""
    found = read_foreign(weights)
    if not isinstance(found.spec, LayeredSpec):
        raise SystemExit(f"{weights} has no intermediate layers")
    layers = tuple(found.spec.intermediate)
    spec = replace(found.spec, classes=0, height_px=size_px, width_px=size_px, intermediate_layers=layers)
    files = [cache.with_name(f"{cache.name}-{side}.npy") for side in ("plain", "flipped")[: 1 + flip]]
    if not all(file.exists() for file in files):
        cache.parent.mkdir(parents=True, exist_ok=True)
        network = build_network(spec)
        set_weights(network, backbone_only(found.arrays, found.spec), allow_missing_head=True)
        export_onnx(build_frozen(network, "backbone"), cache.with_suffix(".onnx"))
        engine = open_engine(ModelFiles(onnx=cache.with_suffix(".onnx").read_bytes(), graph=graph_spec_of(spec)))
        preprocessing, limits = Preprocessing(height_px=size_px, width_px=size_px), ImageLimits()
        images = [*dataset.train, *(dataset.validation or ())]
        with ThreadPoolExecutor(available_cpus()) as pool:
            pixels = np.stack([*pool.map(lambda image: load_image(image.path, preprocessing, limits).pixels, images)])
        for file, turned in zip(files, (pixels, pixels[:, :, ::-1]), strict=False):
            blocks = [engine.predict(np.ascontiguousarray(turned[at : at + 64])) for at in range(0, len(turned), 64)]
            np.save(file, np.concatenate(blocks))
        engine.close()
    pooled = np.mean([np.load(file) for file in files], axis=0)
    numbers = [*spec.intermediate_layers, len(spec.maps) - 1]
    widths = [*map(spec.intermediate_channels, spec.intermediate_layers), spec.maps[-1][0]]
    return dict(zip(numbers, np.split(pooled, np.cumsum(widths)[:-1], axis=1), strict=True))


def hellinger(maps: Array) -> Array:
    """Return the square roots of each row, brought to length 1."""
    scaled: Array = np.sqrt(maps / (maps.sum(1, keepdims=True) + 1e-12))
    return scaled


def out_of_fold(features: Array, targets: NDArray[np.int64], folds: NDArray[np.int64], ridge: float) -> Array:
    """Return scores (N, classes), each image's by a regression on all training images of the other folds."""
    goals = np.eye(int(targets.max()) + 1)[targets]
    scores = np.zeros(goals.shape)
    for fold in range(FOLDS):
        kept, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        units = choose_rbf_centers(features[kept], len(kept), 0)
        system = units.similarities(features[kept]).astype(np.float64) + ridge * np.eye(len(kept))
        scores[held] = units.similarities(features[held]) @ np.linalg.solve(system, goals[kept])
    return scores


def show(name: str, of_deals: list[Array], targets: NDArray[np.int64]) -> None:
    """Print the rates of each deal and their mean."""
    rates = [float((scores.argmax(1) == targets).mean()) for scores in of_deals]
    errors = []
    for scores in of_deals:
        logits = logits_of_scores(scores)
        errors.append(reliability(softmax(logits, fit_temperature(logits, targets)), targets).expected_error)
    each = " ".join(f"{rate:.2%}" for rate in rates)
    print(f"{name:20} top-1 {np.mean(rates):.2%} ({each}), calibration error {np.mean(errors):.2%}", flush=True)


if __name__ == "__main__":
    main()
