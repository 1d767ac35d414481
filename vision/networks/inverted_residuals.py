"""Networks of inverted residuals (Sandler et al. 2018, arXiv:1801.04381): a stem, blocks, a last convolution.

Cells are nested so that parameter names are those of torchvision's MobileNetV2, apart from batch norm's (gamma, beta,
moving_mean, moving_variance), which keeps the translation in ``vision.networks.weights`` to one line a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import mindspore
from mindspore import nn

from vision.networks.layered import LayeredSpec, conv_bn
from vision.networks.weight_names import AS_IS, HWIM, HWIO, TORCH_BN, Naming, Translation, batch_norm, dense_layer


class Stage(NamedTuple):
    """A row of a network's table: expansion t, output channels c, repeats n, first stride s, depthwise kernel."""

    expansion: int
    channels: int
    repeats: int
    stride: int
    kernel: int = 3


class Block(NamedTuple):
    """An inverted residual; ``stage`` is its row of the table and ``repeat`` its place there, both from 0."""

    channels_in: int
    channels_out: int
    stride: int
    expansion: int
    kernel: int
    stage: int
    repeat: int


def blocks_of(stages: Iterable[Stage], channels_in: int) -> tuple[Block, ...]:
    """Return the blocks of a table, behind a stem of ``channels_in`` output channels."""
    found = []
    for number, stage in enumerate(stages):
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            found.append(Block(channels_in, stage.channels, stride, stage.expansion, stage.kernel, number, repeat))
            channels_in = stage.channels
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class InvertedResidualSpec(LayeredSpec):
    """A network whose layers are the stem, ``blocks``, the last convolution. Block 1 expands nothing.

    An intermediate map is a block's expanded one.
    """

    stem_channels: ClassVar[int] = 32
    last_channels: ClassVar[int] = 1280
    blocks: ClassVar[tuple[Block, ...]]

    def __init_subclass__(cls) -> None:
        if "blocks" in vars(cls):
            blocks = [(block.channels_out, block.stride) for block in cls.blocks]
            cls.maps = ((cls.stem_channels, 2), *blocks, (cls.last_channels, 1))
            cls.intermediate = range(2, len(cls.blocks) + 1)

    def build_layers(self) -> list[nn.Cell]:
        layers = [_conv_bn_relu6(self, 3, self.stem_channels, 3, 2)]
        layers += [InvertedResidual(self, block) for block in self.blocks]
        return [*layers, _conv_bn_relu6(self, self.blocks[-1].channels_out, self.last_channels)]

    def intermediate_channels(self, layer: int) -> int:
        block = self.blocks[layer - 1]
        return block.channels_in * block.expansion

    @classmethod
    def naming(
        cls,
        naming: Callable[[Layer], tuple[str, str]],
        head: list[Translation],
        ends: tuple[str, ...] = TORCH_BN,
        separator: str = ".",
        convention: str = "torch",
    ) -> Naming:
        """Return how a project names every array.

        Args:
            naming: gives the full name of a convolution's weight, and the prefix of its batch norm's names.
            head: the names of the classifier.
            ends, separator: of batch norm's names. A "/" means TensorFlow's layouts.
        """
        found = []
        for layer in cls.convolutions():
            convolution, prefix = naming(layer)
            layout = AS_IS if separator == "." else HWIM if layer.part == "depthwise" else HWIO
            found.append(Translation(convolution, f"{layer.convolution}.weight", layer.shape, layout))
            found += batch_norm(prefix, layer.batch_norm, layer.shape[0], ends, separator)
        return Naming(found + head, convention)

    @classmethod
    def convolutions(cls) -> Iterator[Layer]:
        """Yield the convolutions in the order of the forward pass."""
        yield Layer(0, "stem", "features.0.0", "features.0.1", (cls.stem_channels, 3, 3, 3))
        for number, block in enumerate(cls.blocks, start=1):
            at, hidden, position = f"features.{number}.conv", block.channels_in * block.expansion, 0
            place = block.stage, block.repeat
            if block.expansion != 1:
                yield Layer(number, "expand", f"{at}.0.0", f"{at}.0.1", (hidden, block.channels_in, 1, 1), *place)
                position = 1
            names = f"{at}.{position}.0", f"{at}.{position}.1"
            yield Layer(number, "depthwise", *names, (hidden, 1, block.kernel, block.kernel), *place)
            names = f"{at}.{position + 1}", f"{at}.{position + 2}"
            yield Layer(number, "project", *names, (block.channels_out, hidden, 1, 1), *place)
        last, channels = f"features.{number + 1}", block.channels_out
        yield Layer(number + 1, "last", f"{last}.0", f"{last}.1", (cls.last_channels, channels, 1, 1))

    @classmethod
    def head(cls, foreign: str) -> list[Translation]:
        """Translate a classifier in the layout of ours."""
        return dense_layer(foreign, cls.head_name, cls.last_channels)


class Layer(NamedTuple):
    """One convolution with its batch norm: ``block`` from 0 (stem) on, ``part`` within a block."""

    block: int
    part: str  # "stem", "expand", "depthwise", "project" or "last"
    convolution: str  # our names
    batch_norm: str
    shape: tuple[int, int, int, int]  # of the convolution's weight, OIHW
    stage: int = 0
    repeat: int = 0


class InvertedResidual(nn.Cell):
    """Expand, depthwise, project (table 1 of the paper); adds its input where shapes allow (figure 4d)."""

    def __init__(self, spec: LayeredSpec, block: Block) -> None:
        super().__init__()
        self.adds_input = block.stride == 1 and block.channels_in == block.channels_out
        hidden = block.channels_in * block.expansion
        layers: list[nn.Cell] = []
        if block.expansion != 1:
            layers.append(_conv_bn_relu6(spec, block.channels_in, hidden))
        layers.append(_conv_bn_relu6(spec, hidden, hidden, block.kernel, block.stride, groups=hidden))
        layers.extend(conv_bn(spec, hidden, block.channels_out))  # linear bottleneck: no ReLU6
        self.conv = nn.SequentialCell(layers)

    def construct(self, maps: mindspore.Tensor) -> mindspore.Tensor:
        projected = self.conv(maps)
        return maps + projected if self.adds_input else projected

    def intermediate(self, maps: mindspore.Tensor) -> mindspore.Tensor:
        """Return the map (N, t C, H, W) between expansion and depthwise convolution."""
        return self.conv[0](maps)


def _conv_bn_relu6(
    spec: LayeredSpec, channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Cell:
    # By fan-in, which is 9 for a 3x3 depthwise filter: by fan-out an untrained network's features vanish (1e-9).
    return nn.SequentialCell([*conv_bn(spec, channels_in, channels_out, kernel, stride, groups=groups), nn.ReLU6()])


def torchvision_names(layer: Layer) -> tuple[str, str]:
    """Return our own names."""
    return f"{layer.convolution}.weight", layer.batch_norm


def timm_names(layer: Layer) -> tuple[str, str]:
    if layer.part == "stem":
        return "conv_stem.weight", "bn1"
    if layer.part == "last":
        return "conv_head.weight", "bn2"
    if layer.stage == 0:  # timm's depthwise-separable block: conv_dw, bn1, conv_pw, bn2
        convolution, norm = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}[layer.part]
    else:
        parts = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
        convolution, norm = parts[layer.part]
    prefix = f"blocks.{layer.stage}.{layer.repeat}"
    return f"{prefix}.{convolution}.weight", f"{prefix}.{norm}"
