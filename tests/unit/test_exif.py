"""What cameras wrote into photos: read from every format, and never a reason to lose the row."""

from __future__ import annotations

import io
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational
from pillow_heif import from_pillow

from vision.images.exif import PhotoFacts, photo_facts

PIXELS = np.zeros((16, 24, 3), np.uint8)
PHOTO = PhotoFacts("2026-03-01T12:00:05+02:00", "Canon", "EOS R5", "12345", -33.858472, 151.2)


def exif(**changes: Any) -> Image.Exif:
    """Return an EXIF block; None takes a tag out."""
    tags: dict[str, Any] = {
        "make": "Canon", "model": "EOS R5", "changed": "2027:01:01 00:00:00", "taken": "2026:03:01 12:00:05",
        "zone": "+02:00", "serial": "12345", "south": "S", "latitude": (33.0, 51.0, 30.5), "east": "E",
        "longitude": (151.0, 12.0, 0.0),
    }  # fmt: skip
    tags |= changes
    found = Image.Exif()
    photo, gps = found.get_ifd(0x8769), found.get_ifd(0x8825)
    for name, directory, tag in (
        ("make", found, 0x010F), ("model", found, 0x0110), ("changed", found, 0x0132), ("taken", photo, 0x9003),
        ("zone", photo, 0x9011), ("digitized", photo, 0x9004), ("serial", photo, 0xA431), ("south", gps, 1),
        ("latitude", gps, 2), ("east", gps, 3), ("longitude", gps, 4),
    ):  # fmt: skip
        if tags.get(name) is not None:
            directory[tag] = tags[name]
    return found


def photo(kind: str = "JPEG", **changes: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind, exif=exif(**changes).tobytes())
    return file.getvalue()


def block(**changes: Any) -> bytes:
    """Return EXIF as a TIFF file holds it."""
    return exif(**changes).tobytes().removeprefix(b"Exif\0\0")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_every_format_says_when_with_what_and_where_a_photo_was_taken(kind: str) -> None:
    assert photo_facts(photo(kind)) == PHOTO


def test_heic_photos_say_it_too() -> None:
    file = io.BytesIO()
    from_pillow(Image.fromarray(PIXELS)).save(file, exif=exif().tobytes())

    assert photo_facts(file.getvalue()) == PHOTO


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mark", ["II*", "Olympus", "Panasonic"])
def test_tiff_and_raw_files_that_are_laid_out_like_it_say_it(order: str, mark: str) -> None:
    data = in_order(order)
    if mark != "II*":
        if order == ">":
            return
        data = {"Olympus": b"IIRO", "Panasonic": b"IIU\0"}[mark] + data[4:]

    assert photo_facts(data)[:3] == ("2026-03-01T12:00:05", "Canon", "EOS")


def in_order(order: str) -> bytes:
    """Return a block of make, model and time in one order of bytes."""
    texts = {0x010F: b"Canon\0", 0x0110: b"EOS\0", 0x0132: b"2026:03:01 12:00:05\0"}
    data = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(texts))
    at, tail = 8 + 2 + 12 * len(texts) + 4, b""
    for tag, text in texts.items():
        value = text if len(text) <= 4 else struct.pack(order + "I", at + len(tail))
        data += struct.pack(order + "HHI", tag, 2, len(text)) + value.ljust(4, b"\0")
        tail += text if len(text) > 4 else b""
    return data + bytes(4) + tail


def test_raw_files_of_fuji_and_canon_say_it() -> None:
    jpeg = photo()
    fuji = b"FUJIFILMCCD-RAW ".ljust(84, b"0") + struct.pack(">II", 160, len(jpeg)) + bytes(68) + jpeg
    first = block(taken=None, zone=None, serial=None, latitude=None, longitude=None, south=None, east=None)
    boxes = [(b"CMT1", first), (b"CMT2", exif_directory_alone()), (b"CMT4", bytes(8))]
    canon = b"\0\0\0\x18ftypcrx ".ljust(24, b"\0") + b"".join(
        struct.pack(">I", 8 + len(content)) + name + content for name, content in boxes
    )

    assert photo_facts(fuji) == PHOTO
    assert photo_facts(canon)[:3] == ("2026-03-01T09:00:00", "Canon", "EOS R5")


def exif_directory_alone() -> bytes:
    text = b"2026:03:01 09:00:00\0"
    return b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x9003, 2, len(text), 26) + bytes(4) + text


def test_the_text_that_imagemagick_wrote_into_a_png_counts() -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    hexed = b"\nexif\n    %8d\n" % len(exif().tobytes()) + exif().tobytes().hex().encode()
    content = b"Raw profile type exif\0\0" + zlib.compress(hexed)
    chunk = struct.pack(">I", len(content)) + b"zTXt" + content
    chunk += struct.pack(">I", zlib.crc32(b"zTXt" + content))
    data = file.getvalue()

    assert photo_facts(data[:33] + chunk + data[33:]) == PHOTO


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({"zone": None}, "2026-03-01T12:00:05"),
        ({"zone": "Z"}, "2026-03-01T12:00:05+00:00"),
        ({"zone": "-0330"}, "2026-03-01T12:00:05-03:30"),
        ({"zone": "+99:00"}, "2026-03-01T12:00:05"),
        ({"zone": "   :  "}, "2026-03-01T12:00:05"),
        ({"taken": "2026-03-01 12:00:05"}, "2026-03-01T12:00:05+02:00"),
        ({"taken": None, "digitized": "2025:01:01 10:00:00"}, "2025-01-01T10:00:00"),
        ({"taken": None}, "2027-01-01T00:00:00"),
        ({"taken": "0000:00:00 00:00:00"}, "2027-01-01T00:00:00"),
        ({"taken": "2026:13:41 25:61:61", "changed": None}, ""),
        ({"taken": "    :  :     :  :  ", "changed": None}, ""),
        ({"taken": "yesterday", "changed": None}, ""),
    ],
)
def test_a_time_is_when_it_was_taken_with_the_zone_where_the_file_says_it(changes: dict[str, Any], taken: str) -> None:
    assert photo_facts(photo(**changes)).taken == taken


@pytest.mark.parametrize(
    "changes",
    [
        {"latitude": None},
        {"longitude": None},
        {"south": None},
        {"east": "X"},
        {"latitude": (91.0, 0.0, 0.0)},
        {"longitude": (180.0, 30.0, 0.0)},
        {"latitude": (IFDRational(0, 0), 0.0, 0.0)},
    ],
)
def test_half_a_place_or_an_impossible_one_is_none(changes: dict[str, Any]) -> None:
    assert photo_facts(photo(**changes))[4:] == (None, None)


def test_a_place_on_the_equator_has_no_minus() -> None:
    found = photo_facts(photo(latitude=(0.0, 0.0, 0.0), longitude=(0.0, 0.0, 0.0)))

    assert (str(found.latitude), found.longitude) == ("0.0", 0.0)


def test_names_are_one_line_of_text_and_no_longer_than_a_message_may_hold() -> None:
    found = photo_facts(photo(make="  C\nan\x1bon  ", model="x" * 3000))

    assert (found.make, found.model) == ("C an on", "x" * 100)


def test_photos_without_exif_say_nothing() -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG")

    assert photo_facts(file.getvalue()) == photo_facts(b"") == photo_facts(b"no picture") == PhotoFacts()


def test_hostile_exif_neither_raises_nor_takes_long() -> None:
    whole, drawn = block(), np.random.default_rng(7)
    entry = struct.pack("<HHII", 0x010F, 2, 2**32 - 1, 0)
    hostile = [
        b"II*\0" + struct.pack("<IH", 8, 65535) + entry * 65535,
        b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x8769, 4, 1, 8),  # a directory that is its own
        b"II*\0" + struct.pack("<I", 2**32 - 1),
        b"\xff\xd8" + b"\xff\xe1\x00\x08Exif\0\0" * 50_000,
    ]
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(int(drawn.integers(1, 9))):
            damaged[int(drawn.integers(len(damaged)))] = int(drawn.integers(256))
        hostile.append(bytes(damaged)[: int(drawn.integers(8, len(damaged)))])

    started = time.process_time()
    for data in hostile:
        found = photo_facts(data)
        assert len(found.make) <= 100
        assert found.latitude is None or -90 <= found.latitude <= 90
    assert time.process_time() - started < 2
