"""Colour profiles: pixels of other colour spaces to sRGB, in which the networks learn and label.

Most files have no profile or one of sRGB, and cost nothing but a look into the cache of transforms.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from vision.images.pixels import Pixels

MAX_PROFILE_BYTES = 4_000_000  # those of printers have up to three million
_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
_NEAR = 4  # of 255: profiles that differ less are sRGB by other makers
_SRGB = ImageCms.createProfile("sRGB")


def to_srgb(pixels: Pixels, profile: bytes | None) -> Pixels:
    """Return RGB pixels in sRGB. A profile that is broken, too large or of another kind of image changes nothing."""
    if profile is None or (transform := _transform(profile)) is None:
        return pixels
    if transform.input_mode == "RGB":
        return np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), transform), dtype=np.uint8)
    if transform.input_mode == "L" and (pixels == pixels[:, :, :1]).all():
        grey = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0]))
        return np.asarray(ImageCms.applyTransform(grey, transform), dtype=np.uint8)
    return pixels


def cmyk_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return a CMYK image as RGB by its own profile; unchanged without a sound one."""
    transform = None if profile is None else _transform(profile)
    if transform is None or transform.input_mode != "CMYK":
        return image
    return ImageCms.applyTransform(image, transform) or image  # None only where it works in place


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """Return what brings pixels of the profile to sRGB; None where nothing does, or nothing needs to."""
    mode = _MODES.get(profile[16:20])
    if mode is None or len(profile) > MAX_PROFILE_BYTES:
        return None
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)), _SRGB, mode, "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
        return None if mode != "CMYK" and _changes_little(transform, mode) else transform
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _changes_little(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    if mode == "L":
        before, colours = levels[:, None, None].repeat(3, axis=2), levels[:, None]
    else:
        before = colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 1, 3)
    after = np.asarray(ImageCms.applyTransform(Image.fromarray(colours), transform))
    return int(np.abs(after.astype(int) - before).max()) <= _NEAR
