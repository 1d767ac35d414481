"""A network in two parts: a frozen one, computed once for each image, and the one that is trained on its outputs."""

from __future__ import annotations

import re
from dataclasses import replace

import mindspore
from mindspore import nn, ops

from vision.errors import VisionError
from vision.networks import (
    FeatureExtractor,
    LayeredSpec,
    NetworkSpec,
    Scaling,
    backbone_only,
    build_network,
    get_weights,
    set_weights,
)


def frozen_spec(spec: NetworkSpec, freeze: str) -> NetworkSpec:
    """Return the spec of the frozen part; its ``outputs`` are the flat inputs of the trained part.

    Raises:
        VisionError: ``freeze`` names no layer of this network.
    """
    # What is no matter to the part is brought to its default: features are kept under the part's spec.
    plain = replace(spec, classes=0, rbf_centers=0, head_bias=True, temperature=1.0, outlier_distance=0.0)
    cut = cut_of(spec, freeze)
    return replace(plain, cut=cut, pooling="mean") if cut and isinstance(plain, LayeredSpec) else plain


def cut_of(spec: NetworkSpec, freeze: str) -> int:
    """Return the N of "features.N", before which layers are frozen; 0 for "backbone" and "none".

    Raises:
        VisionError: ``freeze`` says something else, or the network has no such layer.
    """
    found = re.fullmatch(r"backbone|none|features\.([1-9][0-9]?)", freeze)
    last = len(spec.maps) - 1 if isinstance(spec, LayeredSpec) else 0
    if found is None or int(found[1] or 0) > last:
        layers = f", or features.1 to features.{last}" if last else ""
        raise VisionError(f"freeze is {freeze!r}; for {spec.name} it must be backbone, none{layers}")
    return int(found[1] or 0)


def build_frozen(network: nn.Cell, freeze: str) -> nn.Cell:
    """Return a cell of its own, with copies of the weights: uint8 (N, H, W, 3) RGB -> flat float32 (N, outputs)."""
    spec = frozen_spec(network.spec, freeze)
    cut = cut_of(spec, freeze)
    copy = build_network(replace(spec, cut=0) if cut and isinstance(spec, LayeredSpec) else spec)
    set_weights(copy, backbone_only(get_weights(network), spec))
    if cut:
        copy.spec = spec
        copy.backbone = nn.SequentialCell([*list(copy.backbone.features)[:cut], nn.Flatten()])
    return FeatureExtractor(copy)


def build_trained(network: nn.Cell, freeze: str, *, batch_norm_frozen: bool) -> nn.Cell:
    """Return the trained part, which shares the network's parameters: flat inputs, or for "none" pictures -> logits.

    With ``batch_norm_frozen`` batch norm keeps the statistics that it came with; scale and offset are still trained.
    """
    if freeze == "backbone":
        return network.head
    cut = 0 if freeze == "none" else cut_of(network.spec, freeze)
    part = TrainedPart(_UpperLayers(network, cut) if cut else whole_body(network), network.head)
    if batch_norm_frozen:
        for _, cell in part.cells_and_names():
            if isinstance(cell, nn.BatchNorm2d):
                cell.use_batch_statistics = False
    return part


class TrainedPart(nn.Cell):
    """Pictures or flat maps -> logits (N, classes); dropout acts between ``body`` and ``head``."""

    def __init__(self, body: nn.Cell, head: nn.Cell) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def construct(self, inputs: mindspore.Tensor) -> mindspore.Tensor:
        return self.head(self.body(inputs))


def whole_body(network: nn.Cell) -> nn.Cell:
    """Return all before the head: uint8 (N, H, W, 3) RGB -> features."""
    return nn.SequentialCell([Scaling(network.spec), network.backbone])


class _UpperLayers(nn.Cell):
    """Flat maps float32 (N, C * h * w) before layer ``cut`` -> features (N, F)."""

    def __init__(self, network: nn.Cell, cut: int) -> None:
        super().__init__()
        self.shape = (-1, *network.spec.map_before(cut))
        self.layers = nn.SequentialCell(list(network.backbone.features)[cut:])
        self.takes_max = network.spec.pooling == "max"

    def construct(self, maps: mindspore.Tensor) -> mindspore.Tensor:
        maps = self.layers(ops.reshape(maps, self.shape))
        return ops.amax(maps, (2, 3)) if self.takes_max else ops.mean(maps, (2, 3))
