"""Colour profiles: pixels of other colour spaces to sRGB, in which the networks learn and label.

Most files have no profile or one of sRGB, and cost nothing but a look into the cache of transforms. Some only name
their space: Adobe RGB in a camera's EXIF, Display P3 by the codes of video.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Pixels = NDArray[np.uint8]  # RGB, C-contiguous, shape (height, width, 3): what all decoders give

MAX_PROFILE_BYTES = 4_000_000  # those of printers have up to three million
_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
_NEAR = 4  # of 255: profiles that differ less are sRGB by other makers
_SRGB = ImageCms.createProfile("sRGB")

# Red, green and blue in XYZ, adapted to D50 by Bradford's method, as Adobe's and Apple's own profiles have them.
_ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
_DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_D50 = (0.9642, 1.0, 0.8249)
# DCF 2.0: an uncalibrated ColorSpace and the InteroperabilityIndex R03 mean Adobe RGB; in either order of bytes.
_DCF_ADOBE_RGB = tuple(
    re.compile(re.escape(colour_space) + rb".*" + re.escape(index), re.DOTALL)
    for colour_space, index in (
        (b"\x01\xa0\x03\0\x01\0\0\0\xff\xff", b"\x01\0\x02\0\x04\0\0\0R03\0"),
        (b"\xa0\x01\0\x03\0\0\0\x01\xff\xff", b"\0\x01\0\x02\0\0\0\x04R03\0"),
    )
)
P3_PRIMARIES, SRGB_TRANSFER = 12, 13  # ITU-T H.273


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


def exif_profile(exif: bytes) -> bytes | None:
    """Return Adobe RGB's profile if a camera's EXIF block names that space."""
    if b"R03\0" in exif and any(pattern.search(exif) for pattern in _DCF_ADOBE_RGB):
        return ADOBE_RGB
    return None


def coded_profile(primaries: int, transfer: int) -> bytes | None:
    """Return Display P3's profile if the code points of a video standard mean that space."""
    return DISPLAY_P3 if (primaries, transfer) == (P3_PRIMARIES, SRGB_TRANSFER) else None


def _profile(columns: Sequence[Sequence[float]], curve: Sequence[float]) -> bytes:
    """Return an ICC profile (version 2.4) of three primaries and one curve: a gamma, or sRGB's five numbers."""
    kind = 3 if len(curve) == 5 else 0
    tone = b"para" + struct.pack(">IHH", 0, kind, 0) + _fixed(curve)
    xyz = [b"XYZ " + bytes(4) + _fixed(column) for column in (_D50, *columns)]
    names = (b"wtpt", b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC")
    at, table, body = 132 + 12 * len(names), struct.pack(">I", len(names)), b""
    for name, part in zip(names, [*xyz, tone, tone, tone], strict=True):
        table += name + struct.pack(">II", at + len(body), len(part))
        body += part
    head = struct.pack(">I4sI4s4s4s", at + len(body), bytes(4), 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    return (head + bytes(12) + b"acsp" + bytes(28) + _fixed(_D50)).ljust(128, b"\0") + table + body


def _fixed(values: Sequence[float]) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


ADOBE_RGB = _profile(_ADOBE_RGB, (2.19921875,))
DISPLAY_P3 = _profile(_DISPLAY_P3, _SRGB_CURVE)
