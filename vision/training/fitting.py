"""Fit a network, or the head of one, to labelled arrays; and measure it.

Metrics are sums divided by counts, so a short last batch weighs what it holds. Validation data is never augmented.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mindspore import Tensor, nn
from numpy.typing import NDArray

from vision.errors import VisionError
from vision.training.checkpoint import Arrays, Checkpoint, load_newest, save
from vision.training.options import Epoch, FitOptions, best_of, kept_of, learning_rates
from vision.training.samples import Rows, Samples, class_weights, dropout_mask, grouped_batches, soft_targets
from vision.training.steps import Steps, WeightedLoss, head_inputs, make_optimizer, steps_at_once

log = logging.getLogger("sortline.train")

HASHED_AT_ONCE = 1024  # inputs, which may lie on disk
CHECKPOINTS_KEPT = 2  # the newest may be cut short by a full disk

# Takes a batch uint8 (N, H, W, 3) and a random generator; returns a changed batch of the same shape and dtype.
Augment = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]


class TrainingStopped(VisionError):
    """Training can't go on: the loss is no number any more, or somebody cancelled."""


def fit(
    model: nn.Cell,
    training: Samples,
    validation: Samples,
    classes: int,
    options: FitOptions,
    *,
    augment: Augment | None = None,
    checkpoints: Path | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_step: Callable[[int, int, float], None] = lambda step, steps, step_s: None,
    cancelled: Callable[[], bool] = lambda: False,
    last_epoch: int | None = None,
) -> tuple[list[Epoch], Epoch]:
    """Train ``model`` (inputs -> logits (N, classes)) in place; return all epochs and that whose weights it keeps.

    `kept_of` says which one. With a ``last_epoch`` nothing is chosen: training ends there, on the way that ``options``
    says, and the last weights are kept.

    With a ``checkpoints`` folder, each epoch leaves one there, and a training of the same data, recipe and first
    weights goes on from the newest: same weights in the end. The ``repr`` of ``augment`` is part of the recipe.
    ``on_step`` is given steps done, steps in all, and the seconds of one, after each call of the graph that trains, of
    which one may take up to `MOST_STEPS` steps; not of an epoch's first.

    Raises:
        TrainingStopped: a loss is infinite or no number (the message names the step), or ``cancelled()`` was true.
        OSError: a checkpoint can't be written.
    """
    fitting = _Fitting(model, training, validation, classes, options, augment, on_step, cancelled)
    if checkpoints is not None:
        fitting.resume(checkpoints)
    for number in range(len(fitting.history) + 1, (last_epoch or options.epochs) + 1):
        if last_epoch is None and fitting.has_lost_patience():
            break
        epoch = fitting.run_epoch(number)
        if checkpoints is not None:
            fitting.save(checkpoints)
        on_epoch(epoch)
    return fitting.history, fitting.finish(chooses=last_epoch is None)


@dataclass
class _Fitting:
    """A training under way: what one epoch hands on to the next."""

    model: nn.Cell
    training: Samples
    validation: Samples
    classes: int
    options: FitOptions
    augment: Augment | None
    on_step: Callable[[int, int, float], None]
    cancelled: Callable[[], bool]
    history: list[Epoch] = field(default_factory=list)
    best_weights: Arrays = field(default_factory=dict)

    def __post_init__(self) -> None:
        model, training, options = self.model, self.training, self.options
        self.random = np.random.default_rng(options.seed)
        self.weights = class_weights(training.targets, self.classes, options.class_weights)
        self.steps_an_epoch = -(-len(training) // options.batch_size)
        self.rates = learning_rates(options, options.epochs * self.steps_an_epoch)
        self.mask_width = head_inputs(model)
        self.key = self._digest()
        self.most_steps = steps_at_once(model, training, options.batch_size)
        with_loss = WeightedLoss(model, options.loss, is_masked=options.dropout > 0)
        optimizer = make_optimizer(model, options, self.rates)
        self.steps = Steps(with_loss, optimizer, self.most_steps, options.batch_size)

    def resume(self, checkpoints: Path) -> None:
        """Go on from the newest checkpoint of this very training, if there is one."""
        if (earlier := load_newest(checkpoints, self.key)) is None:
            return
        self.history = [Epoch(**figures) for figures in earlier.history]
        self.best_weights = earlier.best
        self.random.bit_generator.state = earlier.random
        _set_parameters(self.steps, earlier.parameters)
        log.info("training goes on from a checkpoint epoch=%d of=%d", earlier.epoch, self.options.epochs)

    def has_lost_patience(self) -> bool:
        """Whether so many epochs were no better that training stops."""
        patience = self.options.patience
        return bool(patience and self.history and len(self.history) - best_of(self.history).epoch >= patience)

    def run_epoch(self, number: int) -> Epoch:
        """Train for an epoch and measure it."""
        started = time.perf_counter()
        train_loss = self._train(number)
        options = self.options
        loss, top1, top5 = evaluate(self.model, self.validation, options.batch_size, options.loss)
        if not math.isfinite(loss):  # the last step ruined the weights, and no later one would tell
            raise TrainingStopped(
                f"the validation loss is {loss} after epoch {number}; try a lower lr_max than {options.lr_max:g}"
            )
        epoch = Epoch(
            epoch=number,
            train_loss=train_loss,
            val_loss=loss,
            val_top1=top1,
            val_top5=top5,
            lr=float(self.rates[number * self.steps_an_epoch - 1]),
            seconds=time.perf_counter() - started,
        )
        self.history.append(epoch)
        if best_of(self.history) is epoch:
            self.best_weights = _arrays_of(self.model, copied=True)
        return epoch

    def _train(self, number: int) -> float:
        """Take the steps of an epoch; return the mean loss."""
        self.steps.set_train(True)
        options = self.options
        order: NDArray[np.int64] = self.random.permutation(len(self.training))
        loss_sum, step = 0.0, (number - 1) * self.steps_an_epoch
        stepped: float | None = None
        for batches in grouped_batches(order, options.batch_size, self.most_steps):
            if self.cancelled():
                raise TrainingStopped(f"cancelled in epoch {number} of {options.epochs}")
            losses = self._take_steps(batches)
            if not np.isfinite(losses).all():
                first = int(np.flatnonzero(~np.isfinite(losses))[0])
                raise TrainingStopped(
                    f"the loss is {losses[first]} at step {step + first + 1} (epoch {number}); "
                    f"try a lower lr_max than {options.lr_max:g}"
                )
            step += len(batches)
            loss_sum += float(losses.sum(dtype=np.float64)) * batches.shape[1]
            if stepped is not None:
                self.on_step(step, len(self.rates), (time.perf_counter() - stepped) / len(batches))
            stepped = time.perf_counter()
        return loss_sum / len(self.training)

    def _take_steps(self, batches: NDArray[np.int64]) -> NDArray[np.float32]:
        """Take a step for each of ``batches`` (steps, images), which are places in the samples; return their losses."""
        options = self.options
        inputs = self.training.inputs[batches.ravel()]
        if self.augment is not None:
            parts = np.split(inputs, len(batches))
            inputs = np.concatenate([self.augment(part, self.random) for part in parts])
        targets = self.training.targets[batches.ravel()]
        return self.steps.run(
            len(batches),
            inputs,
            soft_targets(targets, self.classes, options.label_smoothing),
            self.weights[targets] / np.float32(batches.shape[1]),
            dropout_mask(len(targets), self.mask_width, options.dropout, self.random),
        )

    def save(self, checkpoints: Path) -> None:
        """Leave a checkpoint of the last epoch."""
        checkpoint = Checkpoint(
            key=self.key,
            epoch=self.history[-1].epoch,
            random=dict(self.random.bit_generator.state),
            history=[asdict(past) for past in self.history],
            parameters=_arrays_of(self.steps),
            best=self.best_weights,
        )
        save(checkpoints, checkpoint, kept=CHECKPOINTS_KEPT)

    def finish(self, *, chooses: bool) -> Epoch:
        """Return the epoch whose weights the model then has: `kept_of` the history or, without a choice, the last."""
        kept = kept_of(self.history, self.options) if chooses else self.history[-1]
        if kept is not self.history[-1]:
            _set_parameters(self.model, self.best_weights)
        self.model.set_train(False)
        return kept

    def _digest(self) -> str:
        """Return a digest of all that decides the course of a training, the first weights among it."""
        digest = hashlib.sha256(repr((self.options, self.classes, self.augment)).encode())
        for name, parameter in self.model.parameters_and_names():
            digest.update(repr((name, parameter.shape, parameter.requires_grad)).encode())
            digest.update(np.ascontiguousarray(parameter.asnumpy()).data)
        norms = [cell for _, cell in self.model.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]
        digest.update(repr([norm.use_batch_statistics for norm in norms]).encode())
        for samples in (self.training, self.validation):
            digest.update(repr((samples.inputs.shape, samples.inputs.dtype.str)).encode())
            for start in range(0, len(samples), HASHED_AT_ONCE):
                digest.update(np.ascontiguousarray(samples.inputs[start : start + HASHED_AT_ONCE]).data)
            digest.update(np.ascontiguousarray(samples.targets).data)
        return digest.hexdigest()


def _arrays_of(cell: nn.Cell, *, copied: bool = False) -> Arrays:
    arrays = {parameter.name: parameter.asnumpy() for parameter in cell.get_parameters()}
    return {name: array.copy() for name, array in arrays.items()} if copied else arrays


def _set_parameters(cell: nn.Cell, arrays: Arrays) -> None:
    parameters = {parameter.name: parameter for parameter in cell.get_parameters()}
    if parameters.keys() != arrays.keys():
        raise VisionError("a checkpoint holds other parameters than the network; delete the job's checkpoints")
    for name, parameter in parameters.items():
        parameter.set_data(Tensor(arrays[name]))


def predict_logits(model: nn.Cell, inputs: Rows, batch_size: int) -> NDArray[np.float64]:
    """Return logits float64 (N, classes). The last batch is filled up, so one graph serves all."""
    model.set_train(False)
    parts = []
    for start in range(0, len(inputs), batch_size):
        part: NDArray[Any] = inputs[start : start + batch_size]
        filled = np.concatenate([part, np.repeat(part[-1:], batch_size - len(part), axis=0)])
        parts.append(model(Tensor(filled)).asnumpy()[: len(part)])
    return np.concatenate(parts).astype(np.float64)


def evaluate(
    model: nn.Cell, samples: Samples, batch_size: int, loss: Literal["cross_entropy", "squared"] = "cross_entropy"
) -> tuple[float, float, float]:
    """Return (mean loss, top-1 rate, top-5 rate) of ``model`` on ``samples``.

    Of weights that are no numbers the loss is none either, and the rates mean nothing.
    """
    return scores_of(predict_logits(model, samples.inputs, batch_size), samples.targets, loss)


def scores_of(
    logits: NDArray[np.float64], targets: NDArray[np.int64], loss: Literal["cross_entropy", "squared"]
) -> tuple[float, float, float]:
    """Return (mean loss, top-1 rate, top-5 rate) of logits (N, classes)."""
    own = logits[np.arange(len(targets)), targets]
    with np.errstate(invalid="ignore"):  # infinite logits: the loss says so
        if loss == "squared":
            losses = np.square(logits).sum(axis=1) - 2 * own + 1
        else:
            largest = logits.max(axis=1, keepdims=True)
            losses = np.log(np.exp(logits - largest).sum(axis=1)) + largest[:, 0] - own
    better = (logits > own[:, None]).sum(axis=1)  # classes that rank above the true one
    return float(losses.mean()), float((better < 1).mean()), float((better < 5).mean())
