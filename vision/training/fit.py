"""Fit a network, or the head of one, to labelled arrays; and measure it.

Metrics are sums divided by counts, so a short last batch weighs what it holds. Validation data is never augmented.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import NDArray

from vision.errors import VisionError
from vision.training.checkpoint import Arrays, Checkpoint, load_newest, save
from vision.training.feature_cache import Rows

log = logging.getLogger("sortline.train")

HASHED_AT_ONCE = 1024  # inputs, which may lie on disk
CHECKPOINTS_KEPT = 2  # the newest may be cut short by a full disk
# Of a head in one call of a graph, which takes MindSpore half a millisecond whatever is in it, more than the step does.
MOST_STEPS = 32
INPUT_BYTES = 16_000_000  # of the steps in one call, at most

# Takes a batch uint8 (N, H, W, 3) and a random generator; returns a changed batch of the same shape and dtype.
Augment = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]


class TrainingStopped(VisionError):
    """Training can't go on: the loss is no number any more, or somebody cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """The recipe of ``fit``. Rates and decay as in the optimisers' papers; steps are batches."""

    epochs: int
    batch_size: int
    optimizer: Literal["momentum", "adam", "adamw", "sgd"]
    momentum: float
    beta1: float  # of adam and adamw, like beta2
    beta2: float
    weight_decay: float
    lr_schedule: Literal["constant", "square", "cosine"]
    lr_init: float
    lr_max: float
    lr_end: float
    warmup_steps: int
    loss: Literal["cross_entropy", "squared"]
    label_smoothing: float
    dropout: float  # probability in [0, 1) of zeroing an input of the head, in training only
    class_weights: Literal["none", "balanced"]  # balanced: an image of class c counts N / (classes * images of c)
    patience: int  # epochs without a better one before training stops; 0 never stops early
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Network inputs (N, ...), and the class index (N,) of each."""

    inputs: Rows
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """Figures of one pass over the training data; ``val_`` figures are those after it. Rates in [0, 1]."""

    epoch: int  # from 1
    train_loss: float  # with label smoothing and augmentation, as it was minimised
    val_loss: float  # of the recipe's kind, without smoothing or weights: cross-entropy in nats, or squared distance
    val_top1: float
    val_top5: float
    lr: float  # of the last step
    seconds: float


def learning_rates(options: FitOptions, steps: int) -> NDArray[np.float32]:
    """Return the learning rate of each of ``steps`` steps.

    Linear from ``lr_init`` to ``lr_max`` over the warm-up. Then, with t from 0 (first step after it) to 1 (last):
    constant ``lr_max``; square ``lr_end + (lr_max - lr_end) (1 - t)^2``; cosine
    ``lr_end + (lr_max - lr_end) (1 + cos(pi t)) / 2`` (Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5).
    """
    warm = min(options.warmup_steps, steps)
    rates = np.empty(steps, np.float64)
    rates[:warm] = options.lr_init + (options.lr_max - options.lr_init) * np.arange(warm) / max(warm, 1)
    t = np.arange(steps - warm) / max(steps - warm - 1, 1)
    part = {"constant": np.ones_like(t), "square": (1 - t) ** 2, "cosine": (1 + np.cos(np.pi * t)) / 2}[
        options.lr_schedule
    ]
    end = options.lr_max if options.lr_schedule == "constant" else options.lr_end
    rates[warm:] = end + (options.lr_max - end) * part
    return rates.astype(np.float32)


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
) -> tuple[list[Epoch], Epoch]:
    """Train ``model`` (inputs -> logits (N, classes)) in place; return all epochs and the best, whose weights it keeps.

    Best is the highest validation top-1, among equals the lowest validation loss. With a ``checkpoints`` folder, each
    epoch leaves one there, and a training of the same data, recipe and first weights goes on from the newest: same
    weights in the end. The ``repr`` of ``augment`` is part of the recipe.
    ``on_step`` hears of steps done, steps in all, and the seconds of one, after each call of the graph that trains, of
    which one may take up to `MOST_STEPS` steps; not of an epoch's first.

    Raises:
        TrainingStopped: a loss is infinite or no number (the message names the step), or ``cancelled()`` was true.
        OSError: a checkpoint can't be written.
    """
    random = np.random.default_rng(options.seed)
    weights = class_weights(training.targets, classes, options.class_weights)
    steps_an_epoch = -(-len(training) // options.batch_size)
    rates = learning_rates(options, options.epochs * steps_an_epoch)
    width = _head_inputs(model)
    key = _key(model, training, validation, classes, options, augment)
    most = _steps_at_once(model, training, options.batch_size)
    masked = _WithLoss(model, options.loss, is_masked=options.dropout > 0)
    step_cell = _Steps(masked, _optimizer(model, options, rates), most, options.batch_size)
    stepped: float | None = None
    history: list[Epoch] = []
    best_weights: Arrays = {}
    if checkpoints is not None and (earlier := load_newest(checkpoints, key)) is not None:
        history = [Epoch(**figures) for figures in earlier.history]
        best_weights = earlier.best
        random.bit_generator.state = earlier.random
        _set_parameters(step_cell, earlier.parameters)
        log.info("training goes on from a checkpoint epoch=%d of=%d", earlier.epoch, options.epochs)
    for number in range(len(history) + 1, options.epochs + 1):
        if options.patience and history and number - 1 - _best(history).epoch >= options.patience:
            break
        started = time.perf_counter()
        step_cell.set_train(True)
        loss_sum, step = 0.0, (number - 1) * steps_an_epoch
        order: NDArray[np.int64] = random.permutation(len(training))
        for batches in _groups(order, options.batch_size, most):
            if cancelled():
                raise TrainingStopped(f"cancelled in epoch {number} of {options.epochs}")
            inputs = training.inputs[batches.ravel()]
            if augment is not None:
                inputs = np.concatenate([augment(part, random) for part in np.split(inputs, len(batches))])
            targets = training.targets[batches.ravel()]
            losses = step_cell.run(
                len(batches),
                inputs,
                soft_targets(targets, classes, options.label_smoothing),
                weights[targets] / np.float32(batches.shape[1]),
                dropout_mask(len(targets), width, options.dropout, random),
            )
            if not np.isfinite(losses).all():
                first = int(np.flatnonzero(~np.isfinite(losses))[0])
                raise TrainingStopped(
                    f"the loss is {losses[first]} at step {step + first + 1} (epoch {number}); "
                    f"try a lower lr_max than {options.lr_max:g}"
                )
            step += len(batches)
            loss_sum += float(losses.sum(dtype=np.float64)) * batches.shape[1]
            if stepped is not None:
                on_step(step, len(rates), (time.perf_counter() - stepped) / len(batches))
            stepped = time.perf_counter()
        stepped = None
        loss, top1, top5 = evaluate(model, validation, options.batch_size, options.loss)
        if not math.isfinite(loss):  # the last step ruined the weights, and no later one would tell
            raise TrainingStopped(
                f"the validation loss is {loss} after epoch {number}; try a lower lr_max than {options.lr_max:g}"
            )
        epoch = Epoch(
            epoch=number,
            train_loss=loss_sum / len(training),
            val_loss=loss,
            val_top1=top1,
            val_top5=top5,
            lr=float(rates[step - 1]),
            seconds=time.perf_counter() - started,
        )
        history.append(epoch)
        if _best(history) is epoch:
            best_weights = {parameter.name: parameter.asnumpy().copy() for parameter in model.get_parameters()}
        if checkpoints is not None:
            state = {parameter.name: parameter.asnumpy() for parameter in step_cell.get_parameters()}
            checkpoint = Checkpoint(
                key=key,
                epoch=number,
                random=dict(random.bit_generator.state),
                history=[asdict(past) for past in history],
                parameters=state,
                best=best_weights,
            )
            save(checkpoints, checkpoint, kept=CHECKPOINTS_KEPT)
        on_epoch(epoch)
    _set_parameters(model, best_weights)
    model.set_train(False)
    return history, _best(history)


def _best(history: list[Epoch]) -> Epoch:
    """Highest validation top-1; among equals the lowest validation loss; among those the first."""
    return max(history, key=lambda epoch: (epoch.val_top1, -epoch.val_loss, -epoch.epoch))


def _set_parameters(cell: nn.Cell, arrays: Arrays) -> None:
    parameters = {parameter.name: parameter for parameter in cell.get_parameters()}
    if parameters.keys() != arrays.keys():
        raise VisionError("a checkpoint holds other parameters than the network; delete the job's checkpoints")
    for name, parameter in parameters.items():
        parameter.set_data(Tensor(arrays[name]))


def _key(
    model: nn.Cell,
    training: Samples,
    validation: Samples,
    classes: int,
    options: FitOptions,
    augment: Augment | None,
) -> str:
    """Return a digest of all that decides the course of a training, the first weights among it."""
    digest = hashlib.sha256(repr((options, classes, augment)).encode())
    for name, parameter in model.parameters_and_names():
        digest.update(repr((name, parameter.shape, parameter.requires_grad)).encode())
        digest.update(np.ascontiguousarray(parameter.asnumpy()).data)
    norms = [cell for _, cell in model.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]
    digest.update(repr([norm.use_batch_statistics for norm in norms]).encode())
    for samples in (training, validation):
        digest.update(repr((samples.inputs.shape, samples.inputs.dtype.str)).encode())
        for start in range(0, len(samples), HASHED_AT_ONCE):
            digest.update(np.ascontiguousarray(samples.inputs[start : start + HASHED_AT_ONCE]).data)
        digest.update(np.ascontiguousarray(samples.targets).data)
    return digest.hexdigest()


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
    logits = predict_logits(model, samples.inputs, batch_size)
    own = logits[np.arange(len(samples)), samples.targets]
    with np.errstate(invalid="ignore"):  # infinite logits: the loss says so
        if loss == "squared":
            losses = np.square(logits).sum(axis=1) - 2 * own + 1
        else:
            largest = logits.max(axis=1, keepdims=True)
            losses = np.log(np.exp(logits - largest).sum(axis=1)) + largest[:, 0] - own
    better = (logits > own[:, None]).sum(axis=1)  # classes that rank above the true one
    return float(losses.mean()), float((better < 1).mean()), float((better < 5).mean())


def soft_targets(targets: NDArray[np.int64], classes: int, smoothing: float) -> NDArray[np.float32]:
    """Return float32 (N, classes): 1 - smoothing on the true class, and smoothing spread over all of them."""
    goals = np.full((len(targets), classes), smoothing / classes, np.float32)
    goals[np.arange(len(targets)), targets] += 1 - smoothing
    return goals


def class_weights(targets: NDArray[np.int64], classes: int, rule: Literal["none", "balanced"]) -> NDArray[np.float32]:
    """Return float32 (classes,): what an image of each class counts; over all images the mean is 1."""
    if rule == "none":
        return np.ones(classes, np.float32)
    counts = np.bincount(targets, minlength=classes)
    return (len(targets) / np.maximum(counts, 1) / np.count_nonzero(counts)).astype(np.float32)


def dropout_mask(count: int, width: int, dropout: float, random: np.random.Generator) -> NDArray[np.float32]:
    """Return float32 (count, width), or (count, 1) of ones without dropout: what the head's inputs are multiplied by.

    From our generator and not MindSpore's, whose state can't be kept: a resumed training must draw the same masks.
    """
    if not dropout:
        return np.ones((count, 1), np.float32)
    return ((random.random((count, width), np.float32) >= dropout) / (1 - dropout)).astype(np.float32)


def _head_inputs(model: nn.Cell) -> int:
    """Return the length of the vectors that go into the last dense layer."""
    return [cell for _, cell in model.cells_and_names() if isinstance(cell, nn.Dense)][-1].in_channels


class _WithLoss(nn.Cell):
    """The weighted losses of a batch, added; the head's inputs, behind the model's body if it has one, are masked."""

    def __init__(self, model: nn.Cell, loss: Literal["cross_entropy", "squared"], *, is_masked: bool = True) -> None:
        super().__init__()
        self.is_squared = loss == "squared"
        self.is_masked = is_masked  # a product with ones, too, is an eighth of a head's step
        self.has_body = hasattr(model, "body")
        self.model = model
        # Takes logits: a softmax before it would be a second one.
        self.loss = nn.SoftmaxCrossEntropyWithLogits(sparse=False)

    def construct(
        self,
        inputs: mindspore.Tensor,
        goals: mindspore.Tensor,
        weights: mindspore.Tensor,
        mask: mindspore.Tensor,
    ) -> mindspore.Tensor:
        if not self.is_masked:
            logits = self.model(inputs)
        elif self.has_body:
            logits = self.model.head(self.model.body(inputs) * mask)
        else:
            logits = self.model(inputs * mask)
        losses = ops.sum(ops.square(logits - goals), 1) if self.is_squared else self.loss(logits, goals)
        return ops.sum(losses * weights)


class _Steps(nn.Cell):
    """Training steps, one after the other in one call of a graph.

    One graph serves all calls of up to ``most`` steps: fewer steps are filled up with some that are not done, a short
    batch with rows that weigh nothing. With ``most`` 1 a short batch stays short: filled up, it would count twice in
    the statistics of batch norm.
    """

    def __init__(self, network: nn.Cell, optimizer: nn.Cell, most: int, batch_size: int) -> None:
        super().__init__(auto_prefix=False)
        self.network, self.optimizer = network, optimizer
        self.differentiate = mindspore.value_and_grad(network, None, optimizer.parameters)
        self.most, self.batch_size = most, batch_size
        self.places = Tensor(np.arange(most), mindspore.int32)

    def run(
        self,
        steps: int,
        inputs: NDArray[Any],
        goals: NDArray[np.float32],
        weights: NDArray[np.float32],
        masks: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Return the losses (steps,); in each array the rows of all batches, of equal size, follow one another."""
        rows = len(weights) // steps
        if self.most > 1 and rows < self.batch_size:
            weights, rows = np.append(weights, np.zeros(self.batch_size - rows, np.float32)), self.batch_size
        full = [_filled(array, self.most, rows) for array in (inputs, goals, weights, masks)]
        start, none = Tensor(0, mindspore.int32), Tensor(np.zeros(self.most, np.float32))
        losses: NDArray[np.float32] = self(*map(Tensor, full), start, Tensor(steps, mindspore.int32), none).asnumpy()
        return losses[:steps]

    def construct(
        self,
        inputs: mindspore.Tensor,
        goals: mindspore.Tensor,
        weights: mindspore.Tensor,
        masks: mindspore.Tensor,
        step: mindspore.Tensor,
        count: mindspore.Tensor,
        losses: mindspore.Tensor,
    ) -> mindspore.Tensor:
        while step < count:  # a loop of the graph, since its bound is a tensor
            # Not inputs[step], which would ask each time whether the step is negative.
            batch = [ops.gather(array, step, 0) for array in (inputs, goals, weights, masks)]
            loss, gradients = self.differentiate(*batch)
            loss = ops.depend(loss, self.optimizer(gradients))
            losses = ops.where(self.places == step, loss, losses)  # a product with 0 would spread what is no number
            step = step + 1
        return losses


def _filled(array: NDArray[Any], steps: int, rows: int) -> NDArray[Any]:
    """Return (steps, rows, ...): the array's rows in their order, and then from the first on again."""
    shape = (steps, rows, *array.shape[1:])
    return array.reshape(shape) if len(array) == steps * rows else np.resize(array, shape)  # which would copy


def _steps_at_once(model: nn.Cell, training: Samples, batch_size: int) -> int:
    if any(isinstance(cell, nn.Conv2d) for _, cell in model.cells_and_names()):
        return 1  # a step is long: people want to hear of each, and to stop before the next
    batch_bytes = training.inputs.dtype.itemsize * math.prod(training.inputs.shape[1:]) * batch_size
    return min(MOST_STEPS, max(1, INPUT_BYTES // batch_bytes))


def _groups(order: NDArray[np.int64], batch_size: int, most: int) -> Iterator[NDArray[np.int64]]:
    """Yield the batches (up to ``most``, ``batch_size``) of an epoch, and at last the short one, if any, as (1, n)."""
    whole = len(order) // batch_size * batch_size
    batches = order[:whole].reshape(-1, batch_size)
    for start in range(0, len(batches), most):
        yield batches[start : start + most]
    if whole < len(order):
        yield order[None, whole:]


def _optimizer(model: nn.Cell, options: FitOptions, rates: NDArray[np.float32]) -> nn.Cell:
    """Return the optimiser of ``options``; weight decay spares biases and batch norm, which have one dimension."""
    parameters = model.trainable_params()
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    rate = [float(value) for value in rates]
    if options.optimizer == "adam":
        return nn.Adam(groups, learning_rate=rate, beta1=options.beta1, beta2=options.beta2)
    if options.optimizer == "adamw":
        return nn.AdamWeightDecay(groups, learning_rate=rate, beta1=options.beta1, beta2=options.beta2)
    if options.optimizer == "sgd":
        return nn.SGD(groups, learning_rate=rate, momentum=0.0)
    return nn.Momentum(groups, learning_rate=rate, momentum=options.momentum)
