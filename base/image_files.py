"""Which files count as images: by their names those that are labelled and trained on, by their content those read."""

from __future__ import annotations

import os

_OF_CAMERAS = "dng nef nrw cr2 cr3 crw arw srf sr2 raf orf rw2 rwl pef srw 3fr fff iiq erf kdc dcr mrw x3f gpr"
RAW_SUFFIXES = frozenset(f".{suffix}" for suffix in _OF_CAMERAS.split())
# What browsers, phones, scanners and cameras write, also where a worker can't read it: then its row says so.
IMAGE_SUFFIXES = RAW_SUFFIXES | frozenset(
    f".{suffix}"
    for suffixes in (
        "jpg jpeg jpe jfif jif jfi pjpeg pjp mpo png apng webp gif bmp dib tif tiff ppm pgm pbm pnm",
        "heic heif hif heics heifs avif avifs jxl jp2 j2k jpf jpx",
    )
    for suffix in suffixes.split()
)
# What network storage and systems keep beside images, in lower case: thumbnails, bins, snapshots. No more than names
# that nobody gives a class.
SYSTEM_FOLDERS = frozenset(
    name
    for names in (
        "@eadir|@recycle|@recently-snapshot|@tmp|#recycle|#snapshot|~snapshot",
        "$recycle.bin|system volume information|found.000|lost+found|__macosx",
    )
    for name in names.split("|")
)
# What people's image folders hold. Pillow knows forty more formats, each of them C code that strangers' files reach.
PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")


def has_image_suffix(path: str) -> bool:
    """Whether the name that ``path`` ends in has the suffix of an image, in either case."""
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - a million times


def is_system_folder(name: str) -> bool:
    """Whether a folder of this name, in either case, holds thumbnails, deleted files or the like: it is passed over."""
    return name.lower() in SYSTEM_FOLDERS
