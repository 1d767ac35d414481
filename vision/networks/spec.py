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
        dropout: probability in [0, 1) of zeroing a feature before the head, in training only.
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
    dropout: float = 0.0
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
        if not isinstance(self.head_bias, bool):
            raise VisionError(f"network spec: head_bias is {self.head_bias!r}; it must be true or false")
        if not 0 <= _number("dropout", self.dropout) < 1:
            raise VisionError(f"network spec: dropout is {self.dropout!r}; it must be at least 0 and below 1")
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
        object.__setattr__(self, "dropout", float(self.dropout))
        object.__setattr__(self, "temperature", float(self.temperature))
        if 0.0 in self.scale:
            raise VisionError(f"network spec: scale is {self.scale}; a zero would blank that channel")

    @property
    def features(self) -> int:
        """Length of the pooled feature vector: 1280 for MobileNetV2, 84 for LeNet-5."""
        return FEATURES[self.name]

    @property
    def outputs(self) -> int:
        """Columns of a served batch: the classes, or the features when there is no head."""
        return self.classes or self.features

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
        return {**asdict(self), "scale": list(self.scale), "offset": list(self.offset)}

    @classmethod
    def from_json(cls, value: object) -> NetworkSpec:
        """Return the spec of a decoded JSON object; every key must be there and no other.

        Raises:
            VisionError: a key is missing or unknown, or a value of another type, not finite or out of range.
        """
        if not isinstance(value, dict):
            raise VisionError(f"network spec: expected a JSON object, got {type(value).__name__}")
        names = {field.name for field in fields(cls)}
        missing, unknown = sorted(names - value.keys()), sorted(map(str, value.keys() - names))
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
