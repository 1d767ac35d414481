"""Heads: features of the backbone -> logits."""

from __future__ import annotations

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal

from vision.networks.spec import NetworkSpec


class Head(nn.Cell):
    """Features (N, F) -> logits (N, classes): a dense layer, on RBF units where the spec has centers."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.has_rbf = spec.rbf_centers > 0
        if self.has_rbf:
            self.rbf = RbfUnits(spec)
        self.dense = build_dense(spec)

    def construct(self, features: mindspore.Tensor) -> mindspore.Tensor:
        return self.dense(self.rbf(features) if self.has_rbf else features)


def build_dense(spec: NetworkSpec) -> nn.Dense:
    """Return the head's trained layer, with new weights by ``mindspore.set_seed``."""
    # 0.01: as the published networks start their classifier, so that first probabilities are near uniform.
    return nn.Dense(spec.head_inputs, spec.classes, Normal(0.01), "zeros", has_bias=spec.head_bias)


class RbfUnits(nn.Cell):
    """Features (N, F) -> likeness to each center (N, C): exp(-width |features - center|^2).

    With a dense layer on it a radial-basis-function network (Broomhead & Lowe 1988). Centers and width are set once,
    from training images (`vision.training.rbf`), and not trained.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        centers = np.zeros((spec.rbf_centers, spec.features), np.float32)
        self.centers = Parameter(Tensor(centers), name="centers", requires_grad=False)
        self.width = Parameter(Tensor(np.ones(1, np.float32)), name="width", requires_grad=False)

    def construct(self, features: mindspore.Tensor) -> mindspore.Tensor:
        own = ops.sum(features * features, 1, True)
        theirs = ops.sum(self.centers * self.centers, 1, True)
        products = ops.matmul(features, ops.transpose(self.centers, (1, 0)))
        # Rounding makes the distance of equal vectors a little negative.
        distances = ops.relu(own + ops.transpose(theirs, (1, 0)) - 2.0 * products)
        return ops.exp(-self.width * distances)
