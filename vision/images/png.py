"""PNG files without what holds no pixels: Pillow refuses a picture for a large or wrongly summed text or profile."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import suppress

from vision.images.colour import MAX_PROFILE_BYTES, coded_profile

PNG = b"\x89PNG\r\n\x1a\n"
_MAX_TEXT_BYTES = 1_000_000  # unpacked; the few texts that are kept hold an orientation
_RAW_EXIF = (b"Raw profile type exif\0", b"Raw profile type APP1\0")
_KEPT_TEXTS = (b"XML:com.adobe.xmp\0", *_RAW_EXIF)
_MAX_KEPT_TEXTS = 8
_OF_PIXELS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")


def lean_png(data: bytes) -> tuple[bytes, bytes | None]:
    """Return a PNG without texts, times and the like, and its colour profile if that is sound and not too large."""
    parts, start, profile, texts = [], 0, None, 0
    for at, kind, content, is_sound in _chunks(data):
        if not kind[0] & 0x20 or kind in _OF_PIXELS:  # a capital first: without it there is no picture
            continue
        if kind == b"iCCP" and is_sound:
            profile = profile or _unpacked(content.partition(b"\0")[2][1:], MAX_PROFILE_BYTES)
        if kind == b"cICP" and is_sound and len(content) == 4:
            profile = coded_profile(*content[:2]) or profile
        keeps_text = content.startswith(_KEPT_TEXTS) and _is_short(kind, content) and texts < _MAX_KEPT_TEXTS
        texts += keeps_text
        if not is_sound or kind == b"iCCP" or (kind in (b"tEXt", b"zTXt", b"iTXt") and not keeps_text):
            parts.append(data[start:at])
            start = at + 12 + len(content)
    return (b"".join([*parts, data[start:]]) if parts else data), profile


def exif_of_png(data: bytes) -> bytes:
    """Return the EXIF block of a PNG: of its own chunk, or of the text that ImageMagick wrote; empty without."""
    for _, kind, content, _ in _chunks(data):
        if kind == b"eXIf":
            return content
        if kind in (b"zTXt", b"tEXt") and content.startswith(_RAW_EXIF):
            packed = content.partition(b"\0")[2]
            text = packed if kind == b"tEXt" else _unpacked(packed[1:], _MAX_TEXT_BYTES) or b""
            with suppress(ValueError):  # keyword, length, then hexadecimal digits over many lines
                return bytes.fromhex(b"".join(text.split()[2:]).decode("ascii"))
    return b""


def _chunks(data: bytes) -> Iterator[tuple[int, bytes, bytes, bool]]:
    """Yield where each whole chunk starts, its kind, its content if it is no pixels, and whether its sum is right."""
    at = len(PNG)
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if at + 12 + length > len(data) or kind == b"IEND":
            return
        if kind[0] & 0x20 and kind not in _OF_PIXELS:
            content = data[at + 8 : at + 8 + length]
            yield (
                at,
                kind,
                content,
                zlib.crc32(content, zlib.crc32(kind))
                == int.from_bytes(data[at + 8 + length : at + 12 + length], "big"),
            )
        at += 12 + length


def _is_short(kind: bytes, content: bytes) -> bool:
    """Whether a text is short, unpacked where it is packed: behind keyword and method, or in iTXt two more words."""
    packed = content.partition(b"\0")[2]
    if kind == b"iTXt":
        packed = packed[2:].partition(b"\0")[2].partition(b"\0")[2] if packed[:1] == b"\1" else b""
    elif kind == b"zTXt":
        packed = packed[1:]
    else:
        packed = b""
    return len(content) <= _MAX_TEXT_BYTES and (not packed or _unpacked(packed, _MAX_TEXT_BYTES) is not None)


def _unpacked(packed: bytes, most: int) -> bytes | None:
    """Return what zlib packed; None where that is damaged or longer than ``most`` bytes."""
    try:
        unpacked = zlib.decompressobj().decompress(packed, most + 1)
    except zlib.error:
        return None
    return unpacked if len(unpacked) <= most else None
