"""What Pillow gets wrong of TIFF, and names for the kinds that it can't read."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import COMPRESSION_INFO, OPEN_INFO, ImageFileDirectory_v2

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 256, 257, 258, 259, 262, 277
_TILE_WIDTH, _TILE_HEIGHT, _SAMPLE_FORMAT = 322, 323, 339
_STRIPS, _TILES = 273, 324
_SUBFILE_TYPE, _CAMERA_MAKER, _SUBDIRECTORIES, _DNG_VERSION = 254, 271, 330, 50706
_PREVIEW = 1
_SENSOR_VALUES = (32803, 34892)
_WHITE_IS_ZERO = 0
_UNSIGNED, _SIGNED = 1, 2
_SAMPLE_KINDS = {1: "whole numbers", 2: "signed whole numbers", 3: "floats", 5: "complex numbers", 6: "complex floats"}
_PHOTOMETRIC_NAMES = {
    0: "grey", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "Lab", 10: "Lab",
    32803: "colour filter array", 32844: "logarithmic", 32845: "logarithmic", 34892: "linear raw",
}  # fmt: skip
_COMPRESSION_NAMES = {34712: "JPEG 2000", 34887: "LERC", 33003: "JPEG 2000", 33005: "JPEG 2000", 52546: "JPEG XL"}

# Grey of 16 bits, the high byte and white first: the one order of the four that Pillow's table lacks.
OPEN_INFO.setdefault((b"MM", _WHITE_IS_ZERO, (1,), 1, (16,), ()), ("I;16B", "I;16B"))


def tile_of(image: Image.Image) -> tuple[int, int]:
    """Return width and height of a TIFF's tiles or 0: one may be larger than its picture, and is decoded whole."""
    tags = _tags(image)
    return _number(tags.get(_TILE_WIDTH), 0), _number(tags.get(_TILE_HEIGHT), 0)


def grey_values(image: Image.Image) -> tuple[NDArray[np.generic], int | None]:
    """Return the values of a loaded grey TIFF as they are meant, black lowest, and what white is; None: not fixed."""
    tags, values = _tags(image), np.asarray(image)
    bits, kind = _number(tags.get(_BITS), 1), _number(tags.get(_SAMPLE_FORMAT), _UNSIGNED)
    if kind == _UNSIGNED and bits == 32:
        values = values.view(np.uint32)  # Pillow has no such mode: from 2**31 on its values are negative
    if kind == _SIGNED and bits == 8:
        return values.view(np.int8), None
    white = (1 << bits) - 1 if kind == _UNSIGNED and bits <= 16 else None
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # which Pillow minds up to 8 bits
        values = -values.astype(np.float64) if white is None else white - values
    return values, white


def is_signed_8_bit(image: Image.Image) -> bool:
    """Whether values from 128 on are negative ones that Pillow takes for bright."""
    return image.mode == "L" and _number(_tags(image).get(_SAMPLE_FORMAT), _UNSIGNED) == _SIGNED


def is_raw_tiff(data: bytes) -> bool:
    """Whether a TIFF is a camera's raw file: its first picture is a small preview, or unreadable."""
    try:
        tags = _first_directory(data)
        return (
            data[8:10] == b"CR"
            or _DNG_VERSION in tags
            or tags.get(_PHOTOMETRIC) in _SENSOR_VALUES
            or (tags.get(_SUBFILE_TYPE) == _PREVIEW and _CAMERA_MAKER in tags and _SUBDIRECTORIES in tags)
        )
    except Exception:  # whatever a damaged directory provokes
        return False


def kind_of(data: bytes) -> str | None:
    """Return what kind of TIFF a file is, such as "3 x 32-bit floats (RGB)"; None where its directory is damaged."""
    try:
        tags = _first_directory(data)
        width, height, places = tags[_WIDTH], tags[_HEIGHT], tags.get(_STRIPS) or tags[_TILES]
        bits = tags.get(_BITS, (1,))
        samples = _number(tags.get(_SAMPLES), len(bits))
        kind = _SAMPLE_KINDS.get(_number(tags.get(_SAMPLE_FORMAT), 1), "values of an unknown kind")
        compression = _number(tags.get(_COMPRESSION), 1)
        sound = width > 0 and height > 0 and bits[0] > 0 and 0 < max(places) < len(data)
    except Exception:  # whatever a damaged directory provokes
        return None
    if not sound:
        return None
    colours = _PHOTOMETRIC_NAMES.get(_number(tags.get(_PHOTOMETRIC), -1), "colours of an unknown kind")
    packing = "" if compression in COMPRESSION_INFO else f", compression {compression}"
    if compression in _COMPRESSION_NAMES:
        packing = f", compressed as {_COMPRESSION_NAMES[compression]}"
    return f"{samples} x {bits[0]}-bit {kind} ({colours}){packing}"


def _first_directory(data: bytes) -> ImageFileDirectory_v2:
    stream = io.BytesIO(data)
    tags = ImageFileDirectory_v2(data[: 16 if b"+" in data[2:4] else 8])
    stream.seek(tags.next)
    tags.load(stream)
    return tags


def _tags(image: Image.Image) -> Mapping[int, Any]:
    return image.tag_v2  # type: ignore[attr-defined]


def _number(value: object, default: int) -> int:
    """Return a tag's number, or the first of several."""
    first = value[0] if isinstance(value, tuple) and value else value
    return first if isinstance(first, int) else default
