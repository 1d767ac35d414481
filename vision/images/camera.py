"""What phones and cameras write, by packages that need not be installed: HEIC and HEIF, and previews in raw files."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from base.errors import ImageError
from vision.images.colour import coded_profile

_QUARTER_TURNS = {3: 2, 5: 1, 6: 3}  # LibRaw's names of how the camera was held, as turns to the left


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
