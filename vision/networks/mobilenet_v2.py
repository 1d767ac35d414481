"""MobileNetV2, width 1.0: Sandler et al. 2018 (arXiv:1801.04381), table 2.

Cells are nested so that parameter names are torchvision's apart from batch norm's (gamma, beta, moving_mean,
moving_variance), which keeps the translation in ``vision.weights`` to one line a layer.
"""

from __future__ import annotations

import mindspore
from mindspore import nn, ops
from mindspore.common.initializer import HeNormal, Normal

from vision.networks.spec import BOTTLENECKS, LAST_CHANNELS, STEM_CHANNELS, NetworkSpec


class MobileNetV2(nn.Cell):
    """Normalised float32 (N, 3, H, W) -> logits (N, classes), or features (N, 1280) when ``spec.classes`` is 0.

    Attributes:
        backbone: normalised float32 (N, 3, H, W) -> features (N, 1280), pooled.
        head: features -> logits; absent when ``spec.classes`` is 0.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.has_head = spec.classes > 0
        self.backbone = MobileNetV2Backbone(spec)
        if self.has_head:
            # 0.01: as the published networks start their classifier, so that first probabilities are near uniform.
            dense = nn.Dense(spec.features, spec.classes, Normal(0.01), "zeros", has_bias=spec.head_bias)
            self.head = nn.SequentialCell([nn.Dropout(p=spec.dropout), dense])

    def construct(self, images: mindspore.Tensor) -> mindspore.Tensor:
        features = self.backbone(images)
        return self.head(features) if self.has_head else features


class MobileNetV2Backbone(nn.Cell):
    """Normalised float32 (N, 3, H, W) -> features float32 (N, 1280), pooled over the last feature map."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.takes_max = spec.pooling == "max"
        layers: list[nn.Cell] = [nn.SequentialCell(_conv_bn(spec, 3, STEM_CHANNELS, kernel=3, stride=2))]
        channels_in = STEM_CHANNELS
        for expansion, channels, repeats, first_stride in BOTTLENECKS:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                layers.append(InvertedResidual(spec, channels_in, channels, stride, expansion))
                channels_in = channels
        layers.append(nn.SequentialCell(_conv_bn(spec, channels_in, LAST_CHANNELS)))
        self.features = nn.SequentialCell(layers)

    def construct(self, images: mindspore.Tensor) -> mindspore.Tensor:
        maps = self.features(images)
        return ops.amax(maps, (2, 3)) if self.takes_max else ops.mean(maps, (2, 3))


class InvertedResidual(nn.Cell):
    """Expand, depthwise, project (table 1 of the paper); adds its input where shapes allow (figure 4d)."""

    def __init__(self, spec: NetworkSpec, channels_in: int, channels_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.adds_input = stride == 1 and channels_in == channels_out
        hidden = channels_in * expansion
        layers: list[nn.Cell] = []
        if expansion != 1:
            layers.append(nn.SequentialCell(_conv_bn(spec, channels_in, hidden)))
        layers.append(nn.SequentialCell(_conv_bn(spec, hidden, hidden, kernel=3, stride=stride, groups=hidden)))
        layers.extend(_conv_bn(spec, hidden, channels_out, activation=False))  # linear bottleneck: no ReLU6
        self.conv = nn.SequentialCell(layers)

    def construct(self, maps: mindspore.Tensor) -> mindspore.Tensor:
        projected = self.conv(maps)
        return maps + projected if self.adds_input else projected


def _conv_bn(
    spec: NetworkSpec,
    channels_in: int,
    channels_out: int,
    *,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: bool = True,
) -> list[nn.Cell]:
    """Return convolution, batch norm and, unless linear, ReLU6."""
    # The two agree at stride 1; at stride 2 and even sizes they sample grids one pixel apart.
    padding = {"pad_mode": "same"} if spec.same_padding else {"pad_mode": "pad", "padding": kernel // 2}
    convolution = nn.Conv2d(
        channels_in,
        channels_out,
        kernel,
        stride,
        group=groups,
        has_bias=False,
        # By fan-in, which is 9 for a depthwise filter: by fan-out an untrained network's features vanish (1e-9).
        weight_init=HeNormal(mode="fan_in"),
        **padding,
    )
    layers = [convolution, nn.BatchNorm2d(channels_out, eps=spec.batch_norm_epsilon)]
    return [*layers, nn.ReLU6()] if activation else layers
