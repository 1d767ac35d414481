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


class ImageError(VisionError):
    """One image can't be read: its row carries the message and the chunk goes on.

    Attributes:
        reason: short code for counting and sorting, such as "truncated".
        detail: one sentence for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)  # both as args: the error survives pickling between processes
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
