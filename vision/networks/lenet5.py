"""LeNet-5 after LeCun et al. 1998 ("Gradient-based learning applied to document recognition", figure 2), for RGB input.

Layer sizes are the paper's (6, 16, 120, 84). Activation, pooling and output are today's usual ones (ReLU, max, dense)
instead of its scaled tanh, trainable subsampling and Gaussian connections.
"""

from __future__ import annotations

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeNormal

from vision.networks.heads import Head
from vision.networks.spec import NetworkSpec

LUMA_RGB = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights that JPEG and OpenCV's grey conversion use


class LeNet5(nn.Cell):
    """Normalised float32 (N, 3, H, W) -> logits (N, classes), or features (N, 84) when ``spec.classes`` is 0.

    Attributes:
        backbone: normalised float32 (N, 3, H, W) -> features (N, 84).
        head: features -> logits; absent when ``spec.classes`` is 0.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.has_head = spec.classes > 0
        self.backbone = LeNet5Backbone(spec)
        if self.has_head:
            self.head = Head(spec)

    def construct(self, images: mindspore.Tensor) -> mindspore.Tensor:
        features = self.backbone(images)
        return self.head(features) if self.has_head else features


class LeNet5Backbone(nn.Cell):
    """Normalised float32 (N, 3, H, W) -> features float32 (N, 84); colour is reduced to luma first."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.luma = Tensor(np.array(LUMA_RGB, np.float32).reshape(1, 3, 1, 1))
        self.conv1 = _convolution(1, 6)
        self.conv2 = _convolution(6, 16)
        self.fc1 = _dense(16 * pooled_size_px(spec.height_px) * pooled_size_px(spec.width_px), 120)
        self.fc2 = _dense(120, spec.features)
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
