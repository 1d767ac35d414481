"""ResNet-18: He et al. 2015 (arXiv:1512.03385), table 1, with projections where shapes change (option B)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import mindspore
from mindspore import nn

from vision.networks.layered import LayeredSpec, conv_bn
from vision.networks.weight_names import TORCH_BN, Naming, Translation, batch_norm, dense_layer

STEM_CHANNELS: Final = 64
STAGES: Final = (64, 128, 256, 512)  # output channels; each stage has two blocks, and all but the first halve the map
LAST_CHANNELS: Final = STAGES[-1]


def blocks() -> list[tuple[str, int, int, int]]:
    """Return (torchvision's name, input channels, output channels, stride) of blocks 1 to 8."""
    found, channels_in = [], STEM_CHANNELS
    for stage, channels in enumerate(STAGES, start=1):
        for repeat in range(2):
            found.append((f"layer{stage}.{repeat}", channels_in, channels, 2 if stage > 1 and repeat == 0 else 1))
            channels_in = channels
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNet18Spec(LayeredSpec):
    """ResNet-18 of 9 layers: stem with its pooling, 8 blocks. An intermediate map is the one that goes into a block."""

    name: ClassVar[str] = "resnet18"
    head_name: ClassVar[str] = "fc"
    checkpoint_naming: ClassVar[str] = "torchvision and timm"
    conventions: ClassVar[tuple[str, ...]] = ("torch",)
    maps: ClassVar[tuple[tuple[int, int], ...]] = (
        (STEM_CHANNELS, 4),
        *((channels, stride) for _, _, channels, stride in blocks()),
    )
    intermediate: ClassVar[range] = range(1, 9)

    def build_layers(self) -> list[nn.Cell]:
        # Behind the ReLU 0 is the least value, so it may pad. MindSpore has no ONNX of a pooling that pads by itself.
        pooling = [nn.Pad(((0, 0), (0, 0), (1, 1), (1, 1))), nn.MaxPool2d(kernel_size=3, stride=2)]
        stem = [*conv_bn(self, 3, STEM_CHANNELS, 7, 2, fan="fan_out"), nn.ReLU(), *pooling]
        return [nn.SequentialCell(stem), *(BasicBlock(self, *shape) for _, *shape in blocks())]

    @classmethod
    def our_name(cls, cell: str) -> str:
        """Return torchvision's name of a cell such as "features.3.conv1": "layer2.0.conv1"."""
        _, layer, part = cell.split(".", 2)
        return {"0": "conv1", "1": "bn1"}[part] if layer == "0" else f"{blocks()[int(layer) - 1][0]}.{part}"

    @classmethod
    def namings(cls) -> dict[str, Naming]:
        # MindSpore's model zoo has other names, and pools with other padding: its files are refused by their names.
        head = dense_layer(cls.head_name, cls.head_name, LAST_CHANNELS)
        return {"torchvision and timm": Naming([*_arrays(), *head])}


class BasicBlock(nn.Cell):
    """Two 3x3 convolutions and a shortcut around them (figure 2 of the paper)."""

    def __init__(self, spec: LayeredSpec, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(spec, channels_in, channels_out, 3, stride, fan="fan_out")
        self.conv2, self.bn2 = conv_bn(spec, channels_out, channels_out, 3, fan="fan_out")
        self.projects = stride != 1 or channels_in != channels_out
        if self.projects:
            self.downsample = nn.SequentialCell(conv_bn(spec, channels_in, channels_out, 1, stride, fan="fan_out"))
        self.relu = nn.ReLU()

    def construct(self, maps: mindspore.Tensor) -> mindspore.Tensor:
        shortcut = self.downsample(maps) if self.projects else maps
        maps = self.relu(self.bn1(self.conv1(maps)))
        return self.relu(self.bn2(self.conv2(maps)) + shortcut)

    def intermediate(self, maps: mindspore.Tensor) -> mindspore.Tensor:
        """Return the map (N, C, H, W) that goes into the block."""
        return maps


def _arrays() -> Iterator[Translation]:
    """Yield all arrays but the head's; the names of torchvision and timm are ours."""
    yield from _layer("conv1", "bn1", (STEM_CHANNELS, 3, 7, 7))
    for block, channels_in, channels, stride in blocks():
        yield from _layer(f"{block}.conv1", f"{block}.bn1", (channels, channels_in, 3, 3))
        yield from _layer(f"{block}.conv2", f"{block}.bn2", (channels, channels, 3, 3))
        if stride != 1 or channels_in != channels:
            yield from _layer(f"{block}.downsample.0", f"{block}.downsample.1", (channels, channels_in, 1, 1))


def _layer(convolution: str, norm: str, shape: tuple[int, int, int, int]) -> Iterator[Translation]:
    yield Translation(f"{convolution}.weight", f"{convolution}.weight", shape)
    yield from batch_norm(norm, norm, shape[0], TORCH_BN)
