"""What a camera wrote into a photo: when, with what, and where it was taken.

Only the few tags that are wanted are looked up, wherever the directories of a file lead, so that a hostile file costs
no more than a sound one. What is absent, or makes no sense, is empty: it is never a reason to refuse the picture.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from PIL import Image

from vision.images.camera import open_heif
from vision.images.jpeg import segments
from vision.images.png import PNG, exif_of_png
from vision.images.signatures import heif_kind

MAX_TEXT = 100  # characters of a name
MAX_ENTRIES = 1000  # of a directory; cameras write about fifty
_EXIF = b"Exif\0\0"
_TIFF_MARKS = (
    b"II*\0",
    b"MM\0*",
    b"IIRO",
    b"IIRS",
    b"MMOR",
    b"IIU\0",
)  # ... of Olympus' and Panasonic's raw files, too
_RAF, _RAF_JPEG = b"FUJIFILMCCD-RAW", 84  # where a Fuji raw file says where its JPEG is
_CR3, _CR3_BLOCKS, _CR3_HEAD = b"ftypcrx", (b"CMT1", b"CMT2", b"CMT4"), 1 << 16

_MAKE, _MODEL, _CHANGED, _EXIF_AT, _GPS_AT = 0x010F, 0x0110, 0x0132, 0x8769, 0x8825
_TAKEN, _DIGITIZED, _SERIAL = 0x9003, 0x9004, 0xA431
_ZONES = {_TAKEN: 0x9011, _DIGITIZED: 0x9012, _CHANGED: 0x9010}
_LATITUDE_SIDE, _LATITUDE, _LONGITUDE_SIDE, _LONGITUDE = 1, 2, 3, 4
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 9: 4, 10: 8, 13: 4}  # of TIFF's field types, in bytes
_NUMBERS, _PAIRS = {3: "H", 4: "I", 13: "I"}, {5: "2I", 10: "2i"}

_MOMENT = re.compile(r"(\d{4})[:/-](\d\d)[:/-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_ZONE = re.compile(r"[+-](?:0\d|1[0-4]):?[0-5]\d|Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class PhotoFacts(NamedTuple):
    """What a photo says of itself; empty or None where it does not.

    Attributes:
        taken: as 2026-03-01T12:00:00, with +01:00 behind it where the file names the zone.
        serial: of the camera's body.
        latitude, longitude: decimal degrees, north and east positive.
    """

    taken: str = ""
    make: str = ""
    model: str = ""
    serial: str = ""
    latitude: float | None = None
    longitude: float | None = None


def photo_facts(data: bytes) -> PhotoFacts:
    """Return what the EXIF of an image file says, whatever else is in it."""
    known: dict[int, Any] = {}
    places: dict[int, Any] = {}
    with suppress(Exception):  # whatever a damaged file provokes: what was found until then counts
        for block in _blocks(data):
            _Directories(block).collect(known, places)
    return PhotoFacts(
        taken=_moment(known),
        make=_text(known.get(_MAKE)),
        model=_text(known.get(_MODEL)),
        serial=_text(known.get(_SERIAL)),
        **_place(places),
    )


def _blocks(data: bytes) -> Iterator[bytes]:
    """Yield each block of EXIF in a file; it is laid out as a TIFF file."""
    if data.startswith(b"\xff\xd8"):
        yield from (part[len(_EXIF) :] for marker, part in segments(data) if marker == 0xE1 and part.startswith(_EXIF))
    elif data.startswith(_TIFF_MARKS):
        yield data
    elif data.startswith(PNG):
        yield exif_of_png(data).removeprefix(_EXIF)
    elif data[8:12] == b"WEBP":
        yield _of_webp(data).removeprefix(_EXIF)
    elif data.startswith(_RAF):
        (at,) = struct.unpack_from(">I", data, _RAF_JPEG)
        if at:
            yield from _blocks(data[at:])
    elif data[4:].startswith(_CR3):
        for name in _CR3_BLOCKS:  # main directory, EXIF, GPS
            if (at := data.find(name, 0, _CR3_HEAD)) >= 4:
                yield data[at + 4 : at - 4 + int.from_bytes(data[at - 4 : at], "big")]
    elif (kind := heif_kind(data)) is not None:
        image = Image.open(io.BytesIO(data), formats=["AVIF"]) if kind == "AVIF" else open_heif(data, kind)
        yield bytes(image.info.get("exif", b"")).removeprefix(_EXIF)


def _of_webp(data: bytes) -> bytes:
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"EXIF":
            return data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    return b""


class _Directories:
    """The directories of one block; struct.error where one lies outside of it."""

    def __init__(self, block: bytes) -> None:
        self._block = block
        self._order = {b"II": "<", b"MM": ">"}[block[:2]]

    def collect(self, known: dict[int, Any], places: dict[int, Any]) -> None:
        """Add the wanted tags of the first directory and of its EXIF to ``known``, those of its GPS to ``places``."""
        (at,) = struct.unpack_from(f"{self._order}I", self._block, 4)
        wanted = {_MAKE, _MODEL, _EXIF_AT, _GPS_AT, _SERIAL, *_ZONES, *_ZONES.values()}
        first = self._tags(at, wanted | {_LATITUDE_SIDE, _LATITUDE, _LONGITUDE_SIDE, _LONGITUDE})
        if {_LATITUDE, _LONGITUDE} <= first.keys():  # a block of GPS alone
            places.update(first)
        known.update({tag: value for tag, value in first.items() if tag in wanted})
        if isinstance(below := first.get(_EXIF_AT), list):
            with suppress(struct.error):
                known.update(self._tags(below[0], wanted))
        if isinstance(below := first.get(_GPS_AT), list):
            with suppress(struct.error):
                places.update(self._tags(below[0], {_LATITUDE_SIDE, _LATITUDE, _LONGITUDE_SIDE, _LONGITUDE}))

    def _tags(self, at: int, wanted: set[int]) -> dict[int, Any]:
        (entries,) = struct.unpack_from(f"{self._order}H", self._block, at)
        found: dict[int, Any] = {}
        for entry in range(at + 2, at + 2 + 12 * min(entries, MAX_ENTRIES), 12):
            tag, kind, count = struct.unpack_from(f"{self._order}HHI", self._block, entry)
            if tag in wanted and tag not in found:
                with suppress(struct.error):
                    found[tag] = self._value(kind, min(count, MAX_TEXT * 4), entry + 8)
        return found

    def _value(self, kind: int, count: int, at: int) -> bytes | list[Any] | None:
        """Return a field's bytes, numbers or pairs of numbers."""
        size = count * _SIZES.get(kind, 0)
        if size > 4:
            (at,) = struct.unpack_from(f"{self._order}I", self._block, at)
        if kind in _NUMBERS:
            return [*struct.unpack_from(f"{self._order}{min(count, 3)}{_NUMBERS[kind]}", self._block, at)]
        if kind in _PAIRS:
            return [
                struct.unpack_from(f"{self._order}{_PAIRS[kind]}", self._block, at + 8 * number)
                for number in range(min(count, 3))
            ]
        return self._block[at : at + size]


def _text(value: object) -> str:
    """Return a tag's text on one line; empty where it is none."""
    if not isinstance(value, bytes):
        return ""
    raw = value.split(b"\0", 1)[0]
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return _CONTROL.sub(" ", text).strip()[:MAX_TEXT].strip()


def _moment(known: dict[int, Any]) -> str:
    """Return when it was taken, else digitized, else last changed: old scanners and phones write that alone."""
    for tag, zone_tag in _ZONES.items():
        if (found := _MOMENT.fullmatch(_text(known.get(tag))[:19])) is None:
            continue
        try:
            moment = datetime(*map(int, found.groups()))  # type: ignore[arg-type]  # noqa: DTZ001 - its zone follows
        except ValueError:  # 0000:00:00, of a clock that was never set
            continue
        zone = _text(known.get(zone_tag)).replace(" ", "")
        if _ZONE.fullmatch(zone) is None:
            zone = ""
        return moment.isoformat() + (f"{zone[:3]}:{zone[-2:]}" if len(zone) > 1 else zone.replace("Z", "+00:00"))
    return ""


def _place(tags: dict[int, Any]) -> dict[str, float]:
    """Return latitude and longitude, or nothing where one of them is missing or impossible."""
    latitude = _degrees(tags.get(_LATITUDE), _text(tags.get(_LATITUDE_SIDE)), "NS", 90)
    longitude = _degrees(tags.get(_LONGITUDE), _text(tags.get(_LONGITUDE_SIDE)), "EW", 180)
    if latitude is None or longitude is None:
        return {}
    return {"latitude": latitude, "longitude": longitude}


def _degrees(parts: object, side: str, sides: str, most: int) -> float | None:
    if not isinstance(parts, list) or not parts or side.upper() not in tuple(sides):
        return None
    degrees = 0.0
    for part, unit in zip(parts, (1, 60, 3600), strict=False):
        if not isinstance(part, tuple) or (part[1] == 0 and (unit == 1 or part[0])):
            return None
        degrees += part[0] / (part[1] or 1) / unit
    if not 0 <= degrees <= most:
        return None
    return round(-degrees if side.upper() == sides[1] else degrees, 6) + 0.0  # no minus before a zero
