"""How far a rate that was measured on some images may lie from the true one."""

from __future__ import annotations

import math

Z_95 = 1.959964  # of the normal distribution: 95 % lie within so many standard deviations


def wilson_interval(rate: float, images: int) -> tuple[float, float]:
    """Return the interval that holds the true rate in 95 of 100 such samples (Wilson 1927), all of [0, 1] without any.

    Never outside [0, 1], and sensible also near its ends.
    """
    if not images:
        return 0.0, 1.0
    middle = rate + Z_95**2 / (2 * images)
    spread = Z_95 * math.sqrt(rate * (1 - rate) / images + Z_95**2 / (4 * images * images))
    scale = 1 + Z_95**2 / images
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)
