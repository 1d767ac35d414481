"""Train the upper layers of a backbone after the head (LP-FT, Kumar et al. 2022, arXiv:2202.10054), or distil into it.

    python -m benchmarks.fine_tuning HOME photos --layer 20 --rates 0.0001 0.0005 --epochs 3 --folds 1 2
    python -m benchmarks.fine_tuning HOME photos --goals labels teacher --views 8 --epochs 1 --folds 1 2

HOME's store holds the backbones. For each fold: a linear head on the frozen features, and the layers from N on with
that head trained further in MindSpore at each rate, batch norm frozen; before and after, also kernel ridge regression
on the features. With the goal "teacher" both learn, instead of labels, what the joined networks of a recipe answer to
the same views of the fold's training images, which are all that it knows (Beyer et al. 2021, arXiv:2106.05237).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
from mindspore import nn
from numpy.typing import NDArray

from benchmarks.accuracy import hellinger
from configs import Settings, read_recipe, read_toml
from jobs import ModelPin, TrainModel
from model_store import ModelStore
from vision.networks import get_weights, set_weights
from vision.training import (
    Digests,
    FitOptions,
    Samples,
    build_trained,
    choose_rbf_centers,
    logits_of_scores,
    predict_logits,
    rbf_scores,
    soft_targets,
    softmax,
    solve_ridge,
)
from vision.training.options import learning_rates
from vision.training.samples import Rows
from vision.training.steps import Steps, WeightedLoss, make_optimizer
from worker.runtime import Runtime
from worker.train.images import InputReader, Inputs, find_images, fold_images
from worker.train.network import build, fit_options, with_new_head
from worker.train.training import Progress, Training

HEAD = {"epochs": 30, "lr_max": 0.003}
VIEW = {"crop_area": 0.5, "crop_ratio": 4 / 3, "flip": True}
RIDGE = 0.1
BATCH = 32  # of a forward pass

Ridge = Callable[[Rows], NDArray[np.float64]]  # features (N, F) -> scores (N, classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--backbone", default="efficientnet-lite1")
    parser.add_argument("--network", default="efficientnet_lite1")
    parser.add_argument("--size", type=int, default=240)
    parser.add_argument("--layer", type=int, default=20, help="the first that is trained")
    parser.add_argument("--intermediate", type=int, default=18, help="a frozen layer, joined to the last map for ridge")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0001])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--folds", type=int, nargs="+", default=[1], help="which of the five")
    parser.add_argument("--views", type=int, default=0, help="random crops of each image beside the plain one")
    parser.add_argument("--goals", nargs="+", choices=("labels", "teacher"), default=["labels"])
    parser.add_argument("--teacher", type=Path, default=Path("configs/waste26-best.toml"), help="its recipe")
    parser.add_argument("--temperature", type=float, default=0.5, help="of the teacher's answers")
    options = parser.parse_args()
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    started = time.process_time()
    for number in options.folds:
        _fold(options, number)
        print(f"fold {number}: {time.process_time() - started:.0f} s of CPU time until here", flush=True)


def _fold(options: argparse.Namespace, number: int) -> None:
    network_of = {"network": options.network, "backbone": options.backbone}
    small = {**network_of, "height_px": options.size, "width_px": options.size, "fit": "crop"}
    views = {"augmentation": {**VIEW, "repeat": options.views}}
    head = folds_on(options, small | HEAD)
    dataset, digests = find_images(head)
    network, _ = build(head, len(dataset.classes))
    inputs, held_out = fold_images(head, InputReader(head, network, digests), dataset)[number - 1]
    cut = {"freeze": f"features.{options.layer}", "epochs": options.epochs, "batch_norm": "frozen"}
    upper = [folds_on(options, small | cut | views | {"lr_max": rate}) for rate in options.rates]
    lower = InputReader(upper[0], network, digests)
    maps = lower.read(inputs.images, upper[0].freeze, options.views)
    held_maps = lower.read(held_out.images, upper[0].freeze)
    wide = folds_on(options, small | {"intermediate_layers": [options.intermediate], "hellinger": True})
    wider = InputReader(wide, build(wide, len(dataset.classes))[0], digests)
    sides = _plain(maps), held_maps
    middle = [wider.read(side.images, "backbone").rows[:][:, : -inputs.rows.shape[1]] for side in sides]
    print(f"fold {number}: {len(maps.images)} images to train on, {len(held_maps.images)} held out", flush=True)
    compare = _Comparison(*sides, middle, len(dataset.classes))

    def upper_part(whole: nn.Cell) -> nn.Cell:
        return build_trained(whole, upper[0].freeze, batch_norm_frozen=True)

    body = upper_part(network).body
    compare.ridge("frozen", body)
    features = predict_logits(body, maps.rows, BATCH).astype(np.float32)
    goals = {"labels": soft_targets(maps.samples().targets, len(dataset.classes), 0.0)}
    if "teacher" in options.goals:
        table = read_toml(options.teacher)["training"]
        # Half of the views are flipped anyway.
        teacher = folds_on(options, table | views | {"flip_averaging": False})
        goals["teacher"] = _answers(teacher, digests, maps, held_maps, options.temperature, compare)
    for goal in options.goals:
        mindspore.set_seed(0)
        linear = with_new_head(head, network, len(maps.images))
        _train(fit_options(head.recipe), linear.head, features, goals[goal])
        compare.answers(f"{goal}, frozen", "linear head", predict_logits(upper_part(linear), held_maps.rows, BATCH))
        for training in upper:
            tuned = with_new_head(head, network, len(maps.images))
            set_weights(tuned, get_weights(linear))
            model = upper_part(tuned)
            _train(fit_options(training.recipe), model, maps.rows, goals[goal])
            name = f"{goal}, rate {training.recipe.lr_max:g}"
            compare.answers(name, "linear head", predict_logits(model, held_maps.rows, BATCH))
            compare.ridge(name, model.body)


@dataclass
class _Comparison:
    """Prints how many of the held-out images are answered rightly.

    Attributes:
        known, held_out: maps that go into the trained layers.
        middle: of both, the features of the frozen layer that are joined to the last map's.
        first: by kind of answer, which images were right when it was printed for the first time.
    """

    known: Inputs
    held_out: Inputs
    middle: list[NDArray[np.float32]]
    classes: int
    first: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def ridge(self, name: str, body: Any) -> None:
        """Print the answers of kernel ridge regression on the features that ``body`` makes of the maps."""
        known, new = (hellinger(predict_logits(body, side.rows, BATCH)) for side in (self.known, self.held_out))
        self.answers(name, "ridge regression", self._ridge(known)(new))
        known, new = (np.concatenate(both, axis=1) for both in zip(self.middle, (known, new), strict=True))
        self.answers(name, "ridge regression, intermediate map joined", self._ridge(known)(new))

    def answers(self, name: str, kind: str, scores: NDArray[Any]) -> None:
        """Print how many are right, and how many of them were not, or the other way round, the first time."""
        right = scores.argmax(axis=1) == self.held_out.samples().targets
        first = self.first.setdefault(kind, right)
        changed = f"{(right & ~first).sum()} gained, {(first & ~right).sum()} lost"
        print(f"  {name}, {kind}: {right.mean():.2%} ({right.sum()} right; {changed})", flush=True)

    def _ridge(self, features: NDArray[Any]) -> Ridge:
        return _ridge(features, self.known.samples().targets, self.classes)


def _answers(
    training: Training, digests: Digests, maps: Inputs, held_out: Inputs, temperature: float, compare: _Comparison
) -> NDArray[np.float32]:
    """Return the teacher's probabilities (V * N, classes) for all views of the images of ``maps``."""
    network, body = build(training, compare.classes)
    reader = InputReader(training, network, digests, body)
    seen = reader.read(maps.images, "backbone", maps.views - 1)
    new = reader.read(held_out.images, "backbone")
    reader.close()
    ridge = _ridge(_plain(seen).rows, _plain(seen).samples().targets, compare.classes)
    compare.answers("teacher", "its own", ridge(new.rows))
    probabilities = softmax(logits_of_scores(ridge(seen.rows)), temperature)
    own = probabilities[np.arange(len(probabilities)), seen.samples().targets]
    by_view = ", ".join(f"{view.mean():.2f}" for view in own.reshape(maps.views, -1))
    print(f"  teacher, mean probability of the label, by view: {by_view}", flush=True)
    return probabilities.astype(np.float32)


def _ridge(features: Rows, targets: NDArray[np.int64], classes: int) -> Ridge:
    """Return kernel ridge regression as heads on RBF centers have it, on all of ``features``."""
    known = Samples(inputs=features, targets=targets)
    centers = choose_rbf_centers(features, len(targets), 0)
    goals, weights = soft_targets(targets, classes, 0.0), np.ones(len(targets), np.float32)
    return partial(rbf_scores, centers, solve_ridge(centers, known, goals, weights, RIDGE))


def _plain(inputs: Inputs) -> Inputs:
    return inputs.only(np.arange(len(inputs.images)), 1)


def _train(options: FitOptions, model: nn.Cell, inputs: Rows, goals: NDArray[np.float32]) -> None:
    """Train ``model`` as `vision.training.fit` does, towards ``goals`` float32 (N, classes) instead of classes."""
    size, random = options.batch_size, np.random.default_rng(options.seed)
    steps_an_epoch = len(goals) // size
    optimizer = make_optimizer(model, options, learning_rates(options, options.epochs * steps_an_epoch))
    steps = Steps(WeightedLoss(model, options.loss, is_masked=False), optimizer, 1, size)
    steps.set_train(True)
    weights, mask = np.full(size, 1 / size, np.float32), np.ones((size, 1), np.float32)
    for _ in range(options.epochs):
        for batch in random.permutation(len(goals))[: steps_an_epoch * size].reshape(-1, size):
            steps.run(1, inputs[batch], goals[batch], weights, mask)


def folds_on(options: argparse.Namespace, table: dict[str, Any]) -> Training:
    """Return a job that asks for five folds of the dataset, with the recipe of the table; HOME holds its backbones."""
    recipe = read_recipe(table)
    runtime = Runtime(Settings(home=options.home, data_root=Path("/"), device="cpu"))
    store = ModelStore(runtime.settings.store_root)
    versions = [store.resolve(backbone.name) for backbone in recipe.backbones]
    job = TrainModel(
        job=f"fine-tuning-{recipe.freeze}-{time.monotonic_ns()}",
        dataset=str(options.dataset.resolve().relative_to("/")),
        name="fine-tuning",
        recipe={},
        backbones=tuple(ModelPin(name=v.name, version=v.version, digest=v.manifest.digest) for v in versions),
        purpose="folds",
        folds=5,
    )
    return Training(job=job, recipe=recipe, runtime=runtime, progress=Progress(job.job, _say, lambda: False))


def _say(event: Any) -> None:
    print(f"    {event.text}", flush=True)


if __name__ == "__main__":
    main()
