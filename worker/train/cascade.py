"""The first stage of a cascade: the same backbone on a smaller picture, and how sure it must be to answer.

Threshold and gate are of out-of-fold answers: both stages are trained on the other folds, so each image is answered as
a new one would be. On images that a stage was trained on it is surer than it should be.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_store import Cascade
from vision import VisionError
from vision.training import fit_temperature, softmax
from worker.models.decisions import FEW, Judged
from worker.models.precision import judge
from worker.models.publish import FirstGraph, graph_of
from worker.train.body import graph_on, version_of
from worker.train.calibration import OutOfFold, outlier_distance, outlier_scores
from worker.train.images import InputReader, Split
from worker.train.network import Fitted, build, fit_network, out_of_fold, with_new_head
from worker.train.training import Training

LEAST_EQUAL: Final = (
    0.99,
    0.995,
)  # parts of the images that get the second stage's answer


class TrainedFirst(NamedTuple):
    """A first stage, and how it judges the images of both sides out of fold."""

    graph: FirstGraph
    judged: Judged


def train_first_stage(
    training: Training, reader: InputReader, answers: OutOfFold, split: Split, fitted: Fitted
) -> TrainedFirst | None:
    """Return a first stage for the network that was ``fitted``, or None; an event says how good it is, or why not.

    Args:
        reader: of the second stage's inputs.
        answers: of the second stage.
    """
    try:
        found = _train(training, reader, answers, split, fitted)
    except VisionError as error:  # such as too few families for the folds
        if training.progress.cancelled():
            raise
        found = str(error)
    finally:
        training.remove_checkpoints()
    if isinstance(found, str):
        training.progress.report(f"cascade: none, since {found}")
        return None
    record = found.graph.record
    training.progress.report(
        f"cascade: the first stage answers {record.early:.0%} of {record.images} images; {record.equal:.1%} get the "
        f"answer of the second, {record.accuracy:.1%} the right one instead of {record.alone_accuracy:.1%}"
    )
    return found


def _train(
    training: Training, reader: InputReader, answers: OutOfFold, split: Split, fitted: Fitted
) -> TrainedFirst | str:
    recipe, first, epochs = training.recipe, _of_first_stage(training), fitted.kept.epoch
    built, body = build(first, reader.network.spec.classes)
    with closing(InputReader(first, built, reader.digests, body)) as first_reader:
        inputs = first_reader.read(split.whole.images, training.freeze, reader.repeats)
    if inputs.images != split.whole.images:
        return "some images can't be read any more"
    logits = out_of_fold(first, built, inputs, answers.folds, epochs, "first stage")
    alone, targets = answers.logits, answers.targets
    temperature = fit_temperature(logits, targets)
    probabilities = softmax(logits, temperature)
    passes = 1 + recipe.flip_averaging
    scales = [scale for backbone in recipe.backbones for scale in backbone.scales or (1.0,)]
    cost = recipe.cascade**2 / sum(passes * scale**2 for scale in scales)
    record = judge_cascade(probabilities, alone.argmax(axis=1), targets, cost)
    if isinstance(record, str):
        return record
    whole = inputs if fitted.is_refit else inputs.only(np.arange(len(split.training.images)), inputs.views)
    network = with_new_head(first, built, len(whole.images))
    fit_network(first, network, whole, whole, "first stage, ", last_epoch=epochs)
    distances = answers.distances(inputs) if recipe.rbf_centers else np.zeros(len(targets))
    farthest = outlier_distance(distances) if len(targets) >= FEW else 0.0
    network.spec = replace(network.spec, temperature=temperature, outlier_distance=farthest)
    graph = graph_of(network) if body is None else graph_on(body, network)
    made = FirstGraph(graph, record.model_copy(update={"graph": graph.files.graph.to_json()}))
    return TrainedFirst(made, Judged(probabilities, outlier_scores(distances)))


def _of_first_stage(training: Training) -> Training:
    """Return the training of a first stage: on the first of the backbones alone, at one scale."""
    recipe, job = training.recipe, training.job
    pin = job.backbones[0]
    backbone = recipe.backbones[0].model_copy(update={"scales": (recipe.cascade,)})
    network = version_of(training.runtime.store, pin).manifest.network
    name = recipe.network if network is None else str(network["name"])
    own = {"network": name, "backbone": backbone, "scales": (recipe.cascade,), "flip_averaging": False}
    return replace(training, recipe=recipe.model_copy(update=own), job=job.model_copy(update={"backbones": (pin,)}))


def judge_cascade(
    first: NDArray[np.float64], alone: NDArray[np.int64], targets: NDArray[np.int64], cost: float
) -> Cascade | str:
    """Return the lowest threshold that leaves enough answers as they are alone; or why a first stage saves nothing.

    Enough are 99 %, or 99.5 % where the accuracy with 99 % fails the gate, which it then can't fail any more.

    Args:
        first: probabilities (N, classes) of the first stage.
        alone: answers (N,) of the second stage.
        targets: the right answers (N,).
        cost: of the first stage, as a part of the second's.
    """
    answers, sureness = first.argmax(axis=1), first.max(axis=1)
    order = np.argsort(-sureness, kind="stable")
    differing = np.cumsum((answers != alone)[order])
    for least in LEAST_EQUAL:
        count = int(np.searchsorted(differing, (1 - least) * len(alone) + 1e-9, side="right"))
        if count == 0:
            return "the first stage is sure of no image"
        threshold = round(float(sureness[order[count - 1 : count + 1]].mean()), 6)  # half way to the next one
        is_early = sureness >= threshold
        proof = judge(np.where(is_early, answers, alone), alone, targets)
        if proof.passed:
            break
    early = float(is_early.mean())
    if early <= cost:
        return f"the first stage is sure of {early:.0%} of the images and takes {cost:.0%} of the work"
    return Cascade(
        graph={},
        threshold=threshold,
        images=proof.images,
        early=early,
        equal=proof.equal,
        accuracy=proof.accuracy,
        alone_accuracy=proof.f32_accuracy,
        agreement={},
    )
