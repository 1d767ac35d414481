"""The header of an ordinary JPEG file, read without a decoder.

Opening a file with Pillow holds Python's lock for 0.1 ms, a quarter of the whole work on a 224-pixel JPEG. Reading the
few bytes that matter lets OpenCV decode ordinary JPEGs on all cores. Whatever is not ordinary is left to Pillow.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from vision.images.colour import exif_profile

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # C4, C8 and CC are tables, not frames
_HUFFMAN_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive
_PROGRESSIVE_FRAMES = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_UNUSUAL_FRAMES = {
    **dict.fromkeys((0xC3, 0xCB), "a lossless JPEG"),
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "a hierarchical JPEG"),
    0xF7: "a JPEG-LS file",
}
_SCAN = 0xDA
_ADOBE = 0xEE
_TABLES = frozenset({0xDB, 0xC4, 0xCC, 0xDD, _ADOBE})  # quantisation, Huffman, arithmetic, restarts, colour model
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_PROFILE = b"ICC_PROFILE\0"
_ORIENTATION_TAG = 0x0112
_MARKER = re.compile(rb"\xff+[^\x00\x01\xd0-\xd8\xff]")  # FF 00 is a coded byte FF; the others have no length
MAX_SCANS = 500
_SHORT = 3  # the TIFF field type: 16 bits, unsigned


@dataclass(frozen=True, slots=True, kw_only=True)
class JpegHeader:
    """Size as stored, before the EXIF orientation (1 to 8) is applied; the colour profile, if there is one."""

    width_px: int
    height_px: int
    orientation: int
    profile: bytes | None


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """Return the header of an 8-bit grey or colour JPEG, or None when anything about it is unusual.

    None is no verdict: CMYK, Adobe colour transforms, orientation given in XMP, odd EXIF and damaged headers all
    give it, and Pillow then reads the file or names the defect.
    """
    if data[:2] != b"\xff\xd8":
        return None
    orientation: int | None = 1
    exif_segments = 0
    profile: list[bytes] = []
    named: bytes | None = None
    for marker, segment in segments(data):
        if marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            exif_segments += 1
            orientation = _orientation(segment[6:])
            named = exif_profile(segment)
        elif marker == 0xE2 and segment.startswith(_PROFILE):
            profile.append(segment)
        elif marker == _ADOBE and segment.startswith(b"Adobe"):
            if len(segment) < 12 or segment[11] != 1:  # 1: YCbCr, as without the segment
                return None
        elif marker == 0xE1 and b"Orientation" in segment:
            return None
        elif marker in _START_OF_FRAME:
            if marker not in _HUFFMAN_FRAMES or len(segment) < 6 or orientation is None or exif_segments > 1:
                return None
            precision, height, width, components = struct.unpack(">BHHB", segment[:6])
            if precision != 8 or components not in (1, 3) or not height or not width:
                return None
            return JpegHeader(
                width_px=width,
                height_px=height,
                orientation=orientation,
                profile=_joined(profile) if profile else named,
            )
    return None


def _joined(parts: list[bytes]) -> bytes | None:
    """Return a profile from its segments, each with its number and how many there are; None if one is missing."""
    numbers = sorted(
        (part[len(_PROFILE)], part[len(_PROFILE) + 1 :]) for part in parts if len(part) > len(_PROFILE) + 2
    )
    complete = [number for number, _ in numbers] == list(range(1, len(parts) + 1))
    return b"".join(rest[1:] for _, rest in numbers) if complete and numbers[0][1][0] == len(parts) else None


def unusual_kind(data: bytes) -> str | None:
    """Return what is unusual about a JPEG that no decoder here knows; None when its frame is an ordinary one."""
    for marker, segment in segments(data):
        if marker in _UNUSUAL_FRAMES:
            return _UNUSUAL_FRAMES[marker]
        if marker in _START_OF_FRAME and segment[:1] != b"\x08":
            return f"a JPEG of {segment[0] if segment else 0} bits a colour"
    return None


def bare_jpeg(data: bytes) -> tuple[bytes, int]:
    """Return a JPEG without what its pixels don't need (EXIF, profiles, comments), and where its first scan starts.

    What is harmless in those parts would otherwise be what a decoder warns of first.
    """
    parts = [data[:2]]
    at = 2
    while (found := _MARKER.search(data, at)) is not None:
        marker, start = data[found.end() - 1], found.end() - 2
        if marker in (0xD9, _SCAN):
            head = b"".join(parts)
            return head + data[start:], len(head)
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))
        if marker in _TABLES or marker in _START_OF_FRAME:
            parts.append(data[start:at])
    return data, len(data)


def has_too_many_scans(data: bytes) -> bool:
    """Whether a JPEG has more than `MAX_SCANS` scans. What follows its end (films, depth maps) does not count."""
    if data[:2] != b"\xff\xd8":
        return False
    frame = scans = components = 0
    at = 2
    while scans <= MAX_SCANS and (found := _MARKER.search(data, at)) is not None:
        marker, at = data[found.end() - 1], found.end()
        if marker == 0xD9:
            break
        if marker in _START_OF_FRAME:
            frame, components = marker, int.from_bytes(data[at + 7 : at + 8], "big")
        if marker == _SCAN:
            if scans == 0 and _has_few(data, at, frame, components):
                return False
            scans += 1
        at += int.from_bytes(data[at : at + 2], "big")
    return scans > MAX_SCANS


def _has_few(data: bytes, scan: int, frame: int, components: int) -> bool:
    """Whether there can't be many scans, by the first one, whose segment starts at ``scan``: saves most counting."""
    whole = frame not in _PROGRESSIVE_FRAMES and data[scan + 2 : scan + 3] == bytes((components,))
    return whole or data.count(b"\xff\xda") <= MAX_SCANS  # decoders end behind a sequential scan of all colours


def segments(data: bytes) -> list[tuple[int, bytes]]:
    """Return marker and content of the segments up to the first frame; fewer when the header is damaged."""
    found: list[tuple[int, bytes]] = []
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _WITHOUT_LENGTH:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2 or at + 2 + length > len(data) or marker in (0xD9, _SCAN):
            break
        found.append((marker, data[at + 4 : at + 2 + length]))
        if marker in _START_OF_FRAME:
            break
        at += 2 + length
    return found


def _orientation(tiff: bytes) -> int | None:
    """Return the orientation of an EXIF block, 1 where it has none, None where the block is odd."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return None
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == _ORIENTATION_TAG:
                return value if kind == _SHORT and count == 1 and 1 <= value <= 8 else None
    except struct.error:
        return None
    return 1
