"""Image files to pixels: uint8, RGB, C-contiguous, shape (height, width, 3), the EXIF orientation applied.

HEIF and AVIF files are turned upright by their own boxes, whatever their EXIF says: by libheif, or for AVIF by the
orientation that Pillow makes of its boxes.

Transparent pixels lie on white. Of a file with several pictures the first counts, unless a `Page` is asked for.
Every failure of one image is an `ImageError`
with one of these reasons: not_found, not_a_file, unreadable, changed, empty, too_large, too_many_pixels, not_an_image,
unsupported_format, truncated, corrupt, too_many_pages. All functions may be called from many threads at once.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, UnidentifiedImageError, features

from base.errors import ImageError
from base.files import check_size
from base.image_files import PILLOW_FORMATS
from vision.images.camera import open_heif, raw_preview
from vision.images.colour import Pixels, cmyk_to_srgb
from vision.images.jpeg import MAX_SCANS, has_too_many_scans, read_jpeg_header, unusual_kind
from vision.images.jpeg_pixels import decode_jpeg, whole_jpeg
from vision.images.pages import Page
from vision.images.png import PNG, lean_png
from vision.images.signatures import ends_early, foreign_format, heif_kind, is_raw, read_format
from vision.images.tiff import TIFF, grey_values, is_signed_8_bit, kind_of, tile_of

# From width and height of the upright image: by what a JPEG decoder may shrink both sides.
Room = Callable[[int, int], float]

# Pillow's own limit warns or raises by a global; ours is per call, and checked before anything is decoded.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns about odd EXIF and palettes, which changes nothing for us; under `-W error` a good image would become an
# error. Once at import, because `catch_warnings` swaps the filters of all threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Images are decoded in parallel already.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What one image may cost: the file's bytes, and the pixels its header claims (6 to 18 bytes of memory each)."""

    max_bytes: int = 100_000_000
    max_pixels: int = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedImage:
    """uint8 RGB pixels, and the size of the image that they show, after orientation; they may be fewer.

    Pixels with a ``profile`` are still to be brought `to_srgb`: cheaper once they are fewer.
    """

    pixels: Pixels
    width_px: int
    height_px: int
    profile: bytes | None = None


DEFAULT_LIMITS = ImageLimits()


def decode_within(source: bytes | Page, limits: ImageLimits, room: Room | None) -> DecodedImage:
    """Return the image of a file's bytes, or a picture in it; a large JPEG at 1/2, 1/4 or 1/8 where ``room`` allows.

    That is 3 to 5 times faster. Without ``room`` pixels are in the image's own size.

    Raises:
        ImageError: the content can't be used; see the module for the reasons.
    """
    data = source if isinstance(source, bytes) else source.file.data
    check_size(len(data), limits.max_bytes, "the image")
    if isinstance(source, Page) and (source.number > 1 or heif_kind(data) in ("HEIC", "HEIF")):
        source.check()
        return _decode_with_pillow(data, limits, room, source)
    if has_too_many_scans(data):
        # 60 KB can have a decoder walk over the same 100 million pixels for half a minute, 1 MB for ten.
        raise ImageError("unsupported_format", f"a JPEG of more than {MAX_SCANS} scans, where a photo has about ten")
    header = read_jpeg_header(data)
    if header is not None:
        _check_pixels(header.width_px, header.height_px, limits)
        shrink = _shrink(header.width_px, header.height_px, header.orientation, room)
        if (pixels := decode_jpeg(data, header, shrink)) is not None:
            return _oriented(pixels, header.width_px, header.height_px, header.orientation, header.profile)
    if is_raw(data) and (preview := raw_preview(data)) is not None:
        return decode_within(preview, limits, room)
    return _decode_with_pillow(data, limits, room)


def _decode_with_pillow(data: bytes, limits: ImageLimits, room: Room | None, page: Page | None = None) -> DecodedImage:
    try:
        lean, profile = lean_png(data) if data.startswith(PNG) else (data, None)
        image = _open(lean) if page is None else page.file.picture(page.number, partial(_open, lean), limits.max_pixels)
        width, height = image.size
        _check_pixels(width, height, limits)
        if image.format == "TIFF":
            _check_pixels(*tile_of(image), limits)
        if image.format in ("JPEG", "MPO") and page is None:
            if (whole := whole_jpeg(data)) is not data:
                image = _open(whole)
            shrink = _shrink(width, height, _orientation(image), room)
            image.draft(None, (max(1, width // shrink), max(1, height // shrink)))
        image.load()
        profile = profile or image.info.get("icc_profile")
        pixels = _to_rgb(image, profile)
        if page is not None:
            page.file.keep(page.number, image)
        if page is not None or image.format not in ("JPEG", "MPO"):
            height, width = pixels.shape[:2]  # a HEIF file may claim another size than it has
        # Only now: PNG keeps EXIF behind the pixels, and Pillow has turned a TIFF upright by itself and says so.
        return _oriented(pixels, width, height, _orientation(image), profile)
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("too_many_pixels", "the memory does not suffice to decode it") from None
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except Exception as error:  # whatever a damaged file provokes in Pillow's plugins: struct, zlib, index errors
        raise _damaged(data, error) from error


def _open(data: bytes) -> Image.Image:
    kind = heif_kind(data)
    return open_heif(data, kind) if kind in ("HEIC", "HEIF") else Image.open(io.BytesIO(data), formats=PILLOW_FORMATS)


def _check_pixels(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise ImageError("too_many_pixels", f"it claims {width} x {height} pixels, the limit is {limits.max_pixels:,}")


def _shrink(width: int, height: int, orientation: int, room: Room | None) -> int:
    """Return 8, 4, 2 or 1: by what a JPEG of this stored size is shrunk while it is decoded."""
    if room is None:
        return 1
    possible = room(height, width) if orientation >= 5 else room(width, height)
    return next((step for step in (8, 4, 2) if possible >= step), 1)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none or it makes no sense."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # an unreadable EXIF block is no reason to refuse the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _oriented(pixels: Pixels, width: int, height: int, orientation: int, profile: bytes | None) -> DecodedImage:
    """Turn stored pixels upright. EXIF 2.3: where the stored first row and first column belong."""
    if orientation >= 5:
        pixels, width, height = pixels.transpose(1, 0, 2), height, width
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return DecodedImage(pixels=np.ascontiguousarray(pixels), width_px=width, height_px=height, profile=profile)


def _unidentified(data: bytes) -> ImageError:
    if (kind := kind_of(data) if data.startswith(TIFF) else None) is not None:
        return ImageError("unsupported_format", f"a TIFF of {kind}; convert it to JPEG or PNG")
    if (known := read_format(data)) == "AVIF" and not features.check("avif"):
        return ImageError("unsupported_format", "it is AVIF, which needs a newer pillow on the hosts that label")
    if known is not None:
        return _damaged(data, f"its {known} header is damaged, or of a kind that can't be read")
    if (foreign := foreign_format(data)) is not None:
        return ImageError("unsupported_format", f"it is {foreign}; convert it to JPEG or PNG")
    return ImageError("not_an_image", f"it starts with {data[:12]!r}, as no image does")


def _damaged(data: bytes, cause: object) -> ImageError:
    name = read_format(data)
    if name == "JPEG" and (kind := unusual_kind(data)) is not None:
        return ImageError("unsupported_format", f"{kind}; convert it to an ordinary JPEG")
    if "not supported" in str(cause) or "unsupported" in str(cause).lower() or isinstance(cause, NotImplementedError):
        return ImageError("unsupported_format", f"a kind of {name or 'image'} that can't be read: {cause}")
    if "truncated" in str(cause).lower() or isinstance(cause, EOFError) or ends_early(data):
        return ImageError("truncated", f"the file ends early, after {len(data):,} bytes: {cause}")
    return ImageError("corrupt", f"{type(cause).__name__ if isinstance(cause, Exception) else 'header'}: {cause}")


def _to_rgb(image: Image.Image, profile: bytes | None) -> Pixels:
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
