"""How many pictures a file holds, by its structure: nothing is decoded, and little is read.

Pictures have numbers from 1 on, in the order of the file. What is no picture of its own does not count: previews and
masks of a TIFF, thumbnails and tiles of a HEIC file, the brightness maps that phones put behind a JPEG, all but the
first of a camera's raw file. A damaged file has as many as can be seen.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import BinaryIO

from base.image_files import RAW_SUFFIXES

MOST_PAGES = 1000  # of one file
_HEAD = 16
_PIECES = 100_000  # of one file that are looked at: blocks of a GIF, chunks, boxes, items
_LONGEST_BOX = 1 << 22  # of a HEIC file's list of items, in bytes
_SUBFILE_TYPE, _PREVIEW_OR_MASK = 254, 1 | 4
_MPF_ENTRIES, _MPF_PICTURES = 0xB002, range(0x020001, 0x020004)  # CIPA DC-007: panorama, disparity, several angles
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # of a JPEG
_IMAGE_ITEMS = (b"hvc1", b"av01", b"grid", b"iovl", b"iden", b"jpeg", b"avc1", b"vvc1", b"unci")


def page_numbers(path: str) -> list[int]:
    """Return the numbers of the pictures in a file, at most one more than `MOST_PAGES`; [1] where it can't be read."""
    if os.path.splitext(path)[1].lower() in RAW_SUFFIXES:  # noqa: PTH122 - a million times
        return [1]
    found: list[int] = []
    with (
        suppress(OSError, ValueError, struct.error, IndexError, KeyError),  # whatever a damaged file provokes
        # Not blocking: it may be a pipe.
        open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file,  # noqa: PTH123
    ):
        if (look := _look_of(file.read(_HEAD))) is not None:
            look(file, found)
    return found[: MOST_PAGES + 1] or [1]


def _look_of(head: bytes) -> Callable[[BinaryIO, list[int]], None] | None:
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff
    if head.startswith(b"GIF8"):
        return _gif
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return _webp
    if head.startswith(b"\xff\xd8"):
        return _mpo
    return _boxes if head[4:8] == b"ftyp" else None


def _at(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)


def _tiff(file: BinaryIO, found: list[int]) -> None:
    head = _at(file, 0, 16)
    order, is_big = ("<" if head[:1] == b"I" else ">"), b"+" in head[2:4]
    offset, entries_in, entry, value = ("Q", "Q", 20, 12) if is_big else ("I", "H", 12, 8)
    count_size, offset_size = struct.calcsize(f"={entries_in}"), struct.calcsize(f"={offset}")
    (at,) = struct.unpack_from(order + offset, head, 8 if is_big else 4)
    seen: set[int] = set()
    number = 0
    while at and at not in seen and len(found) <= MOST_PAGES and len(seen) < 4 * MOST_PAGES:
        seen.add(at)
        number += 1
        (entries,) = struct.unpack(order + entries_in, _at(file, at, count_size))
        if entries > 65535:
            return
        table = _at(file, at + count_size, entries * entry + offset_size)
        kind = 0
        for place in range(0, entries * entry, entry):
            (tag,) = struct.unpack_from(order + "H", table, place)
            if tag == _SUBFILE_TYPE:
                (kind,) = struct.unpack_from(order + "I", table, place + value)
        if not kind & _PREVIEW_OR_MASK:
            found.append(number)
        (at,) = struct.unpack_from(order + offset, table, entries * entry)


def _gif(file: BinaryIO, found: list[int]) -> None:
    def skip_blocks() -> None:
        while size := file.read(1)[0]:
            file.seek(size, os.SEEK_CUR)

    flags = _at(file, 10, 1)[0]
    file.seek(13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0))
    while len(found) <= MOST_PAGES:
        mark = file.read(1)
        if mark == b"\x21":  # an extension
            file.seek(1, os.SEEK_CUR)
            skip_blocks()
        elif mark == b"\x2c":
            found.append(len(found) + 1)
            flags = file.read(9)[8]
            file.seek((3 << (flags & 7) + 1 if flags & 0x80 else 0) + 1, os.SEEK_CUR)
            skip_blocks()
        else:
            return


def _png(file: BinaryIO, found: list[int]) -> None:
    at, is_animated, has_frame = 8, False, False
    for _ in range(_PIECES):
        length, kind = struct.unpack(">I4s", _at(file, at, 8))
        if kind == b"IDAT" and not is_animated:
            return
        if kind == b"IDAT" and not has_frame:  # a picture for programs that know no animations
            found.append(1)
            has_frame = True
        if kind == b"fcTL":
            found.append(len(found) + 1)
            has_frame = True
        if kind == b"IEND" or len(found) > MOST_PAGES:
            return
        is_animated = is_animated or kind == b"acTL"
        at += 12 + length


def _webp(file: BinaryIO, found: list[int]) -> None:
    at = 12
    for _ in range(_PIECES):
        kind, length = struct.unpack("<4sI", _at(file, at, 8))
        if kind == b"ANMF":
            found.append(len(found) + 1)
        if len(found) > MOST_PAGES:
            return
        at += 8 + length + length % 2


def _mpo(file: BinaryIO, found: list[int]) -> None:
    """Count the pictures of a JPEG: those that its index calls so, and those without a kind that are as large."""
    for kind, at, content in _segments(file, 0):
        if kind == 0xE2 and content.startswith(b"MPF\0"):
            block = content[4:]
            order = {b"II": "<", b"MM": ">"}[block[:2]]
            (directory,) = struct.unpack_from(order + "I", block, 4)
            (entries,) = struct.unpack_from(order + "H", block, directory)
            for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
                tag, _, size, place = struct.unpack_from(order + "HHII", block, entry)
                if tag == _MPF_ENTRIES:
                    for number in range(1, size // 16 + 1):
                        picture, _, start = struct.unpack_from(order + "III", block, place + 16 * (number - 1))
                        picture &= 0xFFFFFF
                        if (
                            number == 1
                            or picture in _MPF_PICTURES
                            or (picture == 0 and _jpeg_size(file, at + 4 + start) in (None, _jpeg_size(file, 0)))
                        ):
                            found.append(number)
            return


def _segments(file: BinaryIO, start: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield the kind of each segment of the JPEG at ``start``, where its content starts, and that, up to its pixels."""
    at = start + 2
    for _ in range(_PIECES):
        mark, kind, length = struct.unpack(">BBH", _at(file, at, 4))
        if mark != 0xFF or kind in (0xDA, 0xD9):
            return
        yield kind, at + 4, _at(file, at + 4, length - 2)
        at += 2 + length


def _jpeg_size(file: BinaryIO, start: int) -> bytes | None:
    """Return height and width, four bytes; None where there is no JPEG: then its row says so."""
    with suppress(struct.error):
        return next((content[1:5] for kind, _, content in _segments(file, start) if kind in _FRAMES), None)
    return None


def _boxes(file: BinaryIO, found: list[int]) -> None:
    """Count the pictures of a HEIF or AVIF file: its items, or the samples of its film where it is a sequence."""
    parts = _children(file, 0, file.seek(0, os.SEEK_END))
    brand = _at(file, 8, 4)
    if brand == b"avis" and b"moov" in parts:
        found.extend(range(1, min(_samples(file, *parts[b"moov"]), MOST_PAGES + 1) + 1))
        return
    at, end = parts[b"meta"]
    inside = _children(file, at + 4, end)
    items, (primary,) = _items(file, *inside[b"iinf"]), struct.unpack(">H", _at(file, inside[b"pitm"][0] + 4, 2))
    below = _below(file, *inside[b"iref"]) if b"iref" in inside else set()
    tops = [item for item in items if item not in below or item == primary]
    found.extend(range(1, len(tops) + 1))


def _children(file: BinaryIO, at: int, end: int) -> dict[bytes, tuple[int, int]]:
    """Return where the content of each box between ``at`` and ``end`` starts and ends; the first of each kind."""
    found: dict[bytes, tuple[int, int]] = {}
    for _ in range(_PIECES):
        if at + 8 > end:
            break
        size, kind = struct.unpack(">I4s", _at(file, at, 8))
        start = at + 8
        if size == 1:
            (size,) = struct.unpack(">Q", _at(file, start, 8))
            start += 8
        stop = end if size == 0 else at + size
        if stop < start or stop > end:
            break
        found.setdefault(kind, (start, stop))
        at = stop
    return found


def _items(file: BinaryIO, at: int, end: int) -> list[int]:
    """Return the numbers of the items that are pictures and not hidden."""
    content = _at(file, at, min(end - at, _LONGEST_BOX))
    place, found = (6 if content[0] == 0 else 8), []
    while place + 8 <= len(content):
        (size,) = struct.unpack_from(">I", content, place)
        version, hidden = content[place + 8], content[place + 11] & 1
        number, kind = (
            struct.unpack_from(">H2x4s", content, place + 12)
            if version == 2
            else struct.unpack_from(">I2x4s", content, place + 12)
        )
        if kind in _IMAGE_ITEMS and not hidden:
            found.append(number)
        place += max(size, 8)
    return found


def _below(file: BinaryIO, at: int, end: int) -> set[int]:
    """Return the items that are thumbnails or other company of a picture, or tiles of one."""
    content = _at(file, at, min(end - at, _LONGEST_BOX))
    form = ">H" if content[0] == 0 else ">I"
    width, place, found = struct.calcsize(form), 4, set()
    while place + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        (source,) = struct.unpack_from(form, content, place + 8)
        (count,) = struct.unpack_from(">H", content, place + 8 + width)
        if kind in (b"thmb", b"auxl"):
            found.add(source)
        if kind == b"dimg":
            first = place + 10 + width
            found.update(struct.unpack_from(form, content, first + n * width)[0] for n in range(count))
        place += max(size, 8)
    return found


def _samples(file: BinaryIO, at: int, end: int) -> int:
    for name in (b"trak", b"mdia", b"minf", b"stbl", b"stsz"):
        at, end = _children(file, at, end)[name]
    (count,) = struct.unpack(">I", _at(file, at + 8, 4))
    return int(count)
