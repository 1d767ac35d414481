"""How far a rate, or a difference of two, that was measured on some images may lie from the true one."""

from __future__ import annotations

import math

Z_95 = 1.959964  # of the normal distribution: 95 % lie within so many standard deviations
MOST_EXACT = 1000  # images that only one side gets right; of more the normal distribution says the same


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


def paired_interval(won: int, lost: int, images: int) -> tuple[float, float]:
    """Return the interval that holds the true difference of two rates on the same images in 95 of 100 such samples.

    Agresti and Min 2005 (Statistics in Medicine 24): half an image more in each of the four cells, so that a few images
    without any difference don't look like proof. Within [-1, 1].

    Args:
        won, lost: images that only the first, and only the second, gets right.
    """
    images, won_more, lost_more = images + 2, won + 0.5, lost + 0.5
    difference = (won_more - lost_more) / images
    spread = Z_95 * math.sqrt(((won_more + lost_more) / images - difference**2) / images)
    return max(-1.0, difference - spread), min(1.0, difference + spread)


def mcnemar(won: int, lost: int) -> float:
    """Return how often chance alone would make two equal classifiers differ as much or more, in either direction.

    McNemar's exact test. With more than 1,000 differing images, its normal approximation, corrected for continuity.

    Args:
        won, lost: images that only the one, and only the other, gets right.
    """
    differing = won + lost
    if differing > MOST_EXACT:
        return math.erfc(max(0, abs(won - lost) - 1) / math.sqrt(2 * differing))
    fewer = sum(math.comb(differing, count) for count in range(min(won, lost) + 1))
    chance: float = 2 * fewer / 2**differing
    return min(1.0, chance)
