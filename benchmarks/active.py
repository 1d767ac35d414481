"""``python -m benchmarks.active PHOTOS CACHE``: how many corrections each order of `sortline review` needs.

An oracle corrects: 10 labelled photos a class to begin with, then five rounds of 100. In each round a head as that of
the recipe `photos` is trained on what is labelled, labels the rest, and the first 100 of the review's own order are
labelled truly. Accuracy is of a fifth of the photos that no round sees; families lie on one side. Features of
EfficientNet-Lite1 are kept in CACHE, so that another call needs no network.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import files
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from base.networks import PRETRAINED
from benchmarks.accuracy import hellinger, pooled_maps
from producer.review.images import Collection, ReviewImage
from producer.review.views import Query, Views, k_center
from vision.training import (
    Samples,
    choose_rbf_centers,
    fit_temperature,
    fold_by_family,
    logits_of_scores,
    rbf_scores,
    read_dataset,
    soft_targets,
    softmax,
    solve_ridge,
)

LAYER, SIZE_PX, RIDGE = 18, 240, 0.1  # of the recipe `photos`, whose features are of this map and the last one
FOLDS, START, PARTS = 5, 10, 3  # START: photos of each class; PARTS: what confidences are calibrated by
TOP_K = 5  # labels that a run keeps of an image
ON_FEATURES: Final = "diverse, on features"
ORDERS = ("random", "uncertain", "entropy", "diverse", ON_FEATURES)
COLOURS = ("#888888", "#3a8f4d", "#8e5bb5", "#2a6fbb", "#d9772b")
Array = NDArray[Any]


def main() -> None:
    """Print accuracy by round and order; ``--plot`` draws it, ``--json`` prints one object instead of lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--weights", type=Path, help="of EfficientNet-Lite1; those of the extra `weights` if not given")
    parser.add_argument("--runs", type=int, default=20, help="each holds out another fifth, or deals other fifths")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--corrections", type=int, default=100, help="of a round")
    parser.add_argument("--plot", type=Path, help="a PNG file to draw")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    dataset = read_dataset(options.photos)
    images = [*dataset.train, *(dataset.validation or ())]
    targets = np.array([image.class_index for image in images], np.int64)
    maps = pooled_maps(
        dataset, options.weights or pretrained(), SIZE_PX, options.cache / f"lite1-{SIZE_PX}", flip=False
    )
    features = np.concatenate([hellinger(maps[layer]) for layer in (LAYER, max(maps))], 1).astype(np.float32)
    found: dict[str, list[list[float]]] = {order: [] for order in ORDERS}
    for run in range(options.runs):
        folds = fold_by_family(images, folds=FOLDS, seed=run // FOLDS, known=dataset.families)
        rounds = Rounds(features, targets, folds == run % FOLDS, run)
        for order in ORDERS:
            found[order].append(rounds.accuracy(order, options.rounds, options.corrections))
    rates = {order: np.array(of_runs) for order, of_runs in found.items()}
    if options.plot is not None:
        draw(rates, options.corrections, options.plot)
    if options.json:
        print(json.dumps({order: of_runs.mean(axis=0).tolist() for order, of_runs in rates.items()}))
        return
    show(rates, options.corrections)


def pretrained() -> Path:
    """Return the weights that `sortline models import efficientnet-lite1` takes."""
    known = PRETRAINED["efficientnet-lite1"]
    return next(Path(str(file.locate())) for file in files(known.package) or () if str(file) == known.file)


class Rounds:
    """One deal: photos that are held out, those labelled at the start, and a pool."""

    def __init__(self, features: Array, targets: NDArray[np.int64], is_held: NDArray[np.bool_], seed: int) -> None:
        self._features, self._targets = features, targets
        self._classes = int(targets.max()) + 1
        self._held, self._others, self._seed = np.flatnonzero(is_held), np.flatnonzero(~is_held), seed
        random = np.random.default_rng(seed)
        of_class = (self._others[targets[self._others] == index] for index in range(self._classes))
        self._start = np.concatenate([random.permutation(members)[:START] for members in of_class])

    def accuracy(self, order: str, rounds: int, corrections: int) -> list[float]:
        """Return the part of the held-out photos that is right at the start and after each round."""
        labelled, rates = self._start, [self._measured(self._start)]
        for number in range(rounds):
            pool = np.setdiff1d(self._others, labelled)
            wanted = self._chosen(order, labelled, pool, corrections, number)
            labelled = np.concatenate([labelled, pool[wanted]])
            rates.append(self._measured(labelled))
        return rates

    def _measured(self, labelled: NDArray[np.int64]) -> float:
        scores = self._scores(labelled, self._held)
        return float((scores.argmax(axis=1) == self._targets[self._held]).mean())

    def _scores(self, labelled: NDArray[np.int64], asked: NDArray[np.int64]) -> Array:
        """Return scores (N, classes) by a head whose RBF centers are all of the labelled photos."""
        samples = Samples(inputs=self._features[labelled], targets=self._targets[labelled])
        centers = choose_rbf_centers(samples.inputs, len(labelled), 0)
        goals = soft_targets(samples.targets, self._classes, 0.0)
        solved = solve_ridge(centers, samples, goals, np.ones(len(labelled), np.float32), RIDGE)
        return rbf_scores(centers, solved, self._features[asked])

    def _probabilities(self, labelled: NDArray[np.int64], asked: NDArray[np.int64]) -> Array:
        """Return probabilities, calibrated on answers about labelled photos by heads that have not seen them."""
        parts = np.arange(len(labelled)) % PARTS
        unseen = np.zeros((len(labelled), self._classes))
        for part in range(PARTS):
            unseen[parts == part] = self._scores(labelled[parts != part], labelled[parts == part])
        temperature = fit_temperature(logits_of_scores(unseen), self._targets[labelled])
        return softmax(logits_of_scores(self._scores(labelled, asked)), temperature)

    def _chosen(
        self, order: str, labelled: NDArray[np.int64], pool: NDArray[np.int64], count: int, number: int
    ) -> list[int]:
        """Return the places in the pool of those that a person would see first."""
        if order == "random":
            shuffled: list[int] = np.random.default_rng([self._seed, number]).permutation(len(pool)).tolist()
            return shuffled[:count]
        ranked = [
            [(int(index), float(row[index])) for index in np.argsort(-row, kind="stable")[:TOP_K]]
            for row in self._probabilities(labelled, pool)
        ]
        images = [ReviewImage(str(place), str(place), pairs, "", "") for place, pairs in enumerate(ranked)]
        if order == ON_FEATURES:
            by_margin = sorted(range(len(images)), key=lambda place: images[place].margin)
            doubt = [1 - images[place].margin for place in by_margin]
            points = self._features[pool[by_margin]]
            return [by_margin[place] for place in k_center(points, doubt, count)]
        labels, nowhere = [str(index) for index in range(self._classes)], Path("/")
        collection = Collection(title="", version="", labels=labels, images=images, root=nowhere, corrections=nowhere)
        return Views(collection, dict).open(Query(order=order)).indexes[:count].tolist()


def show(rates: dict[str, Array], corrections: int) -> None:
    """Print accuracy by order and round, and when an order is as good as random is at last."""
    goal = rates["random"][:, -1]
    print("corrections          " + "".join(f"{number * corrections:>14}" for number in range(len(rates["random"][0]))))
    for order, of_runs in rates.items():
        means = of_runs.mean(axis=0)
        cells = [f"{100 * mean:.1f} ± {100 * error:.1f} %" for mean, error in zip(means, errors(of_runs), strict=True)]
        print(f"{order:21}" + "".join(f"{cell:>14}" for cell in cells))
        if reached := np.flatnonzero(means >= goal.mean())[:1].tolist():
            beyond = of_runs[:, reached] - goal[:, None]
            print(
                f"    as random's last after {reached[0] * corrections}; there {100 * beyond.mean():+.2f} "
                f"± {100 * errors(beyond)[0]:.2f} points, run by run"
            )


def errors(of_runs: Array) -> Array:
    """Return the standard error of each column's mean; 0 of a single run."""
    runs, rounds = of_runs.shape
    found: Array = of_runs.std(axis=0, ddof=1) / runs**0.5 if runs > 1 else np.zeros(rounds)
    return found


def draw(rates: dict[str, Array], corrections: int, path: Path) -> None:
    """Draw accuracy by corrections, with a band of one standard error, as a PNG file."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for colour, (order, of_runs) in zip(COLOURS, rates.items(), strict=True):
        seen, mean = np.arange(len(of_runs[0])) * corrections, 100 * of_runs.mean(axis=0)
        error = 100 * errors(of_runs)
        axes.plot(seen, mean, marker="o", color=colour, label=order)
        axes.fill_between(seen, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(100 * rates["random"][:, -1].mean(), color=COLOURS[0], linestyle=":")
    axes.set(xlabel="corrections", ylabel="right of held-out photos, %", xticks=seen)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
