"""Networks as they are served: uint8 pictures in, so no worker can scale or order channels in a way of its own."""

from __future__ import annotations

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import NDArray

from vision.networks.conventions import Channels
from vision.networks.spec import NetworkSpec


def build_served(network: nn.Cell) -> nn.Cell:
    """Return the cell to export or run: ``ServedNetwork``, or ``FeatureExtractor`` for a network without a head."""
    return ServedNetwork(network) if network.spec.classes else FeatureExtractor(network)


def run_once(cell: nn.Cell, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the outputs of ``build_served``'s cell for ``images``, computed kernel by kernel.

    The numbers are those of a graph, whose compilation takes two seconds: too long for one call.
    """
    mode = mindspore.get_context("mode")
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    try:
        outputs: NDArray[np.float32] = cell(Tensor(images)).asnumpy().astype(np.float32)
    finally:
        mindspore.set_context(mode=mode)
    return outputs


class Scaling(nn.Cell):
    """uint8 (N, H, W, 3) RGB -> normalised float32 (N, 3, H, W), by the spec's scale and offset."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.scale = _channel_tensor(spec.scale)
        self.offset = _channel_tensor(spec.offset)

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

    def construct(self, images: mindspore.Tensor) -> mindspore.Tensor:
        return self.backbone(self.scaling(images))


class ServedNetwork(nn.Cell):
    """uint8 (N, H, W, 3) RGB -> probabilities float32 (N, classes): softmax(logits / temperature)."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__()
        self.spec = network.spec
        self.scaling = Scaling(network.spec)
        self.backbone = network.backbone
        self.head = network.head
        self.temperature = network.spec.temperature
        self.set_train(False)

    def construct(self, images: mindspore.Tensor) -> mindspore.Tensor:
        logits = self.head(self.backbone(self.scaling(images)))
        return ops.softmax(logits / self.temperature, -1)


def _channel_tensor(values: Channels) -> mindspore.Tensor:
    return Tensor(np.array(values, np.float32).reshape(1, 3, 1, 1))
