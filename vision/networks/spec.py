"""What a network is, as data: everything needed to build it again and to feed it the numbers its weights expect."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from vision.errors import VisionError

Channels = tuple[float, float, float]  # red, green, blue

LENET5: Final = "lenet5"
MOBILENET_V2: Final = "mobilenet_v2"
FEATURES: Final[Mapping[str, int]] = {LENET5: 84, MOBILENET_V2: 1280}
CONVENTIONS: Final = ("tf", "torch")
POOLINGS: Final = ("mean", "max")
MIN_SIZE_PX: Final = 8
MAX_SIZE_PX: Final = 1024
LENET5_MIN_SIZE_PX: Final = 16  # below, the second pooling has nothing left
MAX_CLASSES: Final = 100_000

# Sandler et al. 2018 (arXiv:1801.04381), table 2: expansion t, output channels c, repeats n, first stride s
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
LAYERS: Final = 19  # of MobileNetV2: stem, 17 blocks, last convolution, counted from 0
MAX_PROTOTYPES: Final = 4096
MAX_SCALE: Final = 4.0
LATER_KEYS: Final = frozenset({"taps", "scales", "mirrored", "root", "cut", "prototypes"})  # not in the first manifests

BY_CONVENTION: Final[Channels] = (math.nan, math.nan, math.nan)  # a default that no caller can mean

# Mean and standard deviation of ImageNet's training images in [0, 1], as torchvision and timm use them.
_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_STD: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """A network's shape, the convention of its weights and the scaling of its input.

    ``convention`` decides padding and batch-norm epsilon; ``scale`` and ``offset`` are data of their own, since two
    weights files of one convention may differ in them. Left out, they are the usual ones: tf ``x / 127.5 - 1``,
    torch ``(x / 255 - mean) / std``, LeNet-5 ``x / 255``. ``dataclasses.replace`` keeps them as they are.

    Attributes:
        name: "lenet5" or "mobilenet_v2".
        classes: length of the probability vector; 0 = backbone only, the network has no head.
        height_px, width_px: input size, each from 8 (LeNet-5: 16) to 1024.
        convention: "tf" or "torch"; LeNet-5 ignores it.
        pooling: "mean" or "max" over the last feature map; LeNet-5 ignores it.
        taps: MobileNetV2's blocks, from 2 to 17, whose expanded maps are pooled into the features beside the last map.
            Late blocks know parts and textures that the last map has given up for ImageNet's classes.
        scales: of the input, each above 0 and at most 4; the features of all of them are joined.
        mirrored: average the features of the picture and of its mirror image; costs a second pass.
        root: take the square root of each pooled map's features and bring them to length 1 (Arandjelovic & Zisserman
            2012, "Three things everyone should know to improve object retrieval", section 3).
        cut: 0, or the layer before which a backbone ends; its outputs are that flat map. Needs ``classes`` 0.
        prototypes: size of the hidden layer of radial units, one a prototype; 0 is a linear head. Like the next two of
            no effect where ``classes`` is 0.
        head_bias: whether the head's dense layer has a bias.
        temperature: logits are divided by this before the softmax; above 0.
        scale, offset: normalised = pixel * scale + offset, a channel each in the order RGB, pixels from 0 to 255.

    Raises:
        VisionError: a value is of another type, not finite or out of range.
    """

    name: str
    classes: int
    height_px: int
    width_px: int
    convention: str = "tf"
    pooling: str = "mean"
    taps: tuple[int, ...] = ()
    scales: tuple[float, ...] = (1.0,)
    mirrored: bool = False
    root: bool = False
    cut: int = 0
    prototypes: int = 0
    head_bias: bool = True
    temperature: float = 1.0
    scale: Channels = BY_CONVENTION
    offset: Channels = BY_CONVENTION

    def __post_init__(self) -> None:
        _one_of("name", self.name, tuple(FEATURES))
        _one_of("convention", self.convention, CONVENTIONS)
        _one_of("pooling", self.pooling, POOLINGS)
        _integer("classes", self.classes, 0, MAX_CLASSES)
        smallest = LENET5_MIN_SIZE_PX if self.name == LENET5 else MIN_SIZE_PX
        _integer("height_px", self.height_px, smallest, MAX_SIZE_PX)
        _integer("width_px", self.width_px, smallest, MAX_SIZE_PX)
        for key in ("head_bias", "mirrored", "root"):
            if not isinstance(getattr(self, key), bool):
                raise VisionError(f"network spec: {key} is {getattr(self, key)!r}; it must be true or false")
        _integer("prototypes", self.prototypes, 0, MAX_PROTOTYPES)
        _integer("cut", self.cut, 0, LAYERS - 1)
        self._check_views()
        if not 0 < _number("temperature", self.temperature) <= 1000:
            raise VisionError(f"network spec: temperature is {self.temperature!r}; it must be above 0 and at most 1000")
        if (self.scale is BY_CONVENTION) != (self.offset is BY_CONVENTION):
            raise VisionError("network spec: scale and offset belong together; give both or neither")
        scale, offset = self.scale, self.offset
        if scale is BY_CONVENTION:
            scale, offset = default_scaling(self.name, self.convention)
        # Frozen, so this is the one place that may write: floats for JSON's integers, tuples for its lists.
        object.__setattr__(self, "scale", _channels("scale", scale))
        object.__setattr__(self, "offset", _channels("offset", offset))
        object.__setattr__(self, "temperature", float(self.temperature))
        if 0.0 in self.scale:
            raise VisionError(f"network spec: scale is {self.scale}; a zero would blank that channel")

    def _check_views(self) -> None:
        """Bring ``taps`` and ``scales`` to tuples, sorted, each once; LeNet-5 has one view and one map."""
        for key in ("taps", "scales"):
            value = getattr(self, key)
            if not isinstance(value, list | tuple):
                raise VisionError(f"network spec: {key} is {value!r}; it must be a list of numbers")
            if key == "scales" and not value:
                raise VisionError("network spec: scales is empty; [1.0] is the picture as it comes")
            for item in value:
                if key == "taps":
                    _integer(key, item, 2, LAYERS - 2)
                elif not 0 < _number(key, item) <= MAX_SCALE:
                    raise VisionError(f"network spec: {key} has {item!r}; a scale is above 0 and at most {MAX_SCALE:g}")
            object.__setattr__(self, key, tuple(sorted(set(value), reverse=key == "scales")))
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))
        plain = not self.taps and self.scales == (1.0,) and not self.mirrored and not self.root
        if not (plain and not self.prototypes) and (self.name == LENET5 or self.cut):
            raise VisionError(
                "network spec: taps, scales, mirrored, root and prototypes are for MobileNetV2's whole backbone"
            )
        if self.cut and (self.name == LENET5 or self.classes):
            raise VisionError("network spec: cut is for a MobileNetV2 backbone without a head")

    @property
    def features(self) -> int:
        """Length of the feature vector: 84 for LeNet-5, 1280 and the taps' channels at each scale for MobileNetV2."""
        if self.name == LENET5:
            return FEATURES[self.name]
        return len(self.scales) * (LAST_CHANNELS + sum(expanded_channels(tap) for tap in self.taps))

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the map before layer ``cut``."""
        return map_before(self.cut, self.height_px, self.width_px)

    @property
    def outputs(self) -> int:
        """Columns of a served batch: the classes; without a head the features, or the flat map before ``cut``."""
        return self.classes or (math.prod(self.map_shape) if self.cut else self.features)

    @property
    def batch_norm_epsilon(self) -> float:
        """Added to the variance before its root: 1e-3 in TensorFlow, 1e-5 in PyTorch and MindSpore."""
        return 1e-3 if self.convention == "tf" else 1e-5

    @property
    def same_padding(self) -> bool:
        """Whether stride-2 convolutions pad as TensorFlow's SAME (bottom and right first), not 1 on every side."""
        return self.convention == "tf"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that ``from_json`` turns back into an equal spec."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: object) -> NetworkSpec:
        """Return the spec of a decoded JSON object; only ``LATER_KEYS`` may be missing.

        Raises:
            VisionError: a key is missing or unknown, or a value of another type, not finite or out of range.
        """
        if not isinstance(value, dict):
            raise VisionError(f"network spec: expected a JSON object, got {type(value).__name__}")
        names = {field.name for field in fields(cls)}
        missing, unknown = sorted(names - LATER_KEYS - value.keys()), sorted(map(str, value.keys() - names))
        if missing or unknown:
            raise VisionError(f"network spec: missing keys: {_listed(missing)}; unknown keys: {_listed(unknown)}")
        return cls(**value)


def default_scaling(name: str, convention: str) -> tuple[Channels, Channels]:
    """Return the (scale, offset) that weights of this network and convention usually expect."""
    if name == LENET5:
        return (1 / 255,) * 3, (0.0,) * 3
    if convention == "tf":
        return (1 / 127.5,) * 3, (-1.0,) * 3
    red, green, blue = _IMAGENET_STD
    means = tuple(-mean / std for mean, std in zip(_IMAGENET_MEAN, _IMAGENET_STD, strict=True))
    return (1 / 255 / red, 1 / 255 / green, 1 / 255 / blue), (means[0], means[1], means[2])


def blocks() -> list[tuple[int, int, int, int]]:
    """Return (input channels, output channels, stride, expansion) of MobileNetV2's blocks 1 to 17."""
    found, channels_in = [], STEM_CHANNELS
    for expansion, channels, repeats, first_stride in BOTTLENECKS:
        for repeat in range(repeats):
            found.append((channels_in, channels, first_stride if repeat == 0 else 1, expansion))
            channels_in = channels
    return found


def expanded_channels(block: int) -> int:
    """Return the channels between a block's expansion and its projection."""
    channels_in, _, _, expansion = blocks()[block - 1]
    return channels_in * expansion


def map_before(layer: int, height_px: int, width_px: int) -> tuple[int, int, int]:
    """Return (channels, height, width) of the map that goes into MobileNetV2's ``layer``, from 1 to 18."""
    channels, strides = STEM_CHANNELS, [2]
    for _, channels_out, stride, _ in blocks()[: layer - 1]:
        channels = channels_out
        strides.append(stride)
    for stride in strides:  # both paddings round up
        height_px, width_px = -(-height_px // stride), -(-width_px // stride)
    return channels, height_px, width_px


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _one_of(key: str, value: object, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise VisionError(f"network spec: {key} is {value!r}; it must be one of {', '.join(allowed)}")


def _integer(key: str, value: object, low: int, high: int) -> None:
    # bool is an int to Python, never to a person who wrote `"classes": true`.
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise VisionError(f"network spec: {key} is {value!r}; it must be an integer from {low} to {high}")


def _number(key: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise VisionError(f"network spec: {key} is {value!r}; it must be a finite number")
    return float(value)


def _channels(key: str, value: object) -> Channels:
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise VisionError(f"network spec: {key} is {value!r}; it must be three numbers (red, green, blue)")
    red, green, blue = (_number(key, channel) for channel in value)
    return red, green, blue
