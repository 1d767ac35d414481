"""A network as it is trained, a backbone and a head on its features; and as it is served.

Served networks take uint8 pictures, so no worker can scale or order channels in a way of its own.
"""

from __future__ import annotations

from typing import TypeAlias

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal
from numpy.typing import NDArray

from vision.errors import VisionError
from vision.networks.layered import LayeredSpec
from vision.networks.spec import NetworkSpec

# Of a served network: probabilities (N, classes), with outlier scores (N, 1) behind them where its spec gives those.
Answers: TypeAlias = "mindspore.Tensor | tuple[mindspore.Tensor, mindspore.Tensor]"

RUN_AT_ONCE = 4  # images kernel by kernel: MindSpore keeps the maps of all layers, 16 MB an image


class Network(nn.Cell):
    """Normalised float32 (N, 3, H, W) -> logits (N, classes), or features (N, F) when ``spec.classes`` is 0.

    Attributes:
        backbone: normalised float32 (N, 3, H, W) -> features (N, F).
        head: features -> logits; absent when ``spec.classes`` is 0.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.has_head = spec.classes > 0
        self.backbone = spec.build_backbone()
        if self.has_head:
            self.head = Head(spec)

    def construct(self, images: mindspore.Tensor) -> mindspore.Tensor:
        features = self.backbone(images)
        return self.head(features) if self.has_head else features


def build_network(spec: NetworkSpec) -> Network:
    """Return a new network, in training mode.

    Initial weights follow ``mindspore.set_seed``, which is the caller's to set.

    Raises:
        VisionError: the spec is of a part; only `vision.training.parts.build_frozen` makes one, from a whole network.
    """
    if isinstance(spec, LayeredSpec) and spec.cut:
        raise VisionError(f"a network that ends before layer {spec.cut} can't be built alone; cut a whole one")
    return Network(spec)


# Scores solved for 0 and 1 are near probabilities, so logits are their logarithms. With softmax(scores / temperature)
# the expected calibration error on 2,067 photos was 3.1 % out of fold, with a floor of 0.02 to 0.2 it is 1.2 to 2.5 %.
SCORE_FLOOR = 0.1


class Head(nn.Cell):
    """Features (N, F) -> logits (N, classes): a dense layer, on RBF units where the spec has centers.

    With centers the layer gives scores: about 1 for the true class and 0 for the others. Logits follow their order.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.has_rbf = spec.rbf_centers > 0
        if self.has_rbf:
            self.rbf = RbfUnits(spec)
        # 0.01: as the published networks start their classifier, so that first probabilities are near uniform.
        self.dense = nn.Dense(spec.head_inputs, spec.classes, Normal(0.01), "zeros", has_bias=spec.head_bias)

    def construct(self, features: mindspore.Tensor) -> mindspore.Tensor:
        return self.scored(self.rbf(features)) if self.has_rbf else self.dense(features)

    def scored(self, likeness: mindspore.Tensor) -> mindspore.Tensor:
        scores = self.dense(likeness)
        return ops.log(ops.relu(scores) + SCORE_FLOOR) - ops.relu(-scores)

    def answered(self, features: mindspore.Tensor, temperature: float, outlier_distance: float) -> Answers:
        """Return the probabilities (N, classes); with an ``outlier_distance`` also the outlier scores (N, 1)."""
        if outlier_distance == 0:
            return ops.softmax(self.construct(features) / temperature, -1)
        distances = self.rbf.distances(features)
        logits = self.scored(self.rbf.likeness(distances))
        return ops.softmax(logits / temperature, -1), -ops.amax(-distances, 1, True) / outlier_distance


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
        return self.likeness(self.distances(features))

    def distances(self, features: mindspore.Tensor) -> mindspore.Tensor:
        own = ops.sum(features * features, 1, True)
        theirs = ops.sum(self.centers * self.centers, 1, True)
        products = ops.matmul(features, ops.transpose(self.centers, (1, 0)))
        # Rounding makes the distance of equal vectors a little negative.
        return ops.relu(own + ops.transpose(theirs, (1, 0)) - 2.0 * products)

    def likeness(self, distances: mindspore.Tensor) -> mindspore.Tensor:
        return ops.exp(-self.width * distances)


def build_served(network: nn.Cell) -> nn.Cell:
    """Return the cell to export or run: ``ServedNetwork``, or ``FeatureExtractor`` for a network without a head."""
    return ServedNetwork(network) if network.spec.classes else FeatureExtractor(network)


def run_once(cell: nn.Cell, images: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the outputs of ``build_served``'s cell for ``images``, or of `ServedHead` for features, kernel by kernel.

    The numbers are those of a graph, whose compilation takes two seconds: too long for one call.
    """
    mode = mindspore.get_context("mode")
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    try:
        starts = range(0, max(1, len(images)), RUN_AT_ONCE)
        return np.concatenate([as_array(cell(Tensor(images[start : start + RUN_AT_ONCE]))) for start in starts])
    finally:
        mindspore.set_context(mode=mode)


def as_array(outputs: Answers) -> NDArray[np.float32]:
    """Return what a served cell gave, float32 (N, outputs); outlier scores are the last column."""
    tensors = outputs if isinstance(outputs, tuple) else (outputs,)
    return np.concatenate([tensor.asnumpy() for tensor in tensors], axis=1, dtype=np.float32)


class Scaling(nn.Cell):
    """uint8 (N, H, W, 3) RGB -> normalised float32 (N, 3, H, W), by the spec's scale and offset."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.scale, self.offset = (
            Tensor(np.array(values, np.float32).reshape(1, 3, 1, 1)) for values in (spec.scale, spec.offset)
        )

    def construct(self, images: mindspore.Tensor) -> mindspore.Tensor:
        planes = ops.transpose(ops.cast(images, mindspore.float32), (0, 3, 1, 2))
        return planes * self.scale + self.offset


class FeatureExtractor(nn.Cell):
    """uint8 (N, H, W, 3) RGB -> features float32 (N, F); the frozen part of a network."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__()
        self.spec = network.spec
        self.scaling = Scaling(network.spec)
        self.backbone = network.backbone
        self.set_train(False)  # batch norm by its stored mean and variance

    def construct(self, images: mindspore.Tensor) -> Answers:
        return self.backbone(self.scaling(images))


class ServedNetwork(FeatureExtractor):
    """uint8 (N, H, W, 3) RGB -> probabilities float32 (N, classes), softmax(logits / temperature), as `Answers`."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(network)
        self.head = network.head
        self.temperature = network.spec.temperature
        self.outlier_distance = network.spec.outlier_distance
        self.head.set_train(False)

    def construct(self, images: mindspore.Tensor) -> Answers:
        features = self.backbone(self.scaling(images))
        return self.head.answered(features, self.temperature, self.outlier_distance)


class ServedHead(nn.Cell):
    """Features float32 (N, F) -> what `ServedNetwork` makes of them."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__()
        self.spec = network.spec
        self.head = network.head
        self.temperature = network.spec.temperature
        self.outlier_distance = network.spec.outlier_distance
        self.set_train(False)

    def construct(self, features: mindspore.Tensor) -> Answers:
        return self.head.answered(features, self.temperature, self.outlier_distance)
