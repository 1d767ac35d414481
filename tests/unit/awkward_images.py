"""More than a hundred files that people's folders hold and no one expects, each with the row that it must get.

All are made here, from one picture of 64 x 32 pixels: red, green / blue, white. No turn or mirror image is the same.
"""

from __future__ import annotations

import io
import os
import re
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pillow_heif import register_heif_opener

from vision.images.colour import to_srgb
from vision.images.decode import DEFAULT_LIMITS, DecodedImage, decode_within

Colour = tuple[int, int, int]
Corners = tuple[Colour, Colour, Colour, Colour]  # upper left, upper right, lower left, lower right

WIDTH, HEIGHT = 64, 32
COLOURS: Corners = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255))
GREYS: Corners = ((76, 76, 76), (150, 150, 150), (29, 29, 29), (255, 255, 255))
INKS: Corners = ((0, 0, 0), (255, 255, 255), (0, 0, 0), (255, 255, 255))  # of one bit


def decode_image(data: bytes) -> DecodedImage:
    """Return an image in its own size, in sRGB."""
    image = decode_within(data, DEFAULT_LIMITS, None)
    return replace(image, pixels=to_srgb(image.pixels, image.profile), profile=None)


@dataclass(frozen=True, slots=True)
class Awkward:
    """One file: what it is called, what makes it, and its row.

    Attributes:
        name: below the folder; as `os.fsdecode` gives it.
        content: the bytes, or what puts something that is no plain file at the path.
        reason: the code of its error row; None when it is labelled.
        corners: colours of the upright picture's four quarters; None where that can't be foretold.
        size: of the upright picture.
        found: whether walking the folder finds it.
        tolerance: how far a colour may be off: lossy formats, other primaries.
    """

    name: str
    content: bytes | Callable[[Path], None]
    reason: str | None = None
    corners: Corners | None = COLOURS
    size: tuple[int, int] = (WIDTH, HEIGHT)
    found: bool = True
    tolerance: int = 6

    def write(self, folder: Path) -> Path:
        """Make the file below ``folder`` and return its path."""
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(self.content, bytes):
            path.write_bytes(self.content)
        else:
            self.content(path)
        return path


def corpus() -> list[Awkward]:
    """Return all files; no two have one name."""
    made = [
        *_jpegs(),
        *_pngs(),
        *_tiffs(),
        *_others(),
        *_heifs(),
        *_raws(),
        *_animations(),
        *_orientations(),
        *_wrong_suffixes(),
    ]
    return [*made, *_cut(), *_foreign(), *_bombs(), *_long_sides(), *_names(), *_no_plain_files()]


def picture(mode: str = "RGB") -> Image.Image:
    """Return the picture in one of Pillow's modes."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    half_height, half_width = HEIGHT // 2, WIDTH // 2
    for place, colour in enumerate(COLOURS):
        row, column = divmod(place, 2)
        pixels[row * half_height :, column * half_width :][:half_height, :half_width] = colour
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, format_: str, **options: object) -> bytes:
    """Return the file that Pillow writes; a JPEG without loss worth mentioning."""
    if format_ == "JPEG":
        options = {"quality": 95, "subsampling": 0, **options}
    if format_ == "WEBP":
        options = {"lossless": True, **options}
    if format_ == "HEIF":
        register_heif_opener()
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


# --- JPEG


def _jpegs() -> Iterator[Awkward]:
    plain = encoded(picture(), "JPEG")
    yield Awkward("jpeg/plain.jpg", plain)
    yield Awkward("jpeg/progressive.jpg", encoded(picture(), "JPEG", progressive=True))
    yield Awkward("jpeg/420.jpg", encoded(picture(), "JPEG", subsampling=2), tolerance=20)
    yield Awkward("jpeg/restarts.jpg", encoded(picture(), "JPEG", restart_marker_blocks=1))
    yield Awkward("jpeg/grey.jpg", encoded(picture("L"), "JPEG"), corners=GREYS)
    yield Awkward("jpeg/quality-1.jpg", encoded(picture(), "JPEG", quality=1), corners=None)
    yield Awkward("jpeg/cmyk.jpg", encoded(picture("CMYK"), "JPEG"))
    yield Awkward("jpeg/cmyk-without-adobe.jpg", _without_segment(encoded(picture("CMYK"), "JPEG"), 0xEE))
    yield Awkward("jpeg/adobe-rgb.jpg", encoded(picture(), "JPEG", keep_rgb=True))
    yield Awkward("jpeg/adobe-ycck.jpg", _adobe_transform(encoded(picture("CMYK"), "JPEG"), 2), corners=None)
    yield Awkward("jpeg/adobe-ycc.jpg", _adobe(plain, 1))
    yield Awkward("jpeg/adobe-cut.jpg", plain[:2] + _segment(0xEE, b"Adobe") + plain[2:], "corrupt")
    yield Awkward("jpeg/profile.jpg", encoded(picture(), "JPEG", icc_profile=b"no profile at all" * 9))
    yield Awkward("jpeg/arithmetic.jpg", arithmetic_jpeg(), corners=((128, 128, 128),) * 4)
    yield Awkward("jpeg/12-bit.jpg", _frame_patched(plain, precision=12), "unsupported_format")
    yield Awkward("jpeg/lossless.jpg", plain.replace(b"\xff\xc0", b"\xff\xc3", 1), "unsupported_format")
    yield Awkward("jpeg/hierarchical.jpg", plain.replace(b"\xff\xc0", b"\xff\xc5", 1), "unsupported_format")
    yield Awkward("jpeg/ls.jpg", plain.replace(b"\xff\xc0", b"\xff\xf7", 1), "unsupported_format")
    yield Awkward("jpeg/no-height.jpg", _frame_patched(plain, height=0), "corrupt")
    yield from _jpegs_without_end()
    yield from _jpegs_with_pixels_missing()
    yield Awkward("jpeg/trailing-bytes.jpg", plain + b"and what a camera leaves behind" * 99)
    yield Awkward("jpeg/odd-exif.jpg", encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\0\x12"))
    yield Awkward("jpeg/header-only.jpg", b"\xff\xd8\xff\xd9", "corrupt")
    yield Awkward("jpeg/many-scans.jpg", many_scans(5000), "unsupported_format")
    yield Awkward("jpeg/many-sequential-scans.jpg", many_sequential_scans(5000), "unsupported_format")
    film = encoded(picture(), "JPEG", progressive=True) + b"\xff\xda\0\x02" * 5000
    yield Awkward("jpeg/film-behind.jpg", film)
    two = encoded(picture(), "MPO", save_all=True, append_images=[picture().rotate(180)], quality=95, subsampling=0)
    yield Awkward("jpeg/two-pictures.jpg", two)


def _jpegs_without_end() -> Iterator[Awkward]:
    """Yield JPEGs that hold every pixel, and lack only the mark of their end or have something before it."""
    kinds: dict[str, tuple[Image.Image, dict[str, object]]] = {
        "baseline": (picture(), {}),
        "progressive": (picture(), {"progressive": True}),
        "restarts": (picture(), {"restart_marker_blocks": 1}),
        "cmyk": (picture("CMYK"), {}),
    }
    for kind, (image, options) in kinds.items():
        whole = encoded(image, "JPEG", **options)
        for name, end in {
            "none": b"",
            "half": b"\xff",
            "zeros": b"\0\0",
            "many-zeros": b"\0" * 500,
            "others": b"\x5a\xc3",
        }.items():
            yield Awkward(f"jpeg/end-{name}-{kind}.jpg", whole[:-2] + end)
        yield Awkward(f"jpeg/zeros-before-end-{kind}.jpg", whole[:-2] + b"\0" * 500 + whole[-2:])
        yield Awkward(f"jpeg/byte-before-end-{kind}.jpg", whole[:-2] + b"\0" + whole[-2:])
    plain = encoded(picture(), "JPEG")
    yield Awkward("jpeg/jfif-7.jpg", plain.replace(b"JFIF\0\x01", b"JFIF\0\x07"))
    yield Awkward("jpeg/jfif-7-without-end.jpg", plain[:-2].replace(b"JFIF\0\x01", b"JFIF\0\x07"))
    start = plain.index(b"\xff\xda")
    yield Awkward("jpeg/scan-parameters.jpg", plain[: start + 11] + b"\0\0\0" + plain[start + 14 :])


def _jpegs_with_pixels_missing() -> Iterator[Awkward]:
    noise = np.random.default_rng(5).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    other = np.random.default_rng(6).integers(0, 254, 2000, dtype=np.uint8).tobytes()
    kinds: dict[str, tuple[str, dict[str, object]]] = {
        "baseline": ("RGB", {}),
        "progressive": ("RGB", {"progressive": True}),
        "restarts": ("RGB", {"restart_marker_blocks": 4}),
        "grey": ("L", {}),
        "cmyk": ("CMYK", {}),
        "rgb": ("RGB", {"keep_rgb": True}),
    }
    for kind, (mode, options) in kinds.items():
        whole = encoded(Image.fromarray(noise).convert(mode), "JPEG", **options)
        first = whole[: whole.index(b"\xff\xda") + len(whole) // 3]
        lost = len(whole) - 2 - len(first)
        yield Awkward(f"jpeg/cut-and-closed-{kind}.jpg", first + b"\xff\xd9", "corrupt")
        yield Awkward(f"jpeg/rest-zeros-{kind}.jpg", first + b"\0" * lost + b"\xff\xd9", "corrupt")
        yield Awkward(f"jpeg/rest-zeros-without-end-{kind}.jpg", first + b"\0" * lost, "truncated")
        middle = first + other[:400] + whole[len(first) + 400 :]
        yield Awkward(f"jpeg/other-bytes-{kind}.jpg", middle, "corrupt")
    restarts = encoded(Image.fromarray(noise), "JPEG", restart_marker_blocks=4)
    start, end = (restarts.index(bytes((0xFF, mark))) for mark in (0xD1, 0xD3))
    yield Awkward("jpeg/scans-of-zeros.jpg", many_scans(20, 800, 800), "corrupt")
    yield Awkward("jpeg/restart-missing.jpg", restarts[:start] + restarts[end:], "corrupt")


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _without_segment(jpeg: bytes, marker: int) -> bytes:
    start = jpeg.index(bytes((0xFF, marker)))
    return jpeg[:start] + jpeg[start + 2 + struct.unpack_from(">H", jpeg, start + 2)[0] :]


def _adobe(jpeg: bytes, transform: int) -> bytes:
    return jpeg[:2] + _segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform)) + jpeg[2:]


def _adobe_transform(jpeg: bytes, transform: int) -> bytes:
    return _adobe(_without_segment(jpeg, 0xEE), transform)


def _frame_patched(
    jpeg: bytes, *, width: int | None = None, height: int | None = None, precision: int | None = None
) -> bytes:
    """Return the JPEG with other words in its frame header; the pixels stay."""
    at = next(place for mark in (b"\xff\xc0", b"\xff\xc2") if (place := jpeg.find(mark)) > 0) + 4
    old_precision, old_height, old_width = struct.unpack_from(">BHH", jpeg, at)
    new = (
        old_precision if precision is None else precision,
        old_height if height is None else height,
        old_width if width is None else width,
    )
    return jpeg[:at] + struct.pack(">BHH", *new) + jpeg[at + 5 :]


def arithmetic_jpeg() -> bytes:
    """Return a mid-grey JPEG: progressive, arithmetic coded (T.81, annex D), one scan of DC coefficients.

    All its decisions are "the difference is zero", the more probable symbol, so the coder needs one path of its states.
    """
    improbable = (0x5A1D, 0x2586, 0x1114, 0x080B, 0x03D8, 0x01DA, 0x00E5, 0x006F)  # T.81, table D.3, states 0 to 7
    code, interval, bits, state = 0, 0x10000, 16, 0
    for _ in range(WIDTH * HEIGHT // 64):
        interval -= improbable[state]
        if interval < 0x8000:
            if interval < improbable[state]:  # the conditional exchange
                code, interval = code + interval, improbable[state]
            state += 1
        while interval < 0x8000:
            code, interval, bits = code << 1, interval << 1, bits + 1
    coded = (code << -bits % 8).to_bytes((bits + 7) // 8, "big").replace(b"\xff", b"\xff\0")
    frame = struct.pack(">BHHB", 8, HEIGHT, WIDTH, 1) + bytes((1, 0x11, 0))
    scan = _segment(0xDA, bytes((1, 1, 0x00, 0, 0, 0))) + coded
    table = _segment(0xDB, b"\0" + b"\x01" * 64)
    return b"\xff\xd8" + table + _segment(0xCA, frame) + scan + b"\xff\xd9"


def many_sequential_scans(count: int) -> bytes:
    """Return a JPEG that is not progressive and has one colour a scan, the first one again and again."""
    plain = encoded(picture(), "JPEG")
    start = plain.index(b"\xff\xda")
    scan = _segment(0xDA, bytes((1, 1, 0x00, 0, 63, 0))) + b"\0" * 4
    return plain[:start] + scan * count + b"\xff\xd9"


def many_scans(count: int, width: int = 8000, height: int = 8000) -> bytes:
    """Return a small progressive JPEG that has a decoder walk over all its blocks ``count`` times."""
    frame = struct.pack(">BHHB", 8, height, width, 1) + bytes((1, 0x11, 0))
    huffman = _segment(0xC4, b"\x00" + bytes((1, *[0] * 15)) + b"\0") + _segment(
        0xC4, b"\x10" + bytes((1, *[0] * 15)) + b"\0"
    )
    scan = _segment(0xDA, bytes((1, 1, 0x00, 1, 63, 0))) + b"\0" * 4
    table = _segment(0xDB, b"\0" + b"\x01" * 64)
    first = _segment(0xDA, bytes((1, 1, 0x00, 0, 0, 0))) + b"\0" * 4
    return b"\xff\xd8" + table + _segment(0xC2, frame) + huffman + first + scan * (count - 1) + b"\xff\xd9"


# --- PNG


def _pngs() -> Iterator[Awkward]:
    plain = encoded(picture(), "PNG")
    yield Awkward("png/plain.png", plain)
    yield Awkward("png/16-bit.png", _png16())
    yield Awkward("png/16-bit-grey.png", encoded(_grey16(), "PNG"), corners=GREYS)
    yield Awkward("png/1-bit.png", encoded(_ink(), "PNG"), corners=INKS)
    yield Awkward("png/palette.png", encoded(picture("P"), "PNG"))
    glass = picture("P")
    yield Awkward(
        "png/palette-with-transparency.png",
        encoded(glass, "PNG", transparency=int(np.asarray(glass)[0, 0])),
        corners=((255, 255, 255), *COLOURS[1:]),
    )
    yield Awkward("png/alpha.png", encoded(_glass(), "PNG"), corners=((255, 255, 255), *COLOURS[1:]))
    grey = (*((255 - (255 - shade) // 2,) * 3 for shade in (76, 150, 29, 255)),)
    half = picture("LA")
    half.putalpha(128)
    yield Awkward("png/grey-alpha.png", encoded(half, "PNG"), corners=grey)  # type: ignore[arg-type]
    yield Awkward(
        "png/one-colour-transparent.png",
        encoded(picture(), "PNG", transparency=(255, 0, 0)),
        corners=((255, 255, 255), *COLOURS[1:]),
    )
    yield Awkward("png/profile.png", encoded(picture(), "PNG", icc_profile=b"no profile at all" * 9))
    yield Awkward("png/no-end.png", plain[:-12])
    yield Awkward("png/trailing-bytes.png", plain + b"\0" * 1000)
    damaged = bytearray(plain)
    damaged[damaged.index(b"IDAT") + 12] ^= 0xFF
    yield Awkward("png/damaged.png", bytes(damaged), "corrupt")
    yield from _pngs_with_more_than_pixels()
    yield Awkward("png/no-pixels.png", _png(0, 0), "corrupt")


def _pngs_with_more_than_pixels() -> Iterator[Awkward]:
    """Yield PNGs with parts that no pixel needs, too large or wrongly summed: all of them have the picture's pixels."""
    plain = encoded(picture(), "PNG")
    bomb = zlib.compress(b"\0" * 100_000_000, 9)
    parts = {
        "text-bomb": _chunk(b"zTXt", b"Comment\0\0" + bomb),
        "text-bomb-xmp": _chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb),
        "text-bomb-exif": _chunk(b"zTXt", b"Raw profile type exif\0\0" + bomb),
        "text-many": _chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\0" * 999_000, 9)) * 100,
        "text-large": _chunk(b"tEXt", b"parameters\0" + b"a" * 5_000_000),
        "profile-bomb": _chunk(b"iCCP", b"huge\0\0" + bomb),
        "profile-large": _chunk(b"iCCP", b"large\0\0" + zlib.compress(b"\1" * 2_000_000)),
        "private": _chunk(b"prVt", b"x" * 100_000),
    }
    for kind in (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"tIME", b"pHYs", b"gAMA", b"eXIf", b"prVt"):
        parts[f"wrong-sum-{kind.decode()}"] = _chunk(kind, b"some\0\0thing")[:-4] + b"\1\2\3\4"
    for name, part in parts.items():
        yield Awkward(f"png/{name}.png", plain[:33] + part + plain[33:])
        if not name.startswith(("profile", "wrong-sum-iCCP", "wrong-sum-gAMA", "wrong-sum-pHYs")):
            yield Awkward(f"png/{name}-behind.png", plain[:-12] + part + plain[-12:])


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, pixels: bytes = b"\0" * 100, *, bits: int = 8, colour: int = 2) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(pixels, 9)) + _chunk(b"IEND", b"")


def _png16() -> bytes:
    rows = np.repeat(np.asarray(picture()), 2, axis=2)  # 255 becomes 65535
    return _png(WIDTH, HEIGHT, b"".join(b"\0" + row.tobytes() for row in rows), bits=16)


def _grey16() -> Image.Image:
    return Image.fromarray(np.asarray(picture("L")).astype(np.uint16) * 257)


def _ink() -> Image.Image:
    return picture("L").point(lambda value: 255 * (value > 127), "1")


def _glass() -> Image.Image:
    image = picture("RGBA")
    image.paste((255, 0, 0, 0), (0, 0, WIDTH // 2, HEIGHT // 2))
    return image


# --- TIFF


def _tiffs() -> Iterator[Awkward]:
    yield Awkward("tiff/plain.tif", encoded(picture(), "TIFF"))
    for name in ("tiff_lzw", "tiff_deflate", "packbits"):
        yield Awkward(f"tiff/{name}.tiff", encoded(picture(), "TIFF", compression=name))
    yield Awkward("tiff/jpeg.tiff", encoded(picture(), "TIFF", compression="jpeg"), tolerance=60)
    yield Awkward("tiff/fax.tiff", encoded(_ink(), "TIFF", compression="group4"), corners=INKS)
    yield Awkward("tiff/1-bit.tif", encoded(_ink(), "TIFF"), corners=INKS)
    yield Awkward("tiff/cmyk.tif", encoded(picture("CMYK"), "TIFF"))
    yield Awkward("tiff/lab.tif", encoded(_lab(), "TIFF"), corners=None)
    yield Awkward("tiff/alpha.tif", encoded(_glass(), "TIFF"), corners=((255, 255, 255), *COLOURS[1:]))
    yield Awkward("tiff/palette.tif", encoded(picture("P"), "TIFF"))
    yield Awkward("tiff/16-bit-grey.tif", encoded(_grey16(), "TIFF"), corners=GREYS)
    yield Awkward("tiff/16-bit.tif", tiff(np.asarray(picture()).astype(np.uint16) * 257))
    yield Awkward("tiff/16-bit-big-endian.tif", tiff(np.asarray(picture()).astype(np.uint16) * 257, order=">"))
    yield Awkward("tiff/planes.tif", tiff(np.asarray(picture()), planes=True))
    yield Awkward(
        "tiff/float.tif", encoded(Image.fromarray(np.asarray(picture("L"), np.float32)), "TIFF"), corners=None
    )
    yield Awkward("tiff/32-bit.tif", encoded(picture("I"), "TIFF"), corners=((0, 0, 0),) * 4)
    pages = encoded(picture(), "TIFF", save_all=True, append_images=[picture().rotate(180)])
    yield Awkward("tiff/pages.tif", pages)
    yield Awkward("tiff/big.tif", encoded(picture(), "TIFF", big_tiff=True))
    yield from _tiffs_of_many_kinds()
    yield Awkward("tiff/jpeg-2000.tif", tiff(b"\0" * 300, compression=34_712), "unsupported_format")
    yield Awkward("tiff/no-directory.tif", b"II*\0\x08\0\0\0", "truncated")
    yield Awkward("tiff/directory-loop.tif", b"II*\0\x08\0\0\0" + struct.pack("<HI", 0, 8), "corrupt")


def _tiffs_of_many_kinds() -> Iterator[Awkward]:
    grey, colours = np.asarray(picture("L")), np.asarray(picture())
    wide = np.full((HEIGHT, WIDTH), 2**32 - 1, np.uint32) // 255 * grey
    stretched: Corners = ((53, 53, 53), (137, 137, 137), (0, 0, 0), (255, 255, 255))
    kinds: dict[str, tuple[bytes, Corners | None]] = {
        "white-is-0-8-bit": (tiff(255 - grey, photometric=0), GREYS),
        "white-is-0-16-bit": (tiff(65535 - grey.astype(np.uint16) * 257, photometric=0), GREYS),
        "white-is-0-16-bit-big-endian": (tiff(65535 - grey.astype(np.uint16) * 257, photometric=0, order=">"), GREYS),
        "white-is-0-float": (tiff(1 - grey.astype(np.float32) / 255, photometric=0, sample_format=3), stretched),
        "12-bit": (tiff(grey.astype(int) * 4095 // 255, photometric=1, bits=12), GREYS),
        "32-bit-above-2-31": (tiff(wide, photometric=1), stretched),
        "signed-8-bit": (tiff((grey.astype(int) - 128).astype(np.int8), photometric=1, sample_format=2), stretched),
        "signed-16-bit": (tiff(grey.astype(np.int16) * 100 - 9000, photometric=1, sample_format=2), stretched),
        "six-bands-three-extra": (tiff(np.concatenate([colours] * 2, axis=2), extra=(0, 0, 0)), COLOURS),
    }
    for kind, (data, corners) in kinds.items():
        yield Awkward(f"tiff/{kind}.tif", data, None, corners, tolerance=2)
    unknown = {
        "rgb-half": tiff(colours.astype(np.float16), sample_format=3),
        "rgb-float": tiff(colours.astype(np.float32), sample_format=3),
        "rgb-double": tiff(colours.astype(np.float64), sample_format=3),
        "rgb-32-bit": tiff(colours.astype(np.uint32)),
        "half": tiff(grey.astype(np.float16), photometric=1, sample_format=3),
        "double": tiff(grey.astype(np.float64), photometric=1, sample_format=3),
        "double-big-endian": tiff(grey.astype(np.float64), photometric=1, sample_format=3, order=">"),
        "64-bit": tiff(grey.astype(np.uint64), photometric=1),
        "complex": tiff(grey.astype(np.complex64), photometric=1, sample_format=6),
        "six-bands": tiff(np.concatenate([colours] * 2, axis=2)),
        "two-bands": tiff(np.stack([grey.astype(np.uint16)] * 2, axis=2), photometric=1),
        "camera": tiff(grey.astype(np.uint16), photometric=32803),
        "lerc": tiff(b"\0" * 300, compression=34_887),
    }
    for kind, data in unknown.items():
        yield Awkward(f"tiff/{kind}.tif", data, "unsupported_format")


def _lab() -> Image.Image:
    return Image.frombytes("LAB", (WIDTH, HEIGHT), bytes((128, 0, 0)) * (WIDTH * HEIGHT))


def tiff(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.generic]] | bytes,
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
    order: Literal["<", ">"] = "<",
    planes: bool = False,
    compression: int = 1,
    tile: tuple[int, int] | None = None,
    photometric: int = 2,
    sample_format: int = 1,
    bits: int = 8,
    extra: tuple[int, ...] = (),
) -> bytes:
    """Return a TIFF that Pillow would not write: other bits, one plane a colour, tiles, false sizes; RGB of bytes."""
    samples = 3 if isinstance(pixels, bytes) else 1 if pixels.ndim == 2 else pixels.shape[2]
    if isinstance(pixels, bytes):
        data = pixels
    elif bits == 12:
        high, low = pixels[:, ::2].astype(int), pixels[:, 1::2].astype(int)
        data = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], axis=-1).astype(np.uint8).tobytes()
    else:
        bits = pixels.dtype.itemsize * 8
        data = (pixels.transpose(2, 0, 1) if planes else pixels).astype(pixels.dtype.newbyteorder(order)).tobytes()
    part = len(data) // 3
    strips = [(8 + part * plane, part) for plane in range(3)] if planes else [(8, len(data))]
    long, short = 4, 3
    where, lengths = (324, 325) if tile else (273, 279)
    fields: list[tuple[int, int, list[int]]] = [
        (256, long, [width]),
        (257, long, [height]),
        (258, short, [bits] * samples),
        (259, short, [compression]),
        (262, short, [photometric]),
        (277, short, [samples]),
        (284, short, [2 if planes else 1]),
        *([(322, long, [tile[0]]), (323, long, [tile[1]])] if tile else [(278, long, [height])]),
        (where, long, [at for at, _ in strips]),
        (lengths, long, [length for _, length in strips]),
        *([(338, short, list(extra))] if extra else []),
        *([(339, short, [sample_format] * samples)] if sample_format != 1 else []),
    ]
    directory, beside = b"", b""
    end = 8 + len(data) + 2 + 12 * len(fields) + 4
    for tag, kind, values in sorted(fields):
        packed = struct.pack(f"{order}{len(values)}{'I' if kind == long else 'H'}", *values)
        if len(packed) > 4:
            packed, beside = struct.pack(order + "I", end + len(beside)), beside + packed
        directory += struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    return head + data + struct.pack(order + "H", len(fields)) + directory + b"\0" * 4 + beside


# --- the other formats


def _others() -> Iterator[Awkward]:
    yield Awkward("other/lossless.webp", encoded(picture(), "WEBP"))
    yield Awkward("other/lossy.webp", encoded(picture(), "WEBP", lossless=False, quality=95), tolerance=40)
    yield Awkward("other/alpha.webp", encoded(_glass(), "WEBP"), corners=((255, 255, 255), *COLOURS[1:]))
    yield Awkward("other/plain.gif", encoded(picture(), "GIF"))
    glass = picture("P")
    clear = encoded(glass, "GIF", transparency=int(np.asarray(glass)[0, 0]))
    yield Awkward("other/transparent.gif", clear, corners=((255, 255, 255), *COLOURS[1:]))
    yield Awkward("other/plain.bmp", encoded(picture(), "BMP"))
    yield Awkward("other/palette.bmp", encoded(picture("P"), "BMP"))
    yield Awkward("other/1-bit.bmp", encoded(_ink(), "BMP"), corners=INKS)
    yield Awkward("other/alpha.bmp", encoded(_glass(), "BMP"))
    yield Awkward("other/alpha-of-zeros.bmp", _bmp_with_alpha(np.zeros((HEIGHT, WIDTH), np.uint8)))
    glassy = _bmp_with_alpha(np.asarray(_glass().getchannel("A")))
    yield Awkward("other/alpha-of-its-own.bmp", glassy, corners=((255, 255, 255), *COLOURS[1:]))
    yield Awkward("other/file.dib", encoded(picture(), "BMP"))
    yield Awkward("other/bare.dib", encoded(picture(), "DIB"), "not_an_image")
    yield Awkward("other/plain.ppm", encoded(picture(), "PPM"))
    yield Awkward("other/grey.pgm", encoded(picture("L"), "PPM"), corners=GREYS)
    yield Awkward("other/ink.pbm", encoded(_ink(), "PPM"), corners=INKS)
    text = " ".join(str(value) for value in np.asarray(picture()).ravel())
    yield Awkward("other/written-out.ppm", f"P3\n# by hand\n{WIDTH} {HEIGHT}\n255\n{text}\n".encode())
    yield Awkward("other/16-bit.pgm", encoded(_grey16(), "PPM"), corners=GREYS)


def _bmp_with_alpha(alpha: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> bytes:
    """Return a BMP of version 4, whose header names a mask of alpha."""
    pixels = np.dstack([np.asarray(picture())[:, :, ::-1], alpha])[::-1].tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, WIDTH, HEIGHT, 1, 32, 3, len(pixels), 2835, 2835, 0, 0) + masks
    return b"BM" + struct.pack("<IHHI", 122 + len(pixels), 0, 0, 122) + header.ljust(108, b"\0") + pixels


def _heifs() -> Iterator[Awkward]:
    heic, avif = (
        encoded(picture(), "HEIF", quality=95, chroma=444),
        encoded(picture(), "AVIF", quality=95, subsampling="4:4:4"),
    )
    for suffix, data in (("heic", heic), ("avif", avif)):
        yield Awkward(f"heif/plain.{suffix}", data)
        other_brand = data[:8] + b"mif1" + data[12:]
        yield Awkward(f"heif/mif1-{suffix}.heif", other_brand)
        yield Awkward(f"heif/{suffix}-named.jpg", data)
        for tenth in range(1, 10):
            yield Awkward(f"heif/cut-{tenth}.{suffix}", data[: len(data) * tenth // 10], "truncated")
        sizes = re.compile(rb"(?<=ispe\0\0\0\0).{8}", re.DOTALL)
        square = encoded(
            picture().resize((64, 64)), suffix.replace("heic", "heif").upper()
        )  # which has no box of a cut
        bomb = sizes.sub(struct.pack(">II", 12_000, 12_000), square)
        yield Awkward(f"bomb/claim.{suffix}", bomb, "too_many_pixels")
        glass = encoded(_glass(), "HEIF" if suffix == "heic" else "AVIF", quality=95)
        yield Awkward(f"heif/alpha.{suffix}", glass, corners=((255, 255, 255), *COLOURS[1:]), tolerance=40)
    yield Awkward("heif/text.heic", b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + b"no boxes" * 9, "truncated")


def _raws() -> Iterator[Awkward]:
    large = picture().resize((WIDTH * 4, HEIGHT * 4))
    turns = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    for orientation, turn in turns.items():
        preview = encoded(large if turn is None else large.transpose(turn), "JPEG")
        data = dng(preview, orientation)
        yield Awkward(f"raw/held-{orientation}.dng", data, size=large.size)
    plain = dng(encoded(large, "JPEG"), 1)
    yield Awkward("raw/raw.tif", plain, size=large.size)
    yield Awkward("raw/no-preview.dng", dng(b"", 1), "unsupported_format")
    yield Awkward("raw/damaged-preview.dng", dng(encoded(large, "JPEG")[:900] + b"\xff\xd9", 1), "corrupt")
    for tenth in (1, 5, 9):
        yield Awkward(f"raw/cut-{tenth}.dng", plain[: len(plain) * tenth // 10], "truncated")


def dng(preview: bytes, orientation: int) -> bytes:
    """Return a raw file with a picture of 256 x 128 values of a sensor, a small preview and a large JPEG."""
    sensor = np.random.default_rng(1).integers(0, 4096, (HEIGHT * 4, WIDTH * 4)).astype("<u2").tobytes()
    small = np.asarray(picture().convert("L").convert("RGB")).tobytes()
    body = sensor + preview + b"\0" * (len(preview) % 2) + small
    places = 8, 8 + len(sensor), 8 + len(body) - len(small)

    def picture_fields(
        width: int, height: int, bits: int, samples: int, compression: int, photometric: int, at: int, length: int
    ) -> dict[int, tuple[str, list[int]]]:
        values = {
            256: width,
            257: height,
            259: compression,
            262: photometric,
            273: at,
            277: samples,
            278: height,
            279: length,
        }
        return {258: ("H", [bits] * samples), **{tag: ("I", [value]) for tag, value in values.items()}}

    large = WIDTH * 4, HEIGHT * 4
    raw = picture_fields(*large, 16, 1, 1, 32803, places[0], len(sensor))
    raw |= {254: ("I", [0]), 33421: ("H", [2, 2]), 33422: ("B", [0, 1, 1, 2]), 50717: ("I", [4095])}
    beside = {254: ("I", [1]), **picture_fields(*large, 8, 3, 7, 6, places[1], len(preview))}
    raw_at = 8 + len(body)
    directories = _directory(raw, raw_at)
    beside_at = raw_at + len(directories)
    if preview:
        directories += _directory(beside, beside_at)
    first = {} if not preview else picture_fields(WIDTH, HEIGHT, 8, 3, 1, 2, places[2], len(small))
    first |= {254: ("I", [1]), 271: ("B", list(b"Tester\0")), 272: ("B", list(b"Model\0")), 274: ("H", [orientation])}
    first |= {330: ("I", [raw_at, beside_at][: 1 + bool(preview)]), 50706: ("B", [1, 4, 0, 0])}
    first |= {50721: ("i", [1, 1, *[0, 1] * 3, 1, 1, *[0, 1] * 3, 1, 1])}
    at = raw_at + len(directories)
    return b"II*\0" + struct.pack("<I", at) + body + directories + _directory(first, at)


def _directory(fields: dict[int, tuple[str, list[int]]], at: int) -> bytes:
    """Return a TIFF directory that stands at ``at``, with what does not fit into it behind it."""
    kinds = {"B": (1, 1), "H": (3, 1), "I": (4, 1), "i": (10, 2)}  # TIFF's number of each kind, and numbers to a value
    entries, behind, end = b"", b"", at + 2 + 12 * len(fields) + 4
    for tag, (kind, values) in sorted(fields.items()):
        packed = struct.pack(f"<{len(values)}{kind}", *values)
        if len(packed) > 4:
            packed, behind = struct.pack("<I", end + len(behind)), behind + packed + b"\0" * (len(packed) % 2)
        number, parts = kinds[kind]
        entries += struct.pack("<HHI", tag, number, len(values) // parts) + packed.ljust(4, b"\0")
    return struct.pack("<H", len(fields)) + entries + bytes(4) + behind


def _animations() -> Iterator[Awkward]:
    turned = picture().rotate(180)
    for format_, suffix in (("GIF", "gif"), ("WEBP", "webp"), ("PNG", "png")):
        data = encoded(picture(), format_, save_all=True, append_images=[turned] * 3, duration=50)
        yield Awkward(f"animated/few.{suffix}", data)
    many = [Image.new("P", (WIDTH, HEIGHT), shade % 256) for shade in range(1000)]
    yield Awkward("animated/a-thousand.gif", encoded(picture("P"), "GIF", save_all=True, append_images=many))
    poster = encoded(picture(), "PNG", save_all=True, default_image=True, append_images=[turned] * 2)
    yield Awkward("animated/with-poster.png", poster)


def _orientations() -> Iterator[Awkward]:
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    for format_, suffix in (
        ("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif"), ("HEIF", "heic"), ("AVIF", "avif")
    ):  # fmt: skip
        for orientation in (*range(1, 9), 0, 9, 65535):
            exif = Image.Exif()
            exif[0x0112] = orientation
            # As a camera held that way stores it: the inverse of what a viewer does.
            stored = picture().transpose(turns[orientation]) if orientation in turns else picture()
            data = encoded(stored, format_, exif=exif.tobytes())  # by which pillow-heif turns the picture's boxes too
            yield Awkward(f"exif/{orientation}.{suffix}", data, tolerance=40)
            if format_ == "HEIF" and orientation in turns:  # as phones do: in the EXIF as well as in the boxes
                at = data.index(b"\x01\x12\0\x03") + 8
                twice = data[:at] + struct.pack(">H", orientation) + data[at + 2 :]
                yield Awkward(f"exif/{orientation}-twice.heic", twice, tolerance=40)
    note = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    turned = encoded(picture().transpose(turns[6]), "JPEG")
    xmp = _segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + note)
    yield Awkward("exif/xmp-6.jpg", turned[:2] + xmp + turned[2:])


def _wrong_suffixes() -> Iterator[Awkward]:
    formats = (("JPEG", "png"), ("PNG", "jpg"), ("WEBP", "jpeg"), ("GIF", "bmp"), ("BMP", "gif"), ("TIFF", "webp"))
    for format_, suffix in (*formats, ("PPM", "tif")):
        yield Awkward(f"suffix/{format_.lower()}.{suffix}", encoded(picture(), format_))
    yield Awkward("suffix/LOUD.JPG", encoded(picture(), "JPEG"))
    yield Awkward("suffix/none", encoded(picture(), "JPEG"), found=False)
    yield Awkward("suffix/copy.jpg.bak", encoded(picture(), "JPEG"), found=False)


# --- damaged, foreign, hostile


def _cut() -> Iterator[Awkward]:
    noise = Image.fromarray(np.random.default_rng(5).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    formats = (
        ("JPEG", "jpg"),
        ("PNG", "png"),
        ("GIF", "gif"),
        ("WEBP", "webp"),
        ("BMP", "bmp"),
        ("TIFF", "tif"),
        ("PPM", "ppm"),
    )
    for format_, suffix in formats:
        data = encoded(noise, format_)
        for tenth in range(10):
            yield Awkward(
                f"cut/{tenth}.{suffix}", data[: len(data) * tenth // 10], "empty" if tenth == 0 else "truncated"
            )


def _foreign() -> Iterator[Awkward]:
    yield Awkward("foreign/text.jpg", b"Holiday photos are on the other disk.\n", "not_an_image")
    yield Awkward("foreign/html.jpg", b"<!DOCTYPE html>\n<html><title>404 Not Found</title></html>", "not_an_image")
    yield Awkward("foreign/json.jpg", b'{"error": "quota exceeded"}', "not_an_image")
    yield Awkward("foreign/zeros.jpg", b"\0" * 4096, "not_an_image")
    yield Awkward("foreign/one-byte.jpg", b"\xff", "not_an_image")
    yield Awkward("foreign/zip.jpg", b"PK\x03\x04" + b"\0" * 40, "not_an_image")
    yield Awkward("foreign/program.jpg", b"\x7fELF" + b"\0" * 60, "not_an_image")
    yield Awkward("foreign/drawing.jpg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_format")
    declared = b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- by hand -->\n<svg xmlns="http://www.w3.org/2000/svg"/>'
    yield Awkward("foreign/declared-drawing.png", declared, "unsupported_format")
    heads = {
        "heic": b"\0\0\0\x1cftypheic\0\0\0\0mif1heic",
        "heif": b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic",
        "heif-sequence": b"\0\0\0\x1cftypmsf1\0\0\0\0msf1hevc",
        "avif": b"\0\0\0\x1cftypavif\0\0\0\0mif1avif",
        "avif-sequence": b"\0\0\0\x1cftypavis\0\0\0\0msf1avis",
        "movie": b"\0\0\0\x1cftypisom\0\0\x02\0isommp41",
        "canon-raw": b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom",
        "fuji-raw": b"FUJIFILMCCD-RAW 0201",
        "jpeg-xl": b"\xff\x0a\xfa\x1f\x01\x91\x08\x06",
        "jpeg-xl-box": b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ",
        "jpeg-2000": b"\0\0\0\x0cjP  \r\n\x87\n",
        "jpeg-2000-stream": b"\xff\x4f\xff\x51\0\x29",
        "photoshop": b"8BPS\0\x01\0\0\0\0\0\0\0\x03",
        "photoshop-large": b"8BPS\0\x02\0\0\0\0\0\0\0\x03",
        "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "icon": b"\0\0\1\0\1\0\x10\x10\0\0",
        "openexr": b"\x76\x2f\x31\x01\x02\0\0\0",
        "radiance": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n",
        "dds": b"DDS |\0\0\0",
        "dicom": b"\0" * 128 + b"DICM\x02\0\0\0",
        "fits": b"SIMPLE  =                    T",
    }
    for name, head in heads.items():
        is_read = name.startswith(("hei", "avif"))
        yield Awkward(f"foreign/{name}.jpg", head + b"\0" * 64, "corrupt" if is_read else "unsupported_format")


def _bombs() -> Iterator[Awkward]:
    side = 65_535
    jpeg = _frame_patched(encoded(picture(), "JPEG"), width=side, height=side)
    yield Awkward("bomb/claim.jpg", jpeg, "too_many_pixels")
    progressive = _frame_patched(encoded(picture(), "JPEG", progressive=True), width=side, height=side)
    yield Awkward("bomb/progressive.jpg", progressive, "too_many_pixels")
    yield Awkward(
        "bomb/cmyk.jpg", _frame_patched(encoded(picture("CMYK"), "JPEG"), width=side, height=side), "too_many_pixels"
    )
    yield Awkward("bomb/claim.png", _png(2**31 - 1, 2**31 - 1), "too_many_pixels")
    zeros = zlib.compressobj(9)
    packed = b"".join(zeros.compress(b"\0" * 1251) for _ in range(10_001)) + zeros.flush()
    honest = _png(10_001, 10_001, bits=1, colour=0)
    start = honest.index(b"IDAT") - 4
    honest = honest[:start] + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")
    yield Awkward("bomb/honest.png", honest, "too_many_pixels")
    gif = bytearray(encoded(picture(), "GIF"))
    gif[6:10] = struct.pack("<HH", side, side)
    yield Awkward("bomb/claim.gif", bytes(gif), "too_many_pixels")
    gif = bytearray(encoded(picture(), "GIF"))
    frame = gif.index(b"\x2c\0\0\0\0")
    gif[frame + 5 : frame + 9] = struct.pack("<HH", side, side)
    yield Awkward("bomb/frame.gif", bytes(gif), "too_many_pixels")
    bmp = bytearray(encoded(picture(), "BMP"))
    bmp[18:26] = struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    yield Awkward("bomb/claim.bmp", bytes(bmp), "too_many_pixels")
    yield Awkward("bomb/claim.tif", tiff(b"\0" * 300, width=side, height=side), "too_many_pixels")
    yield Awkward(
        "bomb/tile.tif", tiff(zlib.compress(b"\0" * 10**6), tile=(16_384, 16_384), compression=8), "too_many_pixels"
    )
    yield Awkward("bomb/strip.tif", tiff(zlib.compress(b"\0" * 10**8, 9), compression=8), corners=((0, 0, 0),) * 4)
    yield Awkward("bomb/claim.ppm", b"P6 99999999 99999999 255\n" + b"\0" * 99, "too_many_pixels")
    yield Awkward("bomb/digits.ppm", b"P6 " + b"9" * 100_000 + b" 1 255\n", "corrupt")
    canvas = b"VP8X" + struct.pack("<II", 10, 0) + b"\xff" * 6  # 2^24 pixels a side
    body = b"WEBP" + canvas + encoded(picture(), "WEBP")[12:]
    yield Awkward("bomb/canvas.webp", b"RIFF" + struct.pack("<I", len(body)) + body, "corrupt")
    frame_webp = bytearray(encoded(picture(), "WEBP"))
    at = frame_webp.index(b"VP8L") + 9
    frame_webp[at : at + 4] = struct.pack("<I", (16_383 << 14) | 16_383)
    yield Awkward("bomb/frame.webp", bytes(frame_webp), "too_many_pixels")


def _long_sides() -> Iterator[Awkward]:
    for width, height in ((65_500, 1), (1, 65_500)):
        thread = Image.new("RGB", (width, height), COLOURS[0])
        yield Awkward(f"long/{width}x{height}.jpg", encoded(thread, "JPEG"), None, (COLOURS[0],) * 4, (width, height))
    for width, height in ((65_535, 1), (1, 65_535), (200_000, 2)):
        thread = Image.new("RGB", (width, height), COLOURS[0])
        for format_, suffix in (("PNG", "png"), ("BMP", "bmp"), ("TIFF", "tif")):
            yield Awkward(
                f"long/{width}x{height}.{suffix}", encoded(thread, format_), None, (COLOURS[0],) * 4, (width, height)
            )
    gif = encoded(Image.new("P", (65_535, 1)), "GIF")
    yield Awkward("long/65535x1.gif", gif, None, ((0, 0, 0),) * 4, (65_535, 1))


def _names() -> Iterator[Awkward]:
    good = encoded(picture(), "PNG")
    names = [
        b"two\nlines.png", b"carriage\rreturn.png", b"tab\there.png", b"bell\x07.png", b"escape\x1b[31m.png",
        b'"double".png', b"'single'.png", b"back\\slash.png", b"comma,semicolon;.png", b"per%cent%41.png", b"%00.png",
        b"=1+1.png", b"-rf.png", b"--help.png", b"+1.png", b"@SUM(A1).png", b"|pipe.png", b"$(reboot).png", b"`id`.png",
        b" leading space.png", b"trailing space .png", b"*.png", b"~.png", b"#.png", b"&amp;.png",
        b"<script>alert(1)<|script>.png", b"{0}.png", b"latin\xe9.png", b"\xff\xfe.png", b"half\xf0\x9f.png",
        "ümläut.png".encode(), "u\u0308ber.png".encode(), "写真.png".encode(), "🐈‍⬛.png".encode(),
        "\u202egnp.exe.png".encode(),
        "zero\u200bwidth.png".encode(), "line\u2028separator.png".encode(), "next\x85line.png".encode(),
        b"n" * 251 + b".png", b"\xe9" * 251 + b".png", "é".encode() * 125 + b".png", b"deep/" * 40 + b"down.png",
    ]  # fmt: skip
    for name in names:
        yield Awkward(os.fsdecode(b"names/" + name), good)
    for formula in ("=1+1.png", "-rf.png", "+1.png", "@SUM(A1).png", "\t=1.png"):  # in the first column of a report
        yield Awkward(formula, good)
    yield Awkward("names/.hidden.png", good, found=False)
    yield Awkward("names/.thumbs/inside.png", good, found=False)
    yield Awkward("names/.png", good, found=False)
    yield Awkward("names/folder.jpg/inside.png", good)


def _no_plain_files() -> Iterator[Awkward]:
    good = encoded(picture(), "PNG")

    def link(target: str) -> Callable[[Path], None]:
        return lambda path: path.symlink_to(target)

    def listen(path: Path) -> None:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path may have 108 bytes
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path.name)
        finally:
            os.chdir(here)

    def unreadable(path: Path) -> None:
        path.write_bytes(good)
        path.chmod(0)

    yield Awkward("kinds/target.png", good)
    yield Awkward("kinds/link.png", link("target.png"))
    yield Awkward("kinds/link-to-link.png", link("link.png"))
    yield Awkward("kinds/broken.png", link("nothing.png"), "not_found")
    yield Awkward("kinds/itself.png", link("itself.png"), "unreadable")
    yield Awkward("kinds/there.png", link("back.png"), "unreadable")
    yield Awkward("kinds/back.png", link("there.png"), "unreadable")
    yield Awkward("kinds/folder-link.png", link("."), "not_a_file")
    yield Awkward("kinds/device.png", link("/dev/zero"), "outside_data_root")
    yield Awkward("kinds/memory.png", link("/proc/self/mem"), "outside_data_root")
    yield Awkward("kinds/secret.png", link("/etc/hostname"), "outside_data_root")
    yield Awkward("kinds/pipe.png", os.mkfifo, "not_a_file")
    yield Awkward("kinds/socket.png", listen, "not_a_file")
    yield Awkward("kinds/below-a-file/x.png", _below_a_file, "not_found", found=False)
    yield Awkward("kinds/gone.png", lambda path: None, "not_found", found=False)
    if os.geteuid() != 0:
        yield Awkward("kinds/forbidden.png", unreadable, "unreadable")


def _below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.touch()
