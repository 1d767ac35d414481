"""torch's antialiased resize of 8-bit images, number for number: what Hugging Face's processors resize with by now.

Pillow's filters, but for their weights, which are rounded to 16 bits here. Source: PyTorch,
aten/src/ATen/native/cpu/UpSampleKernel.cpp (weights) and UpSampleKernelAVXAntialias.h (sums).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vision.images.colour import Pixels

Floats = NDArray[np.float64]

WEIGHT_BITS: Final = 15
MOST_BITS: Final = 22  # behind the point
SUMS: Final = 250_000  # at a time: they and what is added to them stay in a core's cache
WHOLE_PX: Final = 65_536  # sides up to here are computed whole
CUBIC: Final = -0.5  # Keys 1981, as in Pillow
LANCZOS: Final = 3.0  # lobes


def resized_as_torch(pixels: Pixels, filter_: str, width: int, height: int, rows: slice, columns: slice) -> Pixels:
    """Return these rows and columns of the uint8 (H, W, 3) image, resized by "nearest" or a filter of `FILTERS`."""
    if filter_ == "nearest":
        down, across = _nearest(len(pixels), height, rows), _nearest(pixels.shape[1], width, columns)
        return pixels[down[:, None], across]
    tall, wide = _Side.of(filter_, len(pixels), height, rows), _Side.of(filter_, pixels.shape[1], width, columns)
    seen = slice(int(tall.first[0]), int(tall.first[-1]) + tall.weights.shape[1])  # the rows that are needed
    turned = np.ascontiguousarray(pixels[seen].transpose(1, 0, 2))  # columns first: they are read one by one
    half_way = np.ascontiguousarray(wide.applied_to(turned).transpose(1, 0, 2))
    return replace(tall, first=tall.first - seen.start).applied_to(half_way)


def _nearest(old: int, new: int, part: slice) -> NDArray[np.int64]:
    """Return the pixel that each new one is of; "nearest-exact" there, places in float32."""
    places = np.arange(part.start, part.stop).astype(np.float32) + np.float32(0.5)
    return np.minimum((places * (np.float32(old) / np.float32(new))).astype(np.int64), old - 1)


@dataclass(frozen=True, slots=True)
class _Side:
    """What some places of a resized side are made of.

    Attributes:
        first: the pixel where each starts, (N,).
        weights: int32 (N, taps) with ``bits`` behind the point.
        bits: 0 where the side keeps its length.
    """

    first: NDArray[np.int64]
    weights: NDArray[np.int32]
    bits: int

    @classmethod
    def of(cls, filter_: str, old: int, new: int, part: slice) -> _Side:
        if old == new:
            return cls(np.arange(part.start, part.stop), np.ones((part.stop - part.start, 1), np.int32), 0)
        whole = slice(0, new) if new <= WHOLE_PX else part  # the largest weight of all says how many bits they have
        first, weights = _weights(old, new, whole, *FILTERS[filter_])
        bits = _bits(float(weights.max()))
        rounded = np.trunc(weights * (1 << bits) + np.where(weights < 0, -0.5, 0.5)).astype(np.int32)
        inside = slice(part.start - whole.start, part.stop - whole.start)
        return cls(first[inside], rounded[inside], bits)

    def applied_to(self, pixels: Pixels) -> Pixels:
        """Return the new pixels, of uint8 (old, others, 3)."""
        if not self.bits:
            return pixels[self.first]
        made = np.empty((len(self.first), *pixels.shape[1:]), np.uint8)
        at_once = max(1, SUMS // made[:, 0].size)
        for start in range(0, pixels.shape[1], at_once):
            some = pixels[:, start : start + at_once]
            sums = np.full((len(self.first), *some.shape[1:]), 1 << (self.bits - 1), np.int32)
            term = np.empty_like(sums)
            for tap in range(self.weights.shape[1]):
                seen = some[np.minimum(self.first + tap, len(pixels) - 1)]  # behind the end weights are 0
                np.multiply(seen, self.weights[:, tap, None, None], out=term)
                sums += term
            made[:, start : start + at_once] = np.clip(sums >> self.bits, 0, 255)
        return made


def _weights(
    old: int, new: int, part: slice, reach: float, filter_: Callable[[Floats], Floats]
) -> tuple[NDArray[np.int64], Floats]:
    """Return where the pixels start that each place of ``part`` is made of, and their weights (N, taps)."""
    scale = old / new
    support = reach * max(scale, 1.0)
    taps = math.ceil(np.float32(support)) * 2 + 1
    centres = scale * (np.arange(part.start, part.stop) + 0.5)
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    count = np.clip(np.minimum((centres + support + 0.5).astype(np.int64), old) - first, 0, taps)
    places = np.arange(taps)
    weights = filter_((places + first[:, None] - centres[:, None] + 0.5) * (1.0 / max(scale, 1.0)))
    weights[places >= count[:, None]] = 0
    total = np.zeros(len(centres))
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
