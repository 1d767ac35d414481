"""The one way from an image file to the array a network sees; training and serving both take it.

Pixels are uint8, RGB, C-contiguous, shape (height, width, 3). Scaling to floats is part of the network.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import cv2
import numpy as np

from base.files import read_file
from vision.checks import checked_keys, integer, one_of, positive
from vision.errors import VisionError
from vision.images.colour import Pixels, to_srgb
from vision.images.decode import DEFAULT_LIMITS, DecodedImage, ImageLimits, decode_within
from vision.images.pages import Page
from vision.images.resize import MAX_SIDE_PX, Resize, resized_as

# The chunk is what we work on in parallel. Two thread pools in one process ruin each other, so OpenCV's stays off.
cv2.setNumThreads(0)

Fit = Literal["stretch", "crop", "pad"]

WHAT = "preprocessing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """The size a network takes and how an image is brought to it.

    stretch: both sides scaled on their own. crop: the largest centred part of the network's aspect ratio, of which
    ``crop_fraction`` a side (0.875 is "shorter side to 256, centre 224"). pad: the whole image, centred on black.
    ``resize`` stands instead of them for a network that was trained elsewhere: as its library does it, to the pixel.
    """

    height_px: int
    width_px: int
    fit: Fit = "stretch"
    crop_fraction: float = 1.0
    resize: Resize | None = None

    def __post_init__(self) -> None:
        integer(WHAT, "height_px", self.height_px, 1, MAX_SIDE_PX)
        integer(WHAT, "width_px", self.width_px, 1, MAX_SIDE_PX)
        one_of(WHAT, "fit", self.fit, get_args(Fit))
        positive(WHAT, "crop_fraction", self.crop_fraction, 1)
        if self.crop_fraction != 1 and self.fit != "crop":
            raise VisionError(f'{WHAT}: crop_fraction needs fit "crop", not "{self.fit}"')
        if self.resize is not None and self.fit != "stretch":
            raise VisionError(f'{WHAT}: fit "{self.fit}" and resize both say how an image is brought to size')

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return {**asdict(self), "crop_fraction": float(self.crop_fraction)}

    @classmethod
    def from_json(cls, record: object) -> Preprocessing:
        """Return the record that `to_json` wrote; VisionError for any other."""
        values = checked_keys(WHAT, record, [field.name for field in fields(cls)])
        if values["resize"] is not None:
            values = {**values, "resize": Resize.from_json(values["resize"])}
        return cls(**values)


def load_image(
    source: Path | bytes | Page, preprocessing: Preprocessing, limits: ImageLimits = DEFAULT_LIMITS
) -> DecodedImage:
    """Return the image of a file, of a file's bytes or of one picture in it, in the size the network takes and in sRGB.

    Raises:
        ImageError: the file or its content can't be used; see `vision.images.decode` for the reasons.
    """
    data = read_file(source, limits.max_bytes) if isinstance(source, Path) else source
    image = decode_within(data, limits, lambda width, height: _room(width, height, preprocessing))
    return replace(image, pixels=to_srgb(_fit(image.pixels, preprocessing), image.profile), profile=None)


def _source_box(width: int, height: int, target: Preprocessing) -> tuple[float, float]:
    """Return width and height of the part of an upright image that fills the network's input."""
    if target.fit != "crop":
        return width, height
    ratio = target.width_px / target.height_px
    return min(width, height * ratio) * target.crop_fraction, min(height, width / ratio) * target.crop_fraction


def _room(width: int, height: int, target: Preprocessing) -> float:
    """Return by what an image may shrink in decoding: twice the pixels the network takes are left a side."""
    if target.resize is not None:  # a decoder that shrinks makes other pixels
        return 1
    box_width, box_height = _source_box(width, height, target)
    sides = box_width / target.width_px, box_height / target.height_px
    return (max(sides) if target.fit == "pad" else min(sides)) / 2


def _fit(pixels: Pixels, target: Preprocessing) -> Pixels:
    height, width = pixels.shape[:2]
    if target.resize is not None:
        return resized_as(pixels, target.resize, target.height_px, target.width_px)
    if target.fit == "crop":
        # Cut first, scale then: a picture of 1 x 1,000,000 pixels would otherwise be scaled to 150 GB.
        box_width, box_height = (max(1, round(side)) for side in _source_box(width, height, target))
        top, left = (height - box_height) // 2, (width - box_width) // 2
        pixels = pixels[top : top + box_height, left : left + box_width]
    elif target.fit == "pad":
        scale = min(target.height_px / height, target.width_px / width)
        inner_height = min(target.height_px, max(1, math.floor(height * scale + 0.5)))
        inner_width = min(target.width_px, max(1, math.floor(width * scale + 0.5)))
        canvas = np.zeros((target.height_px, target.width_px, 3), np.uint8)
        top, left = (target.height_px - inner_height) // 2, (target.width_px - inner_width) // 2
        canvas[top : top + inner_height, left : left + inner_width] = _resized(pixels, inner_height, inner_width)
        return canvas
    return np.ascontiguousarray(_resized(pixels, target.height_px, target.width_px))


def _resized(pixels: Pixels, height: int, width: int) -> Pixels:
    """Average where a side shrinks, interpolate where it grows; one side may do either."""
    for rows, columns, how in (
        (min(height, pixels.shape[0]), min(width, pixels.shape[1]), cv2.INTER_AREA),
        (height, width, cv2.INTER_LINEAR),
    ):
        if pixels.shape[:2] != (rows, columns):
            pixels = cast("Pixels", cv2.resize(pixels, (columns, rows), interpolation=how))
    return pixels
