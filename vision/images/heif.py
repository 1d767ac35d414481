"""HEIC, HEIF and AVIF: the boxes that tell them apart, and the first two by pillow-heif where it is installed.

All three are turned upright by their own boxes, whatever their EXIF says: by libheif, or for AVIF by the orientation
that Pillow makes of its boxes.
"""

from __future__ import annotations

import io

from PIL import AvifImagePlugin, Image

from base.errors import ImageError
from vision.images.colour import coded_profile

_MAX_BRANDS_BYTES = 1024
# Images are decoded in parallel already.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def heif_kind(data: bytes) -> str | None:
    """Return HEIC, HEIF or AVIF by the brands that a file begins with; None for all other files, films too."""
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), _MAX_BRANDS_BYTES)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]
    if brands[0] in (b"avif", b"avis"):
        return "AVIF"
    if brands[0][:3] in (b"hei", b"hev"):
        return "HEIC"
    if brands[0] in (b"mif1", b"mif2", b"msf1", b"miaf"):
        return "AVIF" if {b"avif", b"avis"} & set(brands) else "HEIF"
    return None


def open_heif(data: bytes, kind: str) -> Image.Image:
    """Return a HEIC or HEIF file as an image that is still to be loaded.

    Raises:
        ImageError: unsupported_format, pillow-heif is not installed.
    """
    try:
        import pillow_heif
    except ImportError:
        raise ImageError(
            "unsupported_format", f"it is {kind}: run `pip install pillow-heif` on the hosts that label, or convert it"
        ) from None
    pillow_heif.options.DECODE_THREADS = 1
    image = pillow_heif.HeifImageFile(io.BytesIO(data))
    codes = image.info.get("nclx_profile")
    if codes and (profile := coded_profile(codes["color_primaries"], codes["transfer_characteristics"])):
        image.info.setdefault("icc_profile", profile)
    return image


def boxes_end_early(data: bytes) -> bool:
    """Whether a file that can't be read lacks its end: its last box or all behind the first one."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size < 8:  # 0: up to the end
            return False
        at += size
    return at != len(data) or b"meta" not in data
