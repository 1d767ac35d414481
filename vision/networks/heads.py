"""Heads: features of the backbone -> logits."""

from __future__ import annotations

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal

from vision.networks.spec import NetworkSpec
from vision.training.prototypes import Prototypes


class Head(nn.Cell):
    """Features (N, F) -> logits (N, classes): a dense layer, on radial units where the spec has prototypes."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.has_radial = spec.prototypes > 0
        if self.has_radial:
            self.radial = RadialUnits(spec)
        self.dense = build_dense(spec)

    def construct(self, features: mindspore.Tensor) -> mindspore.Tensor:
        return self.dense(self.radial(features) if self.has_radial else features)


def build_dense(spec: NetworkSpec) -> nn.Dense:
    """Return the head's trained layer, with new weights by ``mindspore.set_seed``."""
    # 0.01: as the published networks start their classifier, so that first probabilities are near uniform.
    return nn.Dense(spec.prototypes or spec.features, spec.classes, Normal(0.01), "zeros", has_bias=spec.head_bias)


class RadialUnits(nn.Cell):
    """Features (N, F) -> likeness to each prototype (N, P): exp(-width |features - prototype|^2).

    With a dense layer on it a radial-basis-function network (Broomhead & Lowe 1988). Prototypes and width are set once,
    from training images (`vision.training.prototypes`), and not trained.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        prototypes = np.zeros((spec.prototypes, spec.features), np.float32)
        self.prototypes = Parameter(Tensor(prototypes), name="prototypes", requires_grad=False)
        self.width = Parameter(Tensor(np.ones(1, np.float32)), name="width", requires_grad=False)

    def construct(self, features: mindspore.Tensor) -> mindspore.Tensor:
        own = ops.sum(features * features, 1, True)
        theirs = ops.sum(self.prototypes * self.prototypes, 1, True)
        products = ops.matmul(features, ops.transpose(self.prototypes, (1, 0)))
        # Rounding makes the distance of equal vectors a little negative.
        distances = ops.relu(own + ops.transpose(theirs, (1, 0)) - 2.0 * products)
        return ops.exp(-self.width * distances)


def set_radial_head(network: nn.Cell, prototypes: Prototypes, dense: nn.Dense) -> None:
    """Give ``network`` the radial units of ``prototypes``, and what ``dense`` learned on their whitened outputs."""
    head = network.head
    head.radial.prototypes.set_data(Tensor(prototypes.prototypes))
    head.radial.width.set_data(Tensor(np.array([prototypes.width], np.float32)))
    head.dense.weight.set_data(Tensor(prototypes.folded(dense.weight.asnumpy())))
    if dense.has_bias:
        head.dense.bias.set_data(Tensor(dense.bias.asnumpy()))
