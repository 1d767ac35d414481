"""What can go wrong with pictures, networks and engines, sorted by who must act."""

from __future__ import annotations


class VisionError(Exception):
    """Base of every error of this package."""


class WeightsError(VisionError):
    """A weights file does not fit the network; the message lists every missing, unexpected and wrongly shaped key."""


class EngineError(VisionError):
    """An engine or device can't be used; the message says what is missing and what to install."""


class ShapeError(VisionError):
    """An array has another shape or dtype than the network takes."""
