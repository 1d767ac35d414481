"""One picture of a file that holds several: pages of a scan, frames of an animation, photos of a burst."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from base.errors import ImageError
from base.pages import MOST_PAGES

_AT_ONCE = 20  # frames of the largest size that is allowed, on the way to one picture
_BUILT_UP = ("GIF", "WEBP", "PNG", "AVIF")  # of which each frame is drawn on the one before


class PagedFile:
    """The bytes of a file, which each thread opens once: it then goes on at the frame that it was at.

    Attributes:
        facts: what its reader found out about the file, once for all of its pictures.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.facts: dict[str, Any] = {}
        self._opened: dict[int, tuple[Image.Image, int]] = {}

    def picture(self, number: int, open_: Callable[[], Image.Image], max_pixels: int) -> Image.Image:
        """Return the file as an image at its picture ``number``, still to be loaded.

        Raises:
            ImageError: too_many_pixels, so many frames lie before it that it would take minutes.
            EOFError, OSError: there is no such picture, or one before it is damaged.
        """
        image, at = self._opened.pop(threading.get_ident(), (None, 0))  # until it is kept again
        if image is None or at > number:
            image, at = open_(), 1
        pixels = image.width * image.height
        if image.format in _BUILT_UP and (pixels > max_pixels or (number - at) * pixels > _AT_ONCE * max_pixels):
            raise ImageError("too_many_pixels", f"{number - at} frames of {pixels:,} pixels lie before it")
        image.seek(number - 1)
        return image

    def keep(self, number: int, image: Image.Image) -> None:
        """Go on here for this thread's next picture, now that this one has been decoded without an error."""
        self._opened[threading.get_ident()] = (image, number)


@dataclass(frozen=True, slots=True)
class Page:
    """A picture of a file, by its number from 1 on."""

    file: PagedFile
    number: int

    def check(self) -> None:
        """Raise ImageError for the one picture too many that stands for all beyond the limit."""
        if self.number > MOST_PAGES:
            raise ImageError("too_many_pages", f"the file holds more than {MOST_PAGES:,} pictures; label it in parts")
