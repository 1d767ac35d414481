"""The network that a job trains: built as the recipe says, on the job's backbone, and fitted where it is not frozen."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields, replace
from typing import Any

import mindspore
import numpy as np
from numpy.typing import NDArray

from configs import Recipe
from vision.networks import (
    HeadSpec,
    NetworkSpec,
    backbone_only,
    build_network,
    get_weights,
    network_kind,
    own_options,
    set_weights,
)
from vision.training import (
    Epoch,
    FitOptions,
    RbfCenters,
    TrainingStopped,
    build_trained,
    choose_rbf_centers,
    class_weights,
    fit,
    logits_of_scores,
    predict_logits,
    rbf_scores,
    scores_of,
    set_rbf_head,
    soft_targets,
    solve_ridge,
)
from worker.train.body import Body, is_own, join_backbones, pretrained
from worker.train.images import Inputs, Split
from worker.train.training import Pace, Training

# What of a recipe is the network's: fields of its spec.
SHAPE = set({
    "height_px", "width_px", "pooling", "intermediate_layers", "scales", "flip_averaging", "hellinger", "rbf_centers",
    "head_bias",
})  # fmt: skip


def build(training: Training, classes: int) -> tuple[Any, Body | None]:
    """Return the network for so many classes, with the backbone's weights; a head alone, on a `Body`, for a graph.

    Raises:
        JobRefused: the backbone is another than the recipe or the producer means, or can't be used like that.
    """
    recipe, pins = training.recipe, training.job.backbones
    shape = {"classes": classes, **recipe.model_dump(include=SHAPE)}
    if not is_own(training):
        body = join_backbones(training)
        own = {key: shape[key] for key in ("classes", "height_px", "width_px", "rbf_centers", "head_bias")}
        return build_network(HeadSpec(width=body.width, **own)), body
    kind = network_kind(recipe.network)
    if not pins:
        return build_network(kind(**own_options(kind, shape))), None
    return pretrained(training, recipe.backbones[0], pins[0], **shape), None


def with_new_head(training: Training, network: Any, images: int) -> Any:
    """Return a copy of ``network`` with a new head, of as many RBF centers as there are ``images``, at most."""
    fresh = build_network(replace(network.spec, rbf_centers=min(network.spec.rbf_centers, images)))
    if training.job.backbones:
        set_weights(fresh, backbone_only(get_weights(network), network.spec), allow_missing_head=True)
    return fresh


@dataclass(frozen=True, slots=True)
class Fitted:
    """How a network was fitted."""

    history: list[Epoch]
    kept: Epoch  # whose weights the network has
    logits: NDArray[np.float64]  # of the validation images, by these weights
    is_refit: bool = False  # whether a network trained on all images has taken its place since


def fit_network(
    training: Training,
    network: Any,
    inputs: Inputs,
    held_out: Inputs,
    prefix: str = "",
    *,
    last_epoch: int | None = None,
) -> Fitted:
    """Train the part of ``network`` that is not frozen; it then has the weights of `Fitted.kept`.

    Args:
        inputs, held_out: of training and of validation, as the trained part takes them.
        prefix: of what is reported.
        last_epoch: where training ends and nothing is chosen, since ``held_out`` is among the ``inputs``.
    """
    if network.spec.rbf_centers:
        centers, solved, fitted = _solve(training, network.spec, inputs, held_out, prefix, last_epoch is None)
        set_rbf_head(network, centers, solved)
        return fitted
    recipe, validation = training.recipe, held_out.samples()
    frozen_statistics = recipe.batch_norm == "frozen" and bool(training.job.backbones)
    model = build_trained(network, training.freeze, batch_norm_frozen=frozen_statistics)
    pace = Pace(training.progress, last_epoch or recipe.epochs, prefix, is_measured=last_epoch is None)
    history, kept = fit(
        model,
        inputs.samples(),
        validation,
        network.spec.classes,
        fit_options(recipe),
        augment=(training.augmentation or None) if training.freeze == "none" else None,
        checkpoints=training.checkpoints if last_epoch is None else training.checkpoints / "refit",
        on_epoch=pace.epoch,
        on_step=pace.step,
        cancelled=training.progress.cancelled,
        last_epoch=last_epoch,
    )
    return Fitted(history, kept, predict_logits(model, validation.inputs, recipe.batch_size))


def _solve(
    training: Training, spec: NetworkSpec, inputs: Inputs, held_out: Inputs, prefix: str, is_measured: bool
) -> tuple[RbfCenters, NDArray[np.float64], Fitted]:
    """Return a head on RBF centers, at most one an image, solved at once: a history of a single epoch."""
    recipe, samples, validation, started = training.recipe, inputs.samples(), held_out.samples(), time.perf_counter()
    plain = inputs.only(np.arange(len(inputs.images)), 1)
    centers = choose_rbf_centers(plain.rows, min(spec.rbf_centers, len(inputs.images)), recipe.seed)
    classes = spec.classes
    weights = class_weights(samples.targets, classes, recipe.class_weights)[samples.targets]
    solved = solve_ridge(centers, samples, soft_targets(samples.targets, classes, 0.0), weights, recipe.ridge)
    train_loss = math.nan
    if is_measured:
        train_loss, _, _ = scores_of(rbf_scores(centers, solved, samples.inputs), samples.targets, "squared")
    scores = rbf_scores(centers, solved, validation.inputs)
    loss, top1, top5 = scores_of(scores, validation.targets, "squared")
    seconds = time.perf_counter() - started
    epoch = Epoch(epoch=1, train_loss=train_loss, val_loss=loss, val_top1=top1, val_top5=top5, lr=0.0, seconds=seconds)
    val = f", val {top1:.1%}" if is_measured else ""
    training.progress.report(
        f"{prefix}{len(centers.centers)} RBF centers solved in {seconds:.1f} s{val}", epoch if is_measured else None
    )
    return centers, solved, Fitted([epoch], epoch, logits_of_scores(scores))


def refit(training: Training, built: Any, network: Any, split: Split, fitted: Fitted) -> tuple[Any, Fitted]:
    """Return a network of the same recipe trained on all images; or the given one, where that fails.

    Args:
        built: the network as it was before any training.
        network, fitted: the one that was measured, and how.
    """
    recipe, progress, whole, epochs = training.recipe, training.progress, split.whole, fitted.kept.epoch
    long = "" if network.spec.rbf_centers else f": {epochs} epochs"
    progress.report(f"training on all {len(whole.images)} images, to publish that{long}")
    mindspore.set_seed(recipe.seed)
    last = with_new_head(training, built, len(whole.images))
    try:
        top1 = fit_network(training, last, whole, split.validation, "all images, ", last_epoch=epochs).kept.val_top1
    except TrainingStopped as error:
        if progress.cancelled():
            raise
        progress.report(f"all images: {error}; published is the training before")
        return network, fitted
    # Of images that it was trained on, it can hardly know fewer than a network that was not.
    if top1 < fitted.kept.val_top1 - recipe.gate_accuracy_margin:
        progress.report(f"all images: only {top1:.1%} of those held out before; published is the training before")
        return network, fitted
    return last, replace(fitted, is_refit=True)


def out_of_fold(
    training: Training, network: Any, inputs: Inputs, folds: NDArray[np.int64], epochs: int, what: str
) -> NDArray[np.float64]:
    """Return the logits of all images, each by a network that was trained for so many epochs on the other folds.

    Args:
        network: as it was before any training.
        folds: the number of each image's fold, from 0.
        what: opens what is reported.
    """
    logits, count = np.zeros((len(inputs.images), network.spec.classes)), int(folds.max()) + 1
    for fold in range(count):
        held = np.flatnonzero(folds == fold)
        taken = inputs.only(np.flatnonzero(folds != fold), inputs.views)
        held_out, prefix = inputs.only(held, 1), f"{what}, fold {fold + 1}/{count}, "
        if network.spec.rbf_centers:  # to build a network takes longer than to solve its head
            logits[held] = _solve(training, network.spec, taken, held_out, prefix, False)[2].logits
            continue
        mindspore.set_seed(training.recipe.seed)
        fresh = with_new_head(training, network, len(taken.images))
        logits[held] = fit_network(training, fresh, taken, held_out, prefix, last_epoch=epochs).logits
        training.remove_checkpoints()
    return logits


def fit_options(recipe: Recipe) -> FitOptions:
    names = {field.name for field in fields(FitOptions)}
    return FitOptions(**{key: value for key, value in recipe.model_dump().items() if key in names})
