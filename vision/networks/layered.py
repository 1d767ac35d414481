"""Networks whose backbone is a row of layers that ends in one feature map, and what any of them can be widened by.

Layers can be frozen from the first one on (``cut``), and the features be pooled from more than the last map: from maps
in between, from the picture at several scales, from its mirror image.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeNormal
from numpy.typing import NDArray

from vision.checks import boolean, integer, one_of, positive
from vision.errors import VisionError
from vision.images import bicubic_weights
from vision.networks.spec import CONVENTIONS, WHAT, Channels, NetworkSpec

POOLINGS: Final = ("mean", "max")
MAX_SCALE: Final = 4.0
TINY: Final = 1e-12

Tensors = tuple[mindspore.Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayeredSpec(NetworkSpec):
    """A network of layers, counted from 0, of which the last one's map is pooled into features.

    Attributes:
        maps: output channels and stride of each layer.
        intermediate: the layers that ``intermediate_layers`` may name.
        convention: of its weights: "torch" or "tf"; decides padding, batch-norm epsilon and the usual scaling.
        pooling: "mean" or "max" over feature maps.
        intermediate_layers: layers whose own maps, see ``intermediate_channels``, are pooled into the features beside
            the last map. Late layers know parts and textures that the last map has given up for ImageNet's classes.
        scales: of the input, each above 0 and at most 4; the features of all of them are joined.
        flip_averaging: average the features of the picture and of its mirror image; costs a second pass.
        hellinger: take the square root of each pooled map's features and bring them to length 1 (Arandjelovic &
            Zisserman 2012, "Three things everyone should know to improve object retrieval", section 3).
        cut: 0, or the layer before which a backbone ends; its outputs are that flat map. Needs ``classes`` 0.
    """

    maps: ClassVar[tuple[tuple[int, int], ...]]
    intermediate: ClassVar[range]
    conventions: ClassVar[tuple[str, ...]] = ("tf", "torch")

    convention: str = "torch"
    pooling: str = "mean"
    intermediate_layers: tuple[int, ...] = ()
    scales: tuple[float, ...] = (1.0,)
    flip_averaging: bool = False
    hellinger: bool = False
    cut: int = 0

    @abstractmethod
    def build_layers(self) -> list[nn.Cell]:
        """Return the new layers. Those of ``intermediate`` have a method of that name: input -> intermediate map."""

    def intermediate_channels(self, layer: int) -> int:
        """Return the channels of the map that an intermediate layer gives: by default of the one that goes into it."""
        return self.maps[layer - 1][0]

    def build_backbone(self) -> nn.Cell:
        return LayeredBackbone(self)

    def map_before(self, layer: int) -> tuple[int, int, int]:
        """Return channels, height and width of the map that goes into ``layer``, from 1 on."""
        height_px, width_px = self.height_px, self.width_px
        for _, stride in self.maps[:layer]:  # both paddings round up
            height_px, width_px = -(-height_px // stride), -(-width_px // stride)
        return self.maps[layer - 1][0], height_px, width_px

    def last_map_features(self, features: NDArray[Any]) -> NDArray[Any]:
        nearest = min(range(len(self.scales)), key=lambda place: abs(self.scales[place] - 1))
        end = self.features // len(self.scales) * (nearest + 1)
        found = features[:, max(0, end - self.maps[-1][0]) : end]
        return found * found if self.hellinger else found

    @property
    def features(self) -> int:
        widths = [self.maps[-1][0], *(self.intermediate_channels(layer) for layer in self.intermediate_layers)]
        return len(self.scales) * sum(widths)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return self.map_before(self.cut) if self.cut else (self.features,)

    @property
    def batch_norm_epsilon(self) -> float:
        return CONVENTIONS[self.convention].batch_norm_epsilon

    @property
    def same_padding(self) -> bool:
        """Whether convolutions of stride 2 pad as TensorFlow's SAME (bottom and right first), not evenly."""
        return CONVENTIONS[self.convention].same_padding

    def _usual_scaling(self) -> tuple[Channels, Channels]:
        return CONVENTIONS[self.convention].scale, CONVENTIONS[self.convention].offset

    def __post_init__(self) -> None:
        one_of(WHAT, "convention", self.convention, self.conventions)
        one_of(WHAT, "pooling", self.pooling, POOLINGS)
        boolean(WHAT, "flip_averaging", self.flip_averaging)
        boolean(WHAT, "hellinger", self.hellinger)
        integer(WHAT, "cut", self.cut, 0, len(self.maps) - 1)
        for layer in self._listed("intermediate_layers"):
            integer(WHAT, "intermediate_layers", layer, self.intermediate[0], self.intermediate[-1])
        for scale in self._listed("scales"):
            positive(WHAT, "scales", scale, MAX_SCALE)
        if not self.scales:
            raise VisionError(f"{WHAT}: scales is empty; [1.0] is the picture as it comes")
        # In one order and each once, so that equal networks have equal specs.
        object.__setattr__(self, "intermediate_layers", tuple(sorted(set(self.intermediate_layers))))
        object.__setattr__(self, "scales", tuple(sorted({float(scale) for scale in self.scales}, reverse=True)))
        if self.cut and self.classes:
            raise VisionError(f"{WHAT}: cut is for a backbone without a head")
        widened = self.intermediate_layers or self.scales != (1.0,) or self.flip_averaging or self.hellinger
        if self.cut and (widened or self.rbf_centers):
            raise VisionError(
                f"{WHAT}: intermediate_layers, scales, flip_averaging, hellinger and rbf_centers are for whole "
                "backbones, not for one with a cut"
            )
        NetworkSpec.__post_init__(self)  # not super(): slots make this class anew

    def _listed(self, key: str) -> list[Any]:
        value = getattr(self, key)
        if not isinstance(value, list | tuple):
            raise VisionError(f"{WHAT}: {key} is {value!r}; it must be a list of numbers")
        return list(value)


class LayeredBackbone(nn.Cell):
    """Normalised float32 (N, 3, H, W) -> features float32 (N, F), pooled over the last map and the intermediate ones.

    Of each scale of the picture, the largest first: the features of the intermediate layers in order, then those of the
    last map.

    Attributes:
        features: the layers.
    """

    def __init__(self, spec: LayeredSpec) -> None:
        super().__init__()
        self.intermediate_layers = spec.intermediate_layers
        self.takes_max = spec.pooling == "max"
        self.hellinger = spec.hellinger
        self.features = nn.SequentialCell(spec.build_layers())
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
        """Return the pooled maps of one picture, each (N, C): the intermediate ones in order, then the last one."""
        found: Tensors = ()
        for place, layer in enumerate(self.features.cell_list):
            if place in self.intermediate_layers:
                found = (*found, self.pooled(layer.intermediate(maps)))
            maps = layer(maps)
        return (*found, self.pooled(maps))

    def pooled(self, maps: mindspore.Tensor) -> mindspore.Tensor:
        return ops.amax(maps, (2, 3)) if self.takes_max else ops.mean(maps, (2, 3))

    def averaged(self, ours: Tensors, theirs: Tensors) -> Tensors:
        found: Tensors = ()
        for place in range(len(ours)):
            found = (*found, (ours[place] + theirs[place]) / 2)
        return found

    def finished(self, features: mindspore.Tensor) -> mindspore.Tensor:
        if not self.hellinger:
            return features
        # Behind a ReLU nothing is negative. Of the roots the squared length is the sum of the plain ones.
        return ops.sqrt(features / (ops.sum(features, 1, True) + TINY))


def conv_bn(
    spec: LayeredSpec, channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1, *, groups: int = 1,
    fan: str = "fan_in",
) -> list[nn.Cell]:  # fmt: skip
    """Return a convolution that pads by the spec's convention, with He's weights by ``fan``, and its batch norm."""
    # The two agree at stride 1; at stride 2 and even sizes they sample grids one pixel apart.
    padding = {"pad_mode": "same"} if spec.same_padding else {"pad_mode": "pad", "padding": kernel // 2}
    convolution = nn.Conv2d(
        channels_in, channels_out, kernel, stride, group=groups, weight_init=HeNormal(mode=fan), **padding
    )
    return [convolution, nn.BatchNorm2d(channels_out, eps=spec.batch_norm_epsilon)]


class PictureScale(nn.Cell):
    """Pictures (N, 3, H, W) -> the same at one scale; with ``spec.flip_averaging`` beside their mirror images.

    Scaling is linear in rows and in columns, so it is two products with constant matrices: every engine has them, and
    none has rules of its own for them. A mirror image is a matrix with its columns in reverse.
    """

    def __init__(self, spec: LayeredSpec, scale: float) -> None:
        super().__init__()
        rows, columns = (resampling(side, scale, spec.min_size_px) for side in (spec.height_px, spec.width_px))
        self.is_plain = scale == 1.0
        self.is_flipped_too = spec.flip_averaging
        self.rows = Tensor(rows)
        self.columns = Tensor(np.ascontiguousarray(columns.T))
        self.columns_flipped = Tensor(np.ascontiguousarray(columns.T[:, ::-1]))

    def construct(self, images: mindspore.Tensor) -> Tensors:
        if not self.is_plain:
            images = ops.matmul(self.rows, images)
        picture = images if self.is_plain else ops.matmul(images, self.columns)
        return (picture, ops.matmul(images, self.columns_flipped)) if self.is_flipped_too else (picture,)


def resampling(side_px: int, scale: float, min_size_px: int) -> NDArray[np.float32]:
    """Return the weights (side * scale, side) of the old pixels for each new one."""
    return bicubic_weights(side_px, max(min_size_px, round(side_px * scale)))
