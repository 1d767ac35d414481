"""How other libraries bring an image to a network's size, pixel for pixel, for networks that were trained with them.

Pillow's filters average where they shrink, which its users call antialiasing; they are what torchvision, timm and
Ultralytics resize with. Hugging Face does, or lets torch do it. OpenCV's linear filter does not average, nor does
OpenVINO's, which rounds only once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vision.checks import checked_keys, integer, one_of
from vision.errors import VisionError
from vision.images.colour import Pixels
from vision.images.torch_resize import resized_as_torch

Filter = Literal[
    "nearest", "box", "bilinear", "hamming", "bicubic", "lanczos",
    "torch-nearest", "torch-bilinear", "torch-bicubic", "torch-lanczos", "opencv-linear", "openvino-linear",
]  # fmt: skip
CutAt = Literal["round", "floor"]
ResizeFit = Literal["stretch", "crop", "pad", "pad-corner"]

MAX_SIDE_PX = 4096
OPENCV, OPENVINO, TORCH = "opencv-linear", "openvino-linear", "torch-"
WHOLE_PX = 10_000_000  # up to so many are computed whole: 30 MB
LONGEST_PX = 65_536  # a longer side is averaged to this first: the half-way image of two passes would be huge


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """The size a whole image is brought to; the network's input is then cut out of its centre, with black around it.

    Attributes:
        filter: Pillow's, or torch's, or the linear one of OpenCV or OpenVINO.
        short_px: of the shorter side; the longer one keeps the proportion, rounded down.
        height_px, width_px: instead of ``short_px``, both sides on their own.
        cut_at: where half a pixel goes: torchvision and timm round the corner's place, Hugging Face rounds it down.
        fit: with ``height_px`` and ``width_px``: both sides on their own; or the largest centred part of this
            proportion; or the whole image (a letterbox), in the centre or at the upper left corner.
        padding: the grey around a whole image, from 0 to 255.
    """

    filter: Filter
    short_px: int | None = None
    height_px: int | None = None
    width_px: int | None = None
    cut_at: CutAt = "round"
    fit: ResizeFit = "stretch"
    padding: int = 0

    def __post_init__(self) -> None:
        one_of("resize", "filter", self.filter, get_args(Filter))
        one_of("resize", "cut_at", self.cut_at, get_args(CutAt))
        one_of("resize", "fit", self.fit, get_args(ResizeFit))
        integer("resize", "padding", self.padding, 0, 255)
        sides = (self.short_px, self.height_px, self.width_px)
        for name, side in zip(("short_px", "height_px", "width_px"), sides, strict=True):
            if side is not None:
                integer("resize", name, side, 1, MAX_SIDE_PX)
        if [side is None for side in sides] not in ([False, True, True], [True, False, False]):
            raise VisionError("resize: it must name short_px, or height_px and width_px")
        if self.fit != "stretch" and self.short_px is not None:
            raise VisionError(f'resize: fit "{self.fit}" needs height_px and width_px, not short_px')

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
        return f"{sides}, {self.filter}" + (f", {self.fit}" if self.fit != "stretch" else "")


def resized_as(pixels: Pixels, how: Resize, height: int, width: int) -> Pixels:
    """Return the (height, width, 3) centre of the resized image.

    Of an image so long that it would be huge when resized, only the part that is kept is computed; the places where
    pixels are read are then rounded differently, for a level of 255 now and then.
    """
    new_width, new_height = how.size_of(pixels.shape[1], pixels.shape[0])
    if how.fit == "crop":
        pixels = _largest_part(pixels, new_width, new_height)
    elif how.fit != "stretch":
        pixels = _letterboxed(pixels, how, new_width, new_height)
    top, left = (_start(new_height, height, how.cut_at), _start(new_width, width, how.cut_at))
    rows = slice(max(0, top), min(new_height, top + height))
    columns = slice(max(0, left), min(new_width, left + width))
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


def _largest_part(pixels: Pixels, width: int, height: int) -> Pixels:
    """Return the largest centred part that is as wide and high as (width, height)."""
    part_width = min(pixels.shape[1], max(1, pixels.shape[0] * width // height))
    part_height = min(pixels.shape[0], max(1, pixels.shape[1] * height // width))
    top, left = (pixels.shape[0] - part_height) // 2, (pixels.shape[1] - part_width) // 2
    return np.ascontiguousarray(pixels[top : top + part_height, left : left + part_width])


def _letterboxed(pixels: Pixels, how: Resize, width: int, height: int) -> Pixels:
    """Return the whole image within (width, height), with padding around it."""
    # In float32 and half to even, as OpenVINO's Model API; of an extreme image a pixel is kept.
    old_height, old_width = map(np.float32, pixels.shape[:2])
    scale = min(np.float32(width) / old_width, np.float32(height) / old_height)
    inner_width, inner_height = (max(1, int(np.rint(side * scale))) for side in (old_width, old_height))
    top, left = ((height - inner_height) // 2, (width - inner_width) // 2) if how.fit == "pad" else (0, 0)
    canvas = np.full((height, width, 3), how.padding, np.uint8)
    whole = slice(0, inner_height), slice(0, inner_width)
    canvas[top : top + inner_height, left : left + inner_width] = _resized_part(
        pixels, how.filter, inner_width, inner_height, *whole
    )
    return canvas


def _resized_part(pixels: Pixels, how: str, width: int, height: int, rows: slice, columns: slice) -> Pixels:
    """Return these rows and columns of the image when it is resized to (width, height)."""
    pixels = _of_bearable_length(pixels, width, height)
    if pixels.shape[:2] == (height, width):
        return pixels[rows, columns]
    if how.startswith(TORCH):
        return resized_as_torch(pixels, how.removeprefix(TORCH), width, height, rows, columns)
    if how == OPENVINO:
        return _as_openvino(pixels, width, height, rows, columns)
    if width * height <= WHOLE_PX:
        return _resized(pixels, how, width, height)[rows, columns]
    across, down = pixels.shape[1] / width, pixels.shape[0] / height
    box = (columns.start * across, rows.start * down, columns.stop * across, rows.stop * down)
    size = (columns.stop - columns.start, rows.stop - rows.start)
    if how == OPENCV:
        left, top, right, bottom = (int(box[0]), int(box[1]), math.ceil(box[2]), math.ceil(box[3]))
        return _resized(np.ascontiguousarray(pixels[top:bottom, left:right]), how, *size)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling[how.upper()], box=box))


def _of_bearable_length(pixels: Pixels, width: int, height: int) -> Pixels:
    old_height, old_width = pixels.shape[:2]
    sides = (
        old if new > LONGEST_PX else min(old, LONGEST_PX) for old, new in ((old_width, width), (old_height, height))
    )
    if (shorter := tuple(sides)) == (old_width, old_height):
        return pixels
    return cast("Pixels", cv2.resize(pixels, shorter, interpolation=cv2.INTER_AREA))


def _resized(pixels: Pixels, how: str, width: int, height: int) -> Pixels:
    if how == OPENCV:
        return cast("Pixels", cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR))
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling[how.upper()]))


def _as_openvino(pixels: Pixels, width: int, height: int, rows: slice, columns: slice) -> Pixels:
    """Return what OpenVINO's Interpolate makes on CPUs, mode linear: places and sums in float32, rounded at the end."""
    top, bottom, down = _neighbours(pixels.shape[0], height, rows)
    left, right, across = _neighbours(pixels.shape[1], width, columns)
    rows_of = [(pixels[row[:, None], left], pixels[row[:, None], right]) for row in (top, bottom)]
    lines = [_between(before, behind, across[None, :, None]) for before, behind in rows_of]
    return np.rint(_between(lines[0], lines[1], down[:, None, None])).astype(np.uint8)


def _neighbours(old: int, new: int, part: slice) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return the pixels before and behind each new place, and how near it is to the latter, from 0 to 1."""
    half = np.float32(0.5)
    places = (np.arange(part.start, part.stop).astype(np.float32) + half) / (np.float32(new) / np.float32(old)) - half
    places = np.clip(places, np.float32(0), np.float32(old - 1))
    before = places.astype(np.int64)
    return before, np.minimum(before + 1, old - 1), places - before.astype(np.float32)


def _between(before: NDArray[Any], behind: NDArray[Any], near: NDArray[np.float32]) -> NDArray[np.float32]:
    first = before * (np.float32(1) - near)
    return (first + behind * near.astype(np.float64)).astype(np.float32)  # one rounding, as of a fused multiply-add
