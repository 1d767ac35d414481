"""LeNet-5 after LeCun et al. 1998 ("Gradient-based learning applied to document recognition", figure 2), for RGB input.

Layer sizes are the paper's (6, 16, 120, 84). Activation, pooling and output are today's usual ones (ReLU, max, dense)
instead of its scaled tanh, trainable subsampling and Gaussian connections.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeNormal
from numpy.typing import NDArray

from vision.images import Fit
from vision.networks.spec import NetworkSpec
from vision.networks.weight_names import Naming, Translation

LUMA_RGB: Final = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights that JPEG and OpenCV's grey conversion use
FEATURES: Final = 84
ARRAYS: Final[Mapping[str, tuple[int, ...]]] = {
    "conv1": (6, 1, 5, 5),
    "conv2": (16, 6, 5, 5),
    "fc1": (120, -1),
    "fc2": (FEATURES, 120),
    "fc3": (-1, FEATURES),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LeNet5Spec(NetworkSpec):
    """LeNet-5 for pictures of 16 to 1024 pixels a side; its names are those of the paper's layers."""

    name: ClassVar[str] = "lenet5"
    min_size_px: ClassVar[int] = 16  # below, the second pooling has nothing left
    usual_fit: ClassVar[Fit] = "stretch"
    head_name: ClassVar[str] = "fc3"
    checkpoint_naming: ClassVar[str] = "LeNet-5"

    @property
    def features(self) -> int:
        return FEATURES

    def build_backbone(self) -> nn.Cell:
        return LeNet5Backbone(self)

    @classmethod
    def namings(cls) -> dict[str, Naming]:
        weights = [Translation(f"{name}.weight", f"{name}.weight", shape) for name, shape in ARRAYS.items()]
        biases = [Translation(f"{name}.bias", f"{name}.bias", shape[:1]) for name, shape in ARRAYS.items()]
        return {"LeNet-5": Naming([*weights, *biases])}

    @classmethod
    def size_px_of(cls, named: Mapping[str, NDArray[Any]]) -> int:
        """Return the smallest square input whose last maps, of 16 channels, are as many numbers as fc1 takes."""
        flat = named["fc1.weight"].shape[-1] if "fc1.weight" in named else 400
        return 4 * math.isqrt(flat // 16) + 12


class LeNet5Backbone(nn.Cell):
    """Normalised float32 (N, 3, H, W) -> features float32 (N, 84); colour is reduced to luma first."""

    def __init__(self, spec: LeNet5Spec) -> None:
        super().__init__()
        self.luma = Tensor(np.array(LUMA_RGB, np.float32).reshape(1, 3, 1, 1))
        self.conv1 = _convolution(1, 6)
        self.conv2 = _convolution(6, 16)
        self.fc1 = _dense(16 * pooled_size_px(spec.height_px) * pooled_size_px(spec.width_px), 120)
        self.fc2 = _dense(120, FEATURES)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        self.flatten = nn.Flatten()

    def construct(self, images: mindspore.Tensor) -> mindspore.Tensor:
        maps = ops.sum(images * self.luma, 1, True)  # (N, 1, H, W)
        maps = self.pool(self.relu(self.conv1(maps)))
        maps = self.pool(self.relu(self.conv2(maps)))
        features = self.relu(self.fc1(self.flatten(maps)))
        return self.relu(self.fc2(features))


def pooled_size_px(size_px: int) -> int:
    """Return the side of the last feature map: two rounds of a 5x5 convolution without padding and a 2x2 pooling."""
    return ((size_px - 4) // 2 - 4) // 2


def _convolution(channels_in: int, channels_out: int) -> nn.Cell:
    return nn.Conv2d(
        channels_in, channels_out, 5, pad_mode="valid", has_bias=True, weight_init=HeNormal(), bias_init="zeros"
    )


def _dense(size_in: int, size_out: int) -> nn.Cell:
    return nn.Dense(size_in, size_out, HeNormal(), "zeros")
