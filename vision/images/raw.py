"""The preview in a camera's raw file: what the camera itself made of the shot, found by rawpy where it is installed."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from base.errors import ImageError
from vision.images.tiff import TIFF, is_raw_tiff

_MARKS = (
    (0, b"FUJIFILMCCD-RAW"),
    (4, b"ftypcrx"),  # Canon CR3
    (6, b"HEAPCCDR"),  # Canon CRW
    (0, b"IIRO"), (0, b"IIRS"), (0, b"MMOR"),  # Olympus
    (0, b"IIU\0"),  # Panasonic
    (0, b"\0MRM"),  # Minolta
    (0, b"FOVb"),  # Sigma
)  # fmt: skip
_QUARTER_TURNS = {3: 2, 5: 1, 6: 3}  # LibRaw's names of how the camera was held, as turns to the left


def is_raw(data: bytes) -> bool:
    """Whether a file is a camera's raw one, by its first bytes or its TIFF directory."""
    return any(data[at : at + len(mark)] == mark for at, mark in _MARKS) or (
        data.startswith(TIFF) and is_raw_tiff(data)
    )


def raw_preview(data: bytes) -> bytes | None:
    """Return the largest preview in a raw file as JPEG or PPM; None where LibRaw does not know the file.

    Raises:
        ImageError: unsupported_format (rawpy is not installed, or there is no preview), truncated or corrupt.
    """
    try:
        import rawpy
    except ImportError:
        raise ImageError(
            "unsupported_format",
            "it is a camera's raw file: run `pip install rawpy` on the hosts that label, or convert it",
        ) from None
    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            preview, turns = raw.extract_thumb(), _QUARTER_TURNS.get(raw.sizes.flip, 0)
    except rawpy.LibRawFileUnsupportedError:
        return None
    except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError) as error:
        raise ImageError("unsupported_format", "a camera's raw file without a preview; convert it to JPEG") from error
    except rawpy.LibRawIOError as error:
        raise ImageError("truncated", f"the raw file ends early, after {len(data):,} bytes") from error
    except rawpy.LibRawError as error:
        raise ImageError("corrupt", f"the raw file is damaged: {error}") from error
    if preview.format == rawpy.ThumbFormat.JPEG:
        return bytes(preview.data)  # with the EXIF orientation, which LibRaw adds where there is none
    file = io.BytesIO()
    Image.fromarray(np.rot90(preview.data, turns)).save(file, "PPM")
    return file.getvalue()
