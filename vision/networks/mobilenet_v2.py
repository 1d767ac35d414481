"""MobileNetV2, width 1.0: Sandler et al. 2018 (arXiv:1801.04381), table 2.

Cells are nested so that parameter names are torchvision's apart from batch norm's (gamma, beta, moving_mean,
moving_variance), which keeps the translation in ``vision.networks.weights`` to one line a layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import mindspore
from mindspore import nn

from vision.networks.layered import LayeredSpec, conv_bn
from vision.networks.spec import FloatEnds
from vision.networks.weight_names import (
    AS_IS,
    CONV_DENSE,
    DENSE,
    FOLDED,
    HWIM,
    HWIO,
    TF_BN,
    TORCH_BN,
    Naming,
    Translation,
    batch_norm,
    dense_layer,
    plain_name,
)

# Table 2: expansion t, output channels c, repeats n, first stride s
BOTTLENECKS: Final = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_CHANNELS: Final = 32
LAST_CHANNELS: Final = 1280


def blocks() -> list[tuple[int, int, int, int]]:
    """Return (input channels, output channels, stride, expansion) of blocks 1 to 17."""
    found, channels_in = [], STEM_CHANNELS
    for expansion, channels, repeats, first_stride in BOTTLENECKS:
        for repeat in range(repeats):
            found.append((channels_in, channels, first_stride if repeat == 0 else 1, expansion))
            channels_in = channels
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class MobileNetV2Spec(LayeredSpec):
    """MobileNetV2 of 19 layers: stem, 17 blocks, last convolution. An intermediate map is a block's expanded one."""

    name: ClassVar[str] = "mobilenet_v2"
    head_name: ClassVar[str] = "classifier.1"
    checkpoint_naming: ClassVar[str] = "MindSpore model zoo"
    tells_near_duplicates: ClassVar[bool] = True
    # The stem and the first block, and the last three blocks: with them in 8 bits, too, the answers to 5 % of the waste
    # photos changed, so it takes 2 to 3 %.
    float_ends: ClassVar[FloatEnds | None] = FloatEnds(first=3, last=9)
    maps: ClassVar[tuple[tuple[int, int], ...]] = (
        (STEM_CHANNELS, 2),
        *((channels, stride) for _, channels, stride, _ in blocks()),
        (LAST_CHANNELS, 1),
    )
    intermediate: ClassVar[range] = range(2, 18)  # block 1 expands nothing

    def build_layers(self) -> list[nn.Cell]:
        layers: list[nn.Cell] = [conv_bn_relu6(self, 3, STEM_CHANNELS, 3, 2)]
        layers += [InvertedResidual(self, *block) for block in blocks()]
        layers.append(conv_bn_relu6(self, BOTTLENECKS[-1][1], LAST_CHANNELS))
        return layers

    def intermediate_channels(self, layer: int) -> int:
        channels_in, _, _, expansion = blocks()[layer - 1]
        return channels_in * expansion

    @classmethod
    def namings(cls) -> dict[str, Naming]:
        head, size = cls.head_name, LAST_CHANNELS
        keras_head = dense_layer("predictions", head, size, weight="/kernel", bias="/bias", layout=DENSE)
        slim_head = dense_layer(
            "MobilenetV2/Logits/Conv2d_1c_1x1", head, size, weight="/weights", bias="/biases", layout=CONV_DENSE
        )
        return {
            "torchvision": Naming(_arrays(_torchvision, TORCH_BN) + dense_layer(head, head, size)),
            "torchvision, batch norm folded": Naming(_folded() + dense_layer(head, head, size)),
            "timm": Naming(_arrays(_timm, TORCH_BN) + dense_layer("classifier", head, size)),
            "Keras": Naming(_arrays(_keras, TF_BN, "/") + keras_head, "tf"),
            "TF-Slim": Naming(_arrays(_slim, TF_BN, "/") + slim_head, "tf"),
            "MindSpore model zoo": Naming(_arrays(_zoo, TF_BN) + dense_layer("head", head, size)),
        }

    @classmethod
    def plain_name(cls, stored: str) -> str:
        """Return a stored name without what frameworks wrap around it: of "Conv1/Conv1/kernel:0" "Conv1/kernel"."""
        if "/" not in stored and not stored.endswith(":0"):
            return plain_name(stored)
        parts = stored.removesuffix(":0").split("/")
        parts = [part for index, part in enumerate(parts) if index == 0 or part != parts[index - 1]]
        name = "/".join(parts[-2:] if parts[0] != "MobilenetV2" else parts)  # Keras 2 nests the model's name in front
        name = name.replace("depthwise/depthwise_kernel", "depthwise/kernel")  # Keras 2; Keras 3 says kernel
        return re.sub(r"^Logits/(kernel|bias)$", r"predictions/\1", name)


class InvertedResidual(nn.Cell):
    """Expand, depthwise, project (table 1 of the paper); adds its input where shapes allow (figure 4d)."""

    def __init__(self, spec: LayeredSpec, channels_in: int, channels_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.adds_input = stride == 1 and channels_in == channels_out
        hidden = channels_in * expansion
        layers: list[nn.Cell] = []
        if expansion != 1:
            layers.append(conv_bn_relu6(spec, channels_in, hidden))
        layers.append(conv_bn_relu6(spec, hidden, hidden, 3, stride, groups=hidden))
        layers.extend(conv_bn(spec, hidden, channels_out))  # linear bottleneck: no ReLU6
        self.conv = nn.SequentialCell(layers)

    def construct(self, maps: mindspore.Tensor) -> mindspore.Tensor:
        projected = self.conv(maps)
        return maps + projected if self.adds_input else projected

    def intermediate(self, maps: mindspore.Tensor) -> mindspore.Tensor:
        """Return the map (N, 6 C, H, W) between expansion and depthwise convolution."""
        return self.conv[0](maps)


def conv_bn_relu6(
    spec: LayeredSpec, channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Cell:
    # By fan-in, which is 9 for a depthwise filter: by fan-out an untrained network's features vanish (1e-9).
    return nn.SequentialCell([*conv_bn(spec, channels_in, channels_out, kernel, stride, groups=groups), nn.ReLU6()])


@dataclass(frozen=True, slots=True)
class _Layer:
    """One convolution with its batch norm: ``block`` from 0 (stem) to 18 (last), ``part`` within a block."""

    block: int
    part: str  # "stem", "expand", "depthwise", "project" or "last"
    convolution: str  # our names
    batch_norm: str
    shape: tuple[int, int, int, int]  # of the convolution's weight, OIHW
    stage: int = 0  # row of the paper's table 2 and repeat within it, from 0, for the bottlenecks
    repeat: int = 0


def _layers() -> Iterator[_Layer]:
    """Yield the 52 convolutions in the order of the forward pass, under torchvision's names."""
    yield _Layer(0, "stem", "features.0.0", "features.0.1", (STEM_CHANNELS, 3, 3, 3))
    block, channels = 0, STEM_CHANNELS
    for stage, (expansion, channels_out, repeats, _) in enumerate(BOTTLENECKS):
        for repeat in range(repeats):
            block += 1
            at, hidden, position = f"features.{block}.conv", channels * expansion, 0
            if expansion != 1:
                yield _Layer(block, "expand", f"{at}.0.0", f"{at}.0.1", (hidden, channels, 1, 1), stage, repeat)
                position = 1
            names = f"{at}.{position}.0", f"{at}.{position}.1"
            yield _Layer(block, "depthwise", *names, (hidden, 1, 3, 3), stage, repeat)
            names = f"{at}.{position + 1}", f"{at}.{position + 2}"
            yield _Layer(block, "project", *names, (channels_out, hidden, 1, 1), stage, repeat)
            channels = channels_out
    last = f"features.{block + 1}"
    yield _Layer(block + 1, "last", f"{last}.0", f"{last}.1", (LAST_CHANNELS, channels, 1, 1))


def _arrays(
    naming: Callable[[_Layer], tuple[str, str]], ends: tuple[str, ...], separator: str = "."
) -> list[Translation]:
    """Translate every layer; ``naming`` gives the full name of a convolution's weight and a batch norm's prefix."""
    found = []
    for layer in _layers():
        convolution, prefix = naming(layer)
        layout = AS_IS if separator == "." else HWIM if layer.part == "depthwise" else HWIO
        found.append(Translation(convolution, f"{layer.convolution}.weight", layer.shape, layout))
        found += batch_norm(prefix, layer.batch_norm, layer.shape[0], ends, separator)
    return found


def _folded() -> list[Translation]:
    found = []
    for layer in _layers():
        # Without batch norm in between, the project convolution keeps its place: conv.1 or conv.2, as torchvision's.
        found.append(Translation(f"{layer.convolution}.weight", f"{layer.convolution}.weight", layer.shape))
        found.append(Translation(f"{layer.convolution}.bias", f"{layer.batch_norm}.bias", layer.shape[:1], FOLDED))
    return found


def _torchvision(layer: _Layer) -> tuple[str, str]:
    return f"{layer.convolution}.weight", layer.batch_norm


def _timm(layer: _Layer) -> tuple[str, str]:
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


def _keras(layer: _Layer) -> tuple[str, str]:
    if layer.part == "stem":
        return "Conv1/kernel", "bn_Conv1"
    if layer.part == "last":
        return "Conv_1/kernel", "Conv_1_bn"
    prefix = "expanded_conv" if layer.block == 1 else f"block_{layer.block - 1}"
    return f"{prefix}_{layer.part}/kernel", f"{prefix}_{layer.part}_BN"


def _slim(layer: _Layer) -> tuple[str, str]:
    if layer.part in ("stem", "last"):
        prefix = "MobilenetV2/Conv" if layer.part == "stem" else "MobilenetV2/Conv_1"
        return f"{prefix}/weights", f"{prefix}/BatchNorm"
    block = "expanded_conv" if layer.block == 1 else f"expanded_conv_{layer.block - 1}"
    prefix = f"MobilenetV2/{block}/{layer.part}"
    weights = "depthwise_weights" if layer.part == "depthwise" else "weights"
    return f"{prefix}/{weights}", f"{prefix}/BatchNorm"


def _zoo(layer: _Layer) -> tuple[str, str]:
    # Each convolution, batch norm and ReLU6 is a cell with its own `features`; the linear project layer is not.
    if layer.part == "project":
        return f"{layer.convolution}.weight", layer.batch_norm
    cell = layer.convolution.removesuffix(".0")
    return f"{cell}.features.0.weight", f"{cell}.features.1"
