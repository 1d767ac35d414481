"""Which files count as images: by their names those that are labelled and trained on, by their content those read."""

from __future__ import annotations

import os

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
)
# What people's image folders hold. Pillow knows forty more formats, each of them C code that strangers' files reach.
PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def has_image_suffix(path: str) -> bool:
    """Whether the name that ``path`` ends in has the suffix of an image, in either case."""
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - a million times
