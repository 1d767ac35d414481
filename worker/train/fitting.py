"""Fit the part of a network that is not frozen."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs import Recipe
from vision.networks import build_dense
from vision.training import (
    Epoch,
    FitOptions,
    RbfCenters,
    Samples,
    build_trained,
    choose_rbf_centers,
    fit,
    predict_logits,
    set_rbf_head,
)
from worker.train.progress import Pace
from worker.train.reading import Inputs
from worker.train.training import Training


@dataclass(frozen=True, slots=True)
class Fitted:
    """How a network was fitted."""

    history: list[Epoch]
    best: Epoch
    logits: NDArray[np.float64]  # of the validation images, by the best epoch's weights


def fit_network(training: Training, network: Any, inputs: Inputs, held_out: Inputs, prefix: str = "") -> Fitted:
    """Train the part of ``network`` that is not frozen; it then has the weights of the best epoch.

    Args:
        inputs, held_out: of training and of validation, as the trained part takes them.
        prefix: of what is reported.
    """
    recipe = training.recipe
    samples, validation = inputs.samples(), held_out.samples()
    centers = None
    if network.spec.rbf_centers:
        plain = inputs.only(np.arange(len(inputs.images)), 1)
        centers = choose_rbf_centers(plain.rows, network.spec.rbf_centers, recipe.seed)
        model = build_dense(network.spec)
        samples, validation = (_likeness(training, centers, side) for side in (samples, validation))
    else:
        frozen_statistics = recipe.batch_norm == "frozen" and training.job.backbone is not None
        model = build_trained(network, training.freeze, batch_norm_frozen=frozen_statistics)
    pace = Pace(training.progress, recipe.epochs, prefix)
    history, best = fit(
        model,
        samples,
        validation,
        network.spec.classes,
        fit_options(recipe),
        augment=(training.augmentation or None) if training.freeze == "none" else None,
        checkpoints=training.checkpoints,
        on_epoch=pace.epoch,
        on_step=pace.step,
        cancelled=training.progress.cancelled,
    )
    logits = predict_logits(model, validation.inputs, recipe.batch_size)
    if centers is not None:
        set_rbf_head(network, centers, model)
    return Fitted(history, best, logits)


def fit_options(recipe: Recipe) -> FitOptions:
    """Return the part of a recipe that ``fit`` follows."""
    names = {field.name for field in fields(FitOptions)}
    return FitOptions(**{key: value for key, value in recipe.model_dump().items() if key in names})


def _likeness(training: Training, centers: RbfCenters, samples: Samples) -> Samples:
    """Return how like each RBF center the samples are, in a file of the job."""
    return replace(samples, inputs=centers.transform(samples.inputs, training.scratch_file("likeness")))
