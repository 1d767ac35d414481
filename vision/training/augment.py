"""Random changes of training images: one affine warp for all geometry, then colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

LUMA_RGB = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R BT.601
_IDENTITY = np.eye(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How far each image may be changed; every default changes nothing.

    Attributes:
        crop_area: smallest part of the image's area that a random crop shows, in (0, 1]; the crop is scaled to the
            network's input (Szegedy et al. 2015, arXiv:1409.4842, section 6, which uses 0.08).
        crop_ratio: how much wider or narrower than the input's shape a crop may be, at least 1; the paper's is 4 / 3.
            Large crops keep their area and get no further from the shape than the image allows.
        rotate_degrees, shift, zoom: largest turn either way; shift and change of size, as parts of the side.
        flip: mirror half of the images left to right.
        brightness, contrast, saturation: each is multiplied by a factor from 1 - value to 1 + value.
    """

    crop_area: float = 1.0
    crop_ratio: float = 1.0
    rotate_degrees: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    flip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __bool__(self) -> bool:
        return self != Augmentation()

    def to_json(self) -> dict[str, float | bool]:
        """Return the record as plain JSON values."""
        return asdict(self)

    def __call__(self, images: Pixels, random: np.random.Generator) -> Pixels:
        """Return changed copies of ``images`` uint8 (N, H, W, 3)."""
        height, width = images.shape[1:3]
        return np.stack([self.views(image, height, width, [random])[0] for image in images])

    def views(self, image: Pixels, height: int, width: int, randoms: Sequence[np.random.Generator]) -> Pixels:
        """Return changed copies of ``image`` uint8 (h, w, 3) as uint8 (V, height, width, 3), one a generator.

        Edges are repeated outwards. The image should have the shape of the result and at most twice its size: the warp
        samples, it doesn't average.
        """
        source = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)  # OpenCV warps and averages four channels faster than three
        views = np.empty((len(randoms), height, width, 3), np.uint8)
        for view, random in zip(views, randoms, strict=True):
            self._fill(view, source, random)
        return views

    def _fill(self, view: Pixels, source: Any, random: np.random.Generator) -> None:
        """Write a changed copy of the RGBA picture ``source`` into ``view``."""
        # All numbers are drawn whatever is switched on, so that one setting does not move the draws of another.
        # Plain floats: small arrays would cost as much as the pixels do.
        area, ratio, across, down, *changes, side = random.random(12).tolist()
        angle, dx, dy, zoom, bright, contrast, saturation = (2 * change - 1 for change in changes)
        mirrored = side < 0.5 and self.flip
        crop_height, crop_width = _crop_sides(1 - area * (1 - self.crop_area), self.crop_ratio ** (2 * ratio - 1))
        size = 1 + zoom * self.zoom
        # Centre and scale of what is seen, in the image's own pixels.
        height, width = view.shape[:2]
        own_height, own_width = source.shape[:2]
        x = own_width * (crop_width / 2 + across * (1 - crop_width) - dx * self.shift)
        y = own_height * (crop_height / 2 + down * (1 - crop_height) - dy * self.shift)
        scale_x, scale_y = own_width * crop_width / width / size, own_height * crop_height / height / size
        turn = math.radians(angle * self.rotate_degrees)
        cosine, sine = math.cos(turn), math.sin(turn)
        towards = -1.0 if mirrored else 1.0
        # From a pixel of the result to the place in the image; pixel centres lie at halves.
        rows = (
            (x, cosine * scale_x * towards, -sine * scale_y),
            (y, sine * scale_x * towards, cosine * scale_y),
        )
        middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
        warped = cv2.warpAffine(
            source,
            np.array([(by_x, by_y, at - 0.5 - (by_x * middle_x + by_y * middle_y)) for at, by_x, by_y in rows]),
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, dst=view)
        if self.brightness or self.contrast or self.saturation:
            cv2.transform(view, self._recolouring(cv2.mean(warped)[:3], bright, contrast, saturation), dst=view)

    def _recolouring(
        self, mean_rgb: Sequence[float], bright: float, contrast: float, saturation: float
    ) -> NDArray[np.float64]:
        """Scale brightness, then contrast around the mean luma, then saturation around each pixel's luma."""
        gain = 1 + bright * self.brightness
        stretch, colour = 1 + contrast * self.contrast, 1 + saturation * self.saturation
        # Each step is affine in the channels, so all three are one 3 x 4 matrix, which OpenCV applies in one pass.
        matrix = np.empty((3, 4))
        matrix[:, :3] = (colour * _IDENTITY + (1 - colour) * LUMA_RGB) * (gain * stretch)
        matrix[:, 3] = float(np.dot(mean_rgb, LUMA_RGB)) * gain * (1 - stretch)
        return matrix


def _crop_sides(area: float, ratio: float) -> tuple[float, float]:
    """Return height and width of a crop as parts of the image's; ``ratio`` is width to height, as far as it fits."""
    ratio = min(max(ratio, area), 1 / area)
    return min(1.0, math.sqrt(area / ratio)), min(1.0, math.sqrt(area * ratio))
