"""What Pillow decoded, of any of its modes, as RGB pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vision.images.colour import cmyk_to_srgb
from vision.images.pixels import Pixels
from vision.images.tiff import grey_values, is_signed_8_bit


def to_rgb(image: Image.Image, profile: bytes | None) -> Pixels:
    """Return the pixels of a loaded image, transparent ones on white; of a CMYK one in sRGB by its profile."""
    file_format = image.format
    if image.mode == "CMYK":
        image = cmyk_to_srgb(image, profile)
    tiff = file_format == "TIFF"
    if image.mode.startswith("I;16") or image.mode in ("I", "F") or (tiff and is_signed_8_bit(image)):
        values, white = grey_values(image) if tiff else (np.asarray(image), 65535)
        return np.repeat(_to_8_bits(values, white)[:, :, None], 3, axis=2)
    if file_format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        image = image.convert("RGB")  # programs that know no transparency leave its bytes at 0, and viewers know that
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite((image.convert("LA") if image.mode == "La" else image).convert("RGBA"))
        image = canvas
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)


def _to_8_bits(grey: NDArray[np.generic], white: int | None) -> Pixels:
    """Scale 0 to ``white`` to 0..255; floats and wider integers have no fixed range, so theirs is stretched to it."""
    values = np.nan_to_num(np.asarray(grey, dtype=np.float32), posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    if grey.dtype.kind != "f" and low >= 0 and high <= 65535:
        low, high = 0.0, float(white or 65535)
    return np.rint((values - low) * (255 / max(high - low, 1e-12))).clip(0, 255).astype(np.uint8)
