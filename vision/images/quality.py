"""Scores of what can be wrong with a picture, each from 0 to 1 and higher for worse. They are scores, never verdicts.

A photo of fog is as blurred as one out of focus, and white paper as bright as an overexposed photo: a person decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, cast

import cv2
import numpy as np

from base.files import read_file
from vision.images.colour import Pixels
from vision.images.decode import ImageLimits, decode_within

SIDE_PX = (
    224  # about what networks see: shorter sides are brought to it, and a longer picture is as sharp as it looks there
)
HALF_BLURRED = 100.0  # variance of the Laplacian at which the score is a half; the usual threshold of blur detectors


class Quality(NamedTuple):
    """Scores of one picture.

    Attributes:
        blur: h / (h + v), where v is the variance of the Laplacian of its grey values (Pech-Pacheco et al. 2000) at
            `SIDE_PX` and h is `HALF_BLURRED`.
        dark: how far its brightest part, the 99th percentile, is from white.
        overexposed: how bright its darkest part is, the 5th percentile.
        tiny: what its shorter side lacks of `SIDE_PX`, as a part of it.
        odd_shape: what its shorter side lacks of the longer one, as a part of it: 0 for a square, 0.25 for 4:3.
    """

    blur: float
    dark: float
    overexposed: float
    tiny: float
    odd_shape: float


def quality_of(path: Path, limits: ImageLimits) -> Quality:
    """Return the scores of an image file.

    Raises:
        ImageError: it can't be decoded.
    """
    image = decode_within(
        read_file(path, limits.max_bytes), limits, lambda width, height: min(width, height) / SIDE_PX / 2
    )
    grey = _at_side(cast("Pixels", cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY)))
    shorter, longer = sorted((image.width_px, image.height_px))
    darkest, brightest = np.percentile(grey, (5, 99)) / 255
    sharpness = float(cv2.Laplacian(grey, cv2.CV_32F).var())
    return Quality(
        blur=HALF_BLURRED / (HALF_BLURRED + sharpness),
        dark=1 - float(brightest),
        overexposed=float(darkest),
        tiny=max(0.0, 1 - shorter / SIDE_PX),
        odd_shape=1 - shorter / longer,
    )


def _at_side(grey: Pixels) -> Pixels:
    """Return the picture with a shorter side of at most `SIDE_PX`; of a very long one the middle."""
    height, width = grey.shape[:2]
    side = min(height, width)
    top, left = max(0, (height - 4 * side) // 2), max(0, (width - 4 * side) // 2)
    grey = grey[top : top + 4 * side, left : left + 4 * side]
    if side <= SIDE_PX:
        return grey
    size = round(grey.shape[1] * SIDE_PX / side), round(grey.shape[0] * SIDE_PX / side)
    return cast("Pixels", cv2.resize(grey, size, interpolation=cv2.INTER_AREA))
