"""Training steps as graphs of MindSpore: the loss, the optimiser, and several steps in one call."""

from __future__ import annotations

import math
from typing import Any, Literal

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import NDArray

from vision.training.options import FitOptions
from vision.training.samples import Samples

# Of a head in one call of a graph, which takes MindSpore half a millisecond whatever is in it, more than the step does.
MOST_STEPS = 32
INPUT_BYTES = 16_000_000  # of the steps in one call, at most


class WeightedLoss(nn.Cell):
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


class Steps(nn.Cell):
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


def steps_at_once(model: nn.Cell, training: Samples, batch_size: int) -> int:
    """Return how many steps one call of the graph takes at most."""
    if any(isinstance(cell, nn.Conv2d) for _, cell in model.cells_and_names()):
        return 1  # a step is long: people follow each, and can stop before the next
    batch_bytes = training.inputs.dtype.itemsize * math.prod(training.inputs.shape[1:]) * batch_size
    return min(MOST_STEPS, max(1, INPUT_BYTES // batch_bytes))


def head_inputs(model: nn.Cell) -> int:
    """Return the length of the vectors that go into the last dense layer."""
    return [cell for _, cell in model.cells_and_names() if isinstance(cell, nn.Dense)][-1].in_channels


def make_optimizer(model: nn.Cell, options: FitOptions, rates: NDArray[np.float32]) -> nn.Cell:
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
