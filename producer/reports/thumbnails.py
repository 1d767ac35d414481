"""Small copies of images for the page, made without trusting a file: limits are checked before anything is decoded."""

from __future__ import annotations

import io
import warnings
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

from base.files import read_file
from base.image_files import PILLOW_FORMATS
from base.process import available_cpus
from storage import Folder

THUMBNAIL_PX = 144  # longest side
SMALL_PX = 64  # up to here an image is kept as it is, without loss: what one looks at are its pixels
MOST_BYTES = 100_000_000
MOST_PIXELS_UNDRAFTED = 50_000_000  # only JPEG can be decoded at a fraction of its size
AHEAD = 32  # thumbnails under way


def thumbnails(
    pictures: Iterable[tuple[str, int]], max_pixels: int, folder: Folder | None = None
) -> Generator[bytes | None, None, None]:
    """Yield a WebP file of each picture in order, or None where it can't be had: of a path, with its number or 0.

    They are files, or paths below ``folder``. Made by as many threads as cores, or as the folder has connections.
    """
    _pillow()
    make = partial(thumbnail, max_pixels=max_pixels, folder=folder)
    threads = folder.connections if folder is not None else available_cpus()
    with ThreadPoolExecutor(threads, thread_name_prefix="thumbnail") as pool:
        under_way: deque[Future[bytes | None]] = deque()
        try:
            for path, page in pictures:
                under_way.append(pool.submit(make, path, page=page))
                if len(under_way) >= AHEAD:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:  # whoever has enough closes this
            for future in under_way:
                future.cancel()


def thumbnail(path: str, max_pixels: int, folder: Folder | None = None, page: int = 0) -> bytes | None:
    """Return a WebP file of the upright image on white, at most 144 pixels long; None when it can't be had."""
    try:
        data = read_file(Path(path), MOST_BYTES) if folder is None else folder.read(path, MOST_BYTES)
        return shrunk(data, max_pixels, page) if data else None
    except Exception:  # whatever reading it, or what a damaged file provokes in Pillow's plugins: struct, zlib
        return None


def shrunk(data: bytes, max_pixels: int, page: int = 1, longest_px: int = THUMBNAIL_PX) -> bytes | None:
    """Return a WebP file of the upright image in ``data`` on white, or None when it has more pixels than it may have.

    Whatever a damaged file provokes in Pillow's plugins is raised: struct, zlib.
    """
    image_module, image_ops, formats = _pillow()
    with image_module.open(io.BytesIO(data), formats=formats) as image:
        if page > 1:
            is_built_up = image.format not in ("TIFF", "HEIF", "MPO")
            if is_built_up and page * image.width * image.height > MOST_PIXELS_UNDRAFTED:
                return None
            image.seek(page - 1)
        width, height = image.size
        drafted = image.format in ("JPEG", "MPO") and page <= 1
        if width * height > (max_pixels if drafted else min(max_pixels, MOST_PIXELS_UNDRAFTED)):
            return None
        if drafted or image.format == "HEIF":  # which may hold a small picture of its own
            image.draft("RGB", (2 * longest_px, 2 * longest_px))
        upright = image_ops.exif_transpose(image)
        small = max(upright.size) <= SMALL_PX
        if upright.mode.startswith("I;16"):
            upright = upright.point(lambda value: value / 257).convert("L")
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            upright.thumbnail((longest_px, longest_px))
            canvas = image_module.new("RGBA", upright.size, "white")
            canvas.alpha_composite(upright)
            upright = canvas
        upright = upright.convert("RGB")
        upright.thumbnail((longest_px, longest_px), reducing_gap=2.0)
        file = io.BytesIO()
        upright.save(file, "WEBP", quality=72, method=2, lossless=small)
        return file.getvalue()


@cache
def _pillow() -> tuple[Any, Any, tuple[str, ...]]:
    from PIL import Image, ImageOps

    # Ours is checked for each image. Pillow's own limit warns by a global, which would be too late and of all threads.
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")  # odd EXIF and palettes change nothing here
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return Image, ImageOps, PILLOW_FORMATS
    register_heif_opener(decode_threads=1)
    return Image, ImageOps, (*PILLOW_FORMATS, "HEIF")
