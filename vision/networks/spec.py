"""What a network is, as data: everything needed to build it again and to feed it the numbers its weights expect."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from numpy.typing import NDArray

from vision.checks import boolean, integer, number, positive
from vision.errors import VisionError
from vision.images import Fit
from vision.networks.weight_names import Naming, plain_name

if TYPE_CHECKING:
    from mindspore import nn

Channels = tuple[float, float, float]  # red, green, blue

WHAT: Final = "network spec"
MAX_SIZE_PX: Final = 1024
MAX_CLASSES: Final = 100_000
MAX_RBF_CENTERS: Final = 4096

USUAL: Final[Channels] = (math.nan, math.nan, math.nan)  # a default that no caller can mean
# Mean and standard deviation of ImageNet's training images in [0, 1], as torchvision and timm use them.
_MEAN: Final[Channels] = (0.485, 0.456, 0.406)
_STD: Final[Channels] = (0.229, 0.224, 0.225)


class Convention(NamedTuple):
    """What weights of one origin were trained with.

    Attributes:
        batch_norm_epsilon: added to the variance before its root.
        same_padding: whether convolutions of stride 2 pad as TensorFlow's SAME, bottom and right first, and not by half
            the kernel on every side.
        padding: the same for people.
        scale, offset: of pixels from 0 to 255.
    """

    batch_norm_epsilon: float
    same_padding: bool
    padding: str
    scale: Channels
    offset: Channels


CONVENTIONS: Final[Mapping[str, Convention]] = {
    "tf": Convention(1e-3, True, "SAME as TensorFlow's", (1 / 127.5, 1 / 127.5, 1 / 127.5), (-1.0, -1.0, -1.0)),
    "torch": Convention(
        1e-5,
        False,
        "1 on every side of a 3x3 convolution",
        (1 / 255 / _STD[0], 1 / 255 / _STD[1], 1 / 255 / _STD[2]),
        (-_MEAN[0] / _STD[0], -_MEAN[1] / _STD[1], -_MEAN[2] / _STD[2]),
    ),
}


class FloatEnds(NamedTuple):
    """How many of a network's first and of its last convolutions stay in float where the others get 8 bits."""

    first: int
    last: int


# What is tried, in this order, for a network for which nothing was measured.
USUAL_FLOAT_ENDS: Final = (FloatEnds(1, 4), FloatEnds(3, 9), FloatEnds(5, 15))


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec(ABC):
    """A network's shape and the scaling of its input. Each network's file has a subclass, with fields of its own.

    Left out, ``scale`` and ``offset`` are those that the network usually has. ``dataclasses.replace`` keeps them.

    Attributes:
        name: of the network, in recipes and manifests.
        min_size_px: of its input.
        usual_size_px, usual_fit: of pictures for imported weights.
        head_name: our name of the head's dense layer in weights files.
        checkpoint_naming: which of ``namings`` a MindSpore checkpoint that we export has.
        conventions: those that its weights may have; none where they don't differ.
        tells_near_duplicates: whether near-duplicates are found by ``last_map_features``, too, for which their cosine
            was measured (`vision.training.families`); else by perceptual hashes alone.
        float_ends: what stays in float in 8 bits, tried in this order; empty where no 8-bit graph is made.
        classes: length of the probability vector; 0 = backbone only, the network has no head.
        height_px, width_px: input size, each from ``min_size_px`` to 1024.
        rbf_centers: size of the head's hidden layer of RBF units, one a center; 0 is a linear head. Like the next two
            of no effect where ``classes`` is 0.
        head_bias: whether the head's dense layer has a bias.
        temperature: logits are divided by this before the softmax; above 0.
        outlier_distance: squared distance from the nearest RBF center at which an image's outlier score is 1; 0 where
            it was not measured: then the served network gives no such score.
        scale, offset: normalised = pixel * scale + offset, a channel each in the order RGB, pixels from 0 to 255.

    Raises:
        VisionError: a value is of another type, not finite or out of range.
    """

    name: ClassVar[str]
    min_size_px: ClassVar[int] = 8
    usual_size_px: ClassVar[int] = 224
    usual_fit: ClassVar[Fit] = "crop"
    head_name: ClassVar[str]
    checkpoint_naming: ClassVar[str]
    conventions: ClassVar[tuple[str, ...]] = ()
    tells_near_duplicates: ClassVar[bool] = False
    float_ends: ClassVar[tuple[FloatEnds, ...]] = ()

    classes: int
    height_px: int
    width_px: int
    rbf_centers: int = 0
    head_bias: bool = True
    temperature: float = 1.0
    outlier_distance: float = 0.0
    scale: Channels = USUAL
    offset: Channels = USUAL

    def __post_init__(self) -> None:
        integer(WHAT, "classes", self.classes, 0, MAX_CLASSES)
        integer(WHAT, "height_px", self.height_px, self.min_size_px, MAX_SIZE_PX)
        integer(WHAT, "width_px", self.width_px, self.min_size_px, MAX_SIZE_PX)
        integer(WHAT, "rbf_centers", self.rbf_centers, 0, MAX_RBF_CENTERS)
        boolean(WHAT, "head_bias", self.head_bias)
        positive(WHAT, "temperature", self.temperature, 1000)
        if number(WHAT, "outlier_distance", self.outlier_distance) < 0:
            raise VisionError(f"{WHAT}: outlier_distance is {self.outlier_distance}; it must be 0 or more")
        if (self.scale is USUAL) != (self.offset is USUAL):
            raise VisionError(f"{WHAT}: scale and offset belong together; give both or neither")
        scale, offset = self._usual_scaling() if self.scale is USUAL else (self.scale, self.offset)
        # Frozen, so this is the one place that may write: floats for JSON's integers, tuples for its lists.
        object.__setattr__(self, "scale", _channels("scale", scale))
        object.__setattr__(self, "offset", _channels("offset", offset))
        object.__setattr__(self, "temperature", float(self.temperature))
        object.__setattr__(self, "outlier_distance", float(self.outlier_distance))
        if 0.0 in self.scale:
            raise VisionError(f"{WHAT}: scale is {self.scale}; a zero would blank that channel")

    def _usual_scaling(self) -> tuple[Channels, Channels]:
        """Return the (scale, offset) that weights of this network usually expect: pixels from 0 to 1."""
        return (1 / 255, 1 / 255, 1 / 255), (0.0, 0.0, 0.0)

    @property
    @abstractmethod
    def features(self) -> int:
        """Length of the vector that the backbone gives the head."""

    @abstractmethod
    def build_backbone(self) -> nn.Cell:
        """Return a new backbone: normalised float32 (N, 3, H, W) -> features (N, F)."""

    @classmethod
    @abstractmethod
    def namings(cls) -> dict[str, Naming]:
        """Return how each project that is known names the network's arrays; our own names among them."""

    @classmethod
    def plain_name(cls, stored: str) -> str:
        """Return a stored array's name in the form that ``namings`` expects."""
        return plain_name(stored)

    @classmethod
    def our_name(cls, cell: str) -> str:
        """Return our name of a cell below the backbone that holds parameters."""
        return cell

    @classmethod
    def size_px_of(cls, named: Mapping[str, NDArray[Any]]) -> int:
        """Return the side of the pictures that weights of these plain names are for."""
        return cls.usual_size_px

    def last_map_features(self, features: NDArray[Any]) -> NDArray[Any]:
        """Return those of the features (N, F) by which near-duplicates are found, without a Hellinger normalisation."""
        return features

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of what a network without a head gives for one picture, which a served batch holds flat."""
        return (self.features,)

    @property
    def outputs(self) -> int:
        """Columns of a served batch: the classes, or flat features."""
        return self.classes or math.prod(self.feature_shape)

    @property
    def gives_outlier(self) -> bool:
        """Whether the served network gives an outlier score beside the probabilities."""
        return bool(self.classes and self.rbf_centers and self.outlier_distance)

    @property
    def head_inputs(self) -> int:
        """Length of the vector that goes into the head's dense layer."""
        return self.rbf_centers or self.features

    @property
    def batch_norm_epsilon(self) -> float:
        """Added to the variance before its root, where a network has batch norm."""
        return 1e-5

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that ``vision.networks.spec_from_json`` turns back into an equal spec."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"name": self.name, **values}


def json_keys(kind: type[NetworkSpec]) -> list[str]:
    """Return the keys of ``to_json`` that are fields."""
    return [field.name for field in fields(kind)]


def _channels(key: str, value: object) -> Channels:
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise VisionError(f"{WHAT}: {key} is {value!r}; it must be three numbers (red, green, blue)")
    red, green, blue = (number(WHAT, key, channel) for channel in value)
    return red, green, blue
