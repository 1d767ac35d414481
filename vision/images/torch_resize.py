"""torch's antialiased resize of 8-bit images, number for number: what Hugging Face's processors resize with by now.

Pillow's filters, but for their weights, which are rounded to 16 bits here. Source: PyTorch,
aten/src/ATen/native/cpu/UpSampleKernel.cpp (weights) and UpSampleKernelAVXAntialias.h (sums).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vision.images.colour import Pixels

Floats = NDArray[np.float64]

WEIGHT_BITS: Final = 15
MOST_BITS: Final = 22  # behind the point
CUBIC: Final = -0.5  # Keys 1981, as in Pillow
LANCZOS: Final = 3.0  # lobes


def resized_as_torch(pixels: Pixels, filter_: str, width: int, height: int, rows: slice, columns: slice) -> Pixels:
    """Return these rows and columns of the uint8 (H, W, 3) image, resized by "nearest" or a filter of `FILTERS`."""
    if filter_ == "nearest":
        return pixels[_nearest(len(pixels), height)[rows]][:, _nearest(pixels.shape[1], width)[columns]]
    turned = np.ascontiguousarray(pixels.transpose(1, 0, 2))  # columns first: they are read one by one
    across = _one_side(turned, filter_, width, columns)
    return _one_side(np.ascontiguousarray(across.transpose(1, 0, 2)), filter_, height, rows)


def _nearest(old: int, new: int) -> NDArray[np.int64]:
    """Return the pixel that each new one is of; "nearest-exact" there, places in float32."""
    places = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * (np.float32(old) / np.float32(new))
    return np.minimum(places.astype(np.int64), old - 1)


def _one_side(pixels: Pixels, filter_: str, wanted: int, part: slice) -> Pixels:
    """Return the places ``part`` of the first side, when it is resized to ``wanted``."""
    if len(pixels) == wanted:
        return pixels[part]
    first, weights = _weights(len(pixels), wanted, *FILTERS[filter_])
    bits = _bits(float(weights.max()))
    whole = np.trunc(weights * (1 << bits) + np.where(weights < 0, -0.5, 0.5)).astype(np.int32)[part]
    sums = np.full((len(whole), *pixels.shape[1:]), 1 << (bits - 1), np.int32)
    term = np.empty_like(sums)
    for tap in range(weights.shape[1]):
        seen = pixels[np.minimum(first[part] + tap, len(pixels) - 1)]  # behind the end weights are 0
        np.multiply(seen, whole[:, tap, None, None], out=term)
        sums += term
    return np.clip(sums >> bits, 0, 255).astype(np.uint8)


def _weights(old: int, new: int, reach: float, filter_: Callable[[Floats], Floats]) -> tuple[NDArray[np.int64], Floats]:
    """Return where the pixels start that each new one is made of, and their weights (new, taps)."""
    scale = old / new
    support = reach * max(scale, 1.0)
    taps = math.ceil(np.float32(support)) * 2 + 1
    centres = scale * (np.arange(new) + 0.5)
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    count = np.clip(np.minimum((centres + support + 0.5).astype(np.int64), old) - first, 0, taps)
    places = np.arange(taps)
    weights = filter_((places + first[:, None] - centres[:, None] + 0.5) * (1.0 / max(scale, 1.0)))
    weights[places >= count[:, None]] = 0
    total = np.zeros(new)
    for tap in range(taps):  # in this order, as the last bit may count
        total += weights[:, tap]
    return first, weights / total[:, None]


def _bits(largest: float) -> int:
    """Return how many bits behind the point all weights have, of which this is the largest."""
    for bits in range(MOST_BITS):
        if int(0.5 + largest * (1 << (bits + 1))) >= 1 << WEIGHT_BITS:
            return bits
    return MOST_BITS


def _linear(x: Floats) -> Floats:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(x: Floats) -> Floats:
    x = np.abs(x)
    near = ((CUBIC + 2.0) * x - (CUBIC + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * CUBIC
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos(x: Floats) -> Floats:
    return np.where(np.abs(x) < LANCZOS, np.sinc(x) * np.sinc(x / LANCZOS), 0.0)


# How far each filter reaches, in pixels of the coarser side, and its weight by distance.
FILTERS: Final[dict[str, tuple[float, Callable[[Floats], Floats]]]] = {
    "bilinear": (1.0, _linear),
    "bicubic": (2.0, _cubic),
    "lanczos": (LANCZOS, _lanczos),
}
