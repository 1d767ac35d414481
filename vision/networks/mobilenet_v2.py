"""MobileNetV2, width 1.0: Sandler et al. 2018 (arXiv:1801.04381), table 2.

Cells are nested so that parameter names are torchvision's apart from batch norm's (gamma, beta, moving_mean,
moving_variance), which keeps the translation in ``vision.networks.weights`` to one line a layer.
"""

from __future__ import annotations

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeNormal
from numpy.typing import NDArray

from vision.networks.heads import Head
from vision.networks.spec import BOTTLENECKS, LAST_CHANNELS, MIN_SIZE_PX, STEM_CHANNELS, NetworkSpec, blocks

TINY = 1e-12

Tensors = tuple[mindspore.Tensor, ...]


class MobileNetV2(nn.Cell):
    """Normalised float32 (N, 3, H, W) -> logits (N, classes), or features (N, F) when ``spec.classes`` is 0.

    Attributes:
        backbone: normalised float32 (N, 3, H, W) -> features (N, F), pooled.
        head: features -> logits; absent when ``spec.classes`` is 0.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.has_head = spec.classes > 0
        self.backbone = MobileNetV2Backbone(spec)
        if self.has_head:
            self.head = Head(spec)

    def construct(self, images: mindspore.Tensor) -> mindspore.Tensor:
        features = self.backbone(images)
        return self.head(features) if self.has_head else features


class MobileNetV2Backbone(nn.Cell):
    """Normalised float32 (N, 3, H, W) -> features float32 (N, F), pooled over the last feature map and the taps'.

    Of each scale of the picture, the largest first: the features of the taps in order, then those of the last map.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.taps = spec.taps
        self.takes_max = spec.pooling == "max"
        self.root = spec.root
        layers: list[nn.Cell] = [nn.SequentialCell(_conv_bn(spec, 3, STEM_CHANNELS, kernel=3, stride=2))]
        layers += [InvertedResidual(spec, *block) for block in blocks()]
        layers.append(nn.SequentialCell(_conv_bn(spec, BOTTLENECKS[-1][1], LAST_CHANNELS)))
        self.features = nn.SequentialCell(layers)
        self.views = nn.CellList([PictureScale(spec, scale) for scale in spec.scales])

    def construct(self, images: mindspore.Tensor) -> mindspore.Tensor:
        found: Tensors = ()
        for view in self.views:
            pooled: Tensors = ()
            for picture in view(images):
                own = self.pooled_maps(picture)
                pooled = own if len(pooled) == 0 else self.averaged(pooled, own)
            for features in pooled:
                found = (*found, self.finished(features))
        return found[0] if len(found) == 1 else ops.concat(found, 1)

    def pooled_maps(self, maps: mindspore.Tensor) -> Tensors:
        """Return the pooled maps of one picture, each (N, C): the taps' in order, then the last one's."""
        found: Tensors = ()
        for number, layer in enumerate(self.features.cell_list):
            if number in self.taps:
                found = (*found, self.pooled(layer.expanded(maps)))
            maps = layer(maps)
        return (*found, self.pooled(maps))

    def pooled(self, maps: mindspore.Tensor) -> mindspore.Tensor:
        return ops.amax(maps, (2, 3)) if self.takes_max else ops.mean(maps, (2, 3))

    def averaged(self, ours: Tensors, theirs: Tensors) -> Tensors:
        found: Tensors = ()
        for number in range(len(ours)):
            found = (*found, (ours[number] + theirs[number]) / 2)
        return found

    def finished(self, features: mindspore.Tensor) -> mindspore.Tensor:
        if not self.root:
            return features
        # Behind ReLU6 nothing is negative. Of root features the squared length is the sum of the plain ones.
        return ops.sqrt(features / (ops.sum(features, 1, True) + TINY))


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

    def expanded(self, maps: mindspore.Tensor) -> mindspore.Tensor:
        """Return the map (N, 6 C, H, W) between expansion and depthwise convolution."""
        return self.conv[0](maps)


class PictureScale(nn.Cell):
    """Pictures (N, 3, H, W) -> the same at one scale; with ``spec.mirrored`` beside their mirror images.

    Scaling is linear in rows and in columns, so it is two products with constant matrices: every engine has them, and
    none has rules of its own for them. A mirror image is a matrix with its columns in reverse.
    """

    def __init__(self, spec: NetworkSpec, scale: float) -> None:
        super().__init__()
        rows, columns = (resampling(side, scale) for side in (spec.height_px, spec.width_px))
        self.is_plain = scale == 1.0
        self.is_mirrored = spec.mirrored
        self.rows = Tensor(rows)
        self.columns = Tensor(np.ascontiguousarray(columns.T))
        self.columns_mirrored = Tensor(np.ascontiguousarray(columns.T[:, ::-1]))

    def construct(self, images: mindspore.Tensor) -> Tensors:
        if not self.is_plain:
            images = ops.matmul(self.rows, images)
        picture = images if self.is_plain else ops.matmul(images, self.columns)
        return (picture, ops.matmul(images, self.columns_mirrored)) if self.is_mirrored else (picture,)


def resampling(side_px: int, scale: float) -> NDArray[np.float32]:
    """Return (side * scale, side): bicubic weights of the old pixels for each new one, widened where pixels shrink.

    As Pillow's bicubic resize: Keys 1981 ("Cubic convolution interpolation") with a = -1/2; weights sum to 1.
    """
    new = max(MIN_SIZE_PX, round(side_px * scale))
    step = side_px / new
    centres = (np.arange(new) + 0.5) * step - 0.5
    x = np.abs(centres[:, None] - np.arange(side_px)) / max(step, 1.0)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


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
