"""How other libraries bring an image to a network's size, pixel for pixel, for networks that were trained with them.

Pillow's filters average where they shrink, which its users call antialiasing; they are what torchvision, timm, Hugging
Face and Ultralytics resize with. OpenCV's linear filter does not average, nor does OpenVINO's, which rounds only once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vision.checks import checked_keys, integer, one_of
from vision.errors import VisionError
from vision.images.colour import Pixels

Filter = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos", "opencv-linear", "openvino-linear"]
CutAt = Literal["round", "floor"]

MAX_SIDE_PX = 4096
OPENCV, OPENVINO = "opencv-linear", "openvino-linear"
WHOLE_PX = 10_000_000  # up to so many are computed whole: 30 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """The size a whole image is brought to; the network's input is then cut out of its centre, with black around it.

    Attributes:
        filter: Pillow's, or the linear one of OpenCV or OpenVINO.
        short_px: of the shorter side; the longer one keeps the proportion, rounded down.
        height_px, width_px: instead of ``short_px``, both sides on their own.
        cut_at: where half a pixel goes: torchvision and timm round the corner's place, Hugging Face rounds it down.
    """

    filter: Filter
    short_px: int | None = None
    height_px: int | None = None
    width_px: int | None = None
    cut_at: CutAt = "round"

    def __post_init__(self) -> None:
        one_of("resize", "filter", self.filter, get_args(Filter))
        one_of("resize", "cut_at", self.cut_at, get_args(CutAt))
        sides = (self.short_px, self.height_px, self.width_px)
        for name, side in zip(("short_px", "height_px", "width_px"), sides, strict=True):
            if side is not None:
                integer("resize", name, side, 1, MAX_SIDE_PX)
        if [side is None for side in sides] not in ([False, True, True], [True, False, False]):
            raise VisionError("resize: it must name short_px, or height_px and width_px")

    @classmethod
    def from_json(cls, record: object) -> Resize:
        """Return the record whose ``asdict`` this is; VisionError where it isn't."""
        return cls(**checked_keys("resize", record, [field.name for field in fields(cls)]))

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Return the (width, height) that an image of this size is brought to."""
        if self.short_px is None:
            return cast("tuple[int, int]", (self.width_px, self.height_px))
        longer = int(self.short_px * max(width, height) / min(width, height))
        return (self.short_px, longer) if width <= height else (longer, self.short_px)

    def __str__(self) -> str:
        sides = f"short side {self.short_px}" if self.short_px else f"{self.height_px} x {self.width_px}"
        return f"{sides}, {self.filter}"


def resized_as(pixels: Pixels, how: Resize, height: int, width: int) -> Pixels:
    """Return the (height, width, 3) centre of the resized image.

    Of an image so long that it would be huge when resized, only the part that is kept is computed; the places where
    pixels are read are then rounded differently, for a level of 255 now and then.
    """
    new_width, new_height = how.size_of(pixels.shape[1], pixels.shape[0])
    top, left = (_start(new_height, height, how.cut_at), _start(new_width, width, how.cut_at))
    rows = slice(max(0, top), min(new_height, top + height))
    columns = slice(max(0, left), min(new_width, left + width))
    if new_width * new_height <= WHOLE_PX:
        part = _resized(pixels, how.filter, new_width, new_height)[rows, columns]
    else:
        part = _resized_part(pixels, how.filter, new_width, new_height, rows, columns)
    if part.shape[:2] == (height, width):
        return np.ascontiguousarray(part)
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[max(0, -top) :, max(0, -left) :][: part.shape[0], : part.shape[1]] = part
    return canvas


def bicubic_weights(old_px: int, new_px: int) -> NDArray[np.float32]:
    """Return (new, old): bicubic weights of the old pixels of a side for each new one, widened where pixels shrink.

    As Pillow's bicubic resize: Keys 1981 ("Cubic convolution interpolation") with a = -1/2; weights sum to 1.
    """
    step = old_px / new_px
    centres = (np.arange(new_px) + 0.5) * step - 0.5
    x = np.abs(centres[:, None] - np.arange(old_px)) / max(step, 1.0)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _start(side: int, wanted: int, cut_at: CutAt) -> int:
    """Return where the centred part starts; below 0 where black comes before the image."""
    if side < wanted:
        return -((wanted - side) // 2)
    return round((side - wanted) / 2) if cut_at == "round" else (side - wanted) // 2


def _resized(pixels: Pixels, how: str, width: int, height: int) -> Pixels:
    if how == OPENCV:
        return cast("Pixels", cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR))
    if how == OPENVINO:
        exact = cv2.resize(pixels.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        return np.rint(exact).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling[how.upper()]))


def _resized_part(pixels: Pixels, how: str, width: int, height: int, rows: slice, columns: slice) -> Pixels:
    across, down = pixels.shape[1] / width, pixels.shape[0] / height
    box = (columns.start * across, rows.start * down, columns.stop * across, rows.stop * down)
    size = (columns.stop - columns.start, rows.stop - rows.start)
    if how in (OPENCV, OPENVINO):
        left, top, right, bottom = (int(box[0]), int(box[1]), math.ceil(box[2]), math.ceil(box[3]))
        return _resized(np.ascontiguousarray(pixels[top:bottom, left:right]), how, *size)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling[how.upper()], box=box))
