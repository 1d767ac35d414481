"""Random changes of training images."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Random affine changes: largest turn in degrees, shift as a part of the side, zoom as a part; mirrored or not."""

    rotate_degrees: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    flip: bool = False

    def __bool__(self) -> bool:
        return bool(self.rotate_degrees or self.shift or self.zoom or self.flip)

    def __call__(self, images: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        """Return changed copies of ``images`` uint8 (N, H, W, 3); edges are repeated outwards."""
        height, width = images.shape[1:3]
        changed = np.empty_like(images)
        for index, image in enumerate(images):
            angle, dx, dy, zoom = random.uniform(-1, 1, 4)
            matrix = cv2.getRotationMatrix2D(
                ((width - 1) / 2, (height - 1) / 2), angle * self.rotate_degrees, 1 + zoom * self.zoom
            )
            matrix[:, 2] += dx * self.shift * width, dy * self.shift * height
            warped = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
            changed[index] = warped[:, ::-1] if self.flip and random.random() < 0.5 else warped
        return changed
