"""A network as it is trained: a backbone, and a head on its features."""

from __future__ import annotations

import mindspore
from mindspore import nn

from vision.errors import VisionError
from vision.networks.heads import Head
from vision.networks.layered import LayeredSpec
from vision.networks.spec import NetworkSpec


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
