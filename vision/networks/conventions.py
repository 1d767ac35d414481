"""Conventions that pretrained weights of one network differ in: padding, batch norm's epsilon, the usual scaling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

Channels = tuple[float, float, float]  # red, green, blue

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
