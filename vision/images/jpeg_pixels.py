"""The pixels of JPEG files, none of which may be missing.

libjpeg paints what it can't decode grey, and warns; OpenCV prints the warning, Pillow drops it, simplejpeg hands on the
first one. Pixels are the same to the bit with all three. A warning is no verdict: a file that lacks only its end,
or has a spare byte before it, shows every pixel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

import simplejpeg

from base.errors import ImageError
from vision.images.colour import Pixels
from vision.images.jpeg import JpegHeader, bare_jpeg

_MISSING = re.compile(
    r"premature end|bad (Huffman|arithmetic) code|instead of RST|extraneous bytes|Inconsistent progression",
    re.IGNORECASE,
)
_HARMLESS = re.compile(r"unknown JFIF revision|Unknown Adobe|Invalid SOS parameters|bad ICC marker")
_SPARE = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
# Cameras leave a byte or two before the end marker. Of photos with other bytes in their middle, 1 % end so too.
_MOST_SPARE_BYTES = 2
_MOST_SCANS_MENDED = 50  # photos have about ten; mending decodes a file up to five times
_END = b"\xff\xd9"


def decode_jpeg(data: bytes, header: JpegHeader, shrink: int) -> Pixels | None:
    """Return RGB pixels of the stored size divided by ``shrink`` (1, 2, 4 or 8), rounded up.

    None where libjpeg refuses the file: Pillow then says why.

    Raises:
        ImageError: truncated or corrupt, pixels are missing.
    """
    height, width = -(-header.height_px // shrink), -(-header.width_px // shrink)
    strict = True
    for _ in range(2):
        try:
            return cast(
                "Pixels", simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, strict=strict)
            )
        except ValueError as error:
            if not strict or not (_MISSING.search(str(error)) or _HARMLESS.search(str(error))):
                return None
        data, strict = whole_jpeg(data), False
    return None


def whole_jpeg(data: bytes) -> bytes:
    """Return a JPEG with its end marker, as long as all its pixels are there or libjpeg does not know its kind.

    Raises:
        ImageError: truncated or corrupt, pixels are missing.
    """
    bare, start = bare_jpeg(data)
    complaint = _complaint(bare)
    if complaint is None or not _MISSING.search(complaint):
        return data
    found = bare.find(_END, start)
    if data.count(b"\xff\xda") <= _MOST_SCANS_MENDED and (found < 0 or _SPARE.search(complaint)):
        for body in _bodies(bare[start:found] if found >= 0 else bare[start:], has_end=found >= 0):
            if (complaint := _complaint(bare[:start] + body + _END)) is None:
                return data[: len(data) - len(bare) + start] + body + _END
            if _MISSING.search(complaint) and not _SPARE.search(complaint):
                break  # pixels are missing, and less of the file won't have them
    if found < 0:
        raise ImageError("truncated", f"the file ends early, after {len(data):,} bytes: {complaint}")
    raise ImageError("corrupt", f"part of the picture is missing: {complaint}")


def _complaint(data: bytes) -> str | None:
    """Return why libjpeg refuses a file, or its first warning if pixels are missing by it.

    Decodes to an eighth: the warnings are the same.
    """
    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1)
    except ValueError as error:
        spare = _SPARE.search(str(error))
        if not _HARMLESS.search(str(error)) and not (spare and int(spare[1]) <= _MOST_SPARE_BYTES):
            return str(error)
    return None


def _bodies(body: bytes, *, has_end: bool) -> Iterator[bytes]:
    """Yield the scans as they may have been before something else came into the place of the end marker."""
    if not has_end:
        yield body
    filled = body.rstrip(b"\0")
    if filled != body:
        yield filled + b"\0"  # the last coded byte may be a zero itself
        yield filled
    if not has_end:
        yield body[:-2]
