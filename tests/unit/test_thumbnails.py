"""Thumbnails: upright, small, and no file can make them cost much."""

from __future__ import annotations

import io
import os
import random
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from PIL import Image
from pillow_heif import register_heif_opener

from producer.reports import thumbnails as module
from producer.reports.thumbnails import SMALL_PX, THUMBNAIL_PX, thumbnail, thumbnails

LIMIT = 100_000_000


def opened(data: bytes | None) -> Image.Image:
    assert data is not None
    image = Image.open(io.BytesIO(data))
    assert image.format == "WEBP"
    return image.convert("RGB")


def test_a_large_image_becomes_small_and_keeps_its_shape(tmp_path: Path) -> None:
    Image.new("RGB", (1200, 600), "teal").save(tmp_path / "a.jpg")

    image = opened(thumbnail(str(tmp_path / "a.jpg"), LIMIT))
    assert image.size == (THUMBNAIL_PX, THUMBNAIL_PX // 2)
    red, green, blue = image.getpixel((5, 5))  # type: ignore[misc]
    assert abs(red) + abs(green - 128) + abs(blue - 128) < 20


def test_a_tiny_image_keeps_every_pixel(tmp_path: Path) -> None:
    source = random.Random(1)  # noqa: S311 - pixels
    image = Image.new("L", (8, 8))
    image.putdata([source.randrange(256) for _ in range(64)])
    image.save(tmp_path / "a.png")

    assert max(image.size) <= SMALL_PX
    assert opened(thumbnail(str(tmp_path / "a.png"), LIMIT)).convert("L").tobytes() == image.tobytes()


@pytest.mark.parametrize("name", ["a.jpg", "a.heic", "a.avif"])
def test_the_camera_s_orientation_is_applied(name: str, tmp_path: Path) -> None:
    register_heif_opener()  # to write one
    image = Image.new("RGB", (800, 400), "black")
    image.paste("white", (0, 0, 400, 400))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the first column is the upper edge
    image.save(tmp_path / name, exif=exif.tobytes())

    upright = opened(thumbnail(str(tmp_path / name), LIMIT))
    assert upright.size == (THUMBNAIL_PX // 2, THUMBNAIL_PX)
    assert min(upright.getpixel((30, 10))) > 240  # type: ignore[arg-type]
    assert max(upright.getpixel((30, 130))) < 15  # type: ignore[arg-type]


def test_transparent_pixels_lie_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (300, 300), (255, 0, 0, 0)).save(tmp_path / "a.png")

    assert min(opened(thumbnail(str(tmp_path / "a.png"), LIMIT)).getpixel((50, 50))) > 250  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "I;16", "I", "F", "LA", "YCbCr"])
@pytest.mark.filterwarnings("error")
def test_every_kind_of_pixels_gives_a_picture(mode: str, tmp_path: Path) -> None:
    name = "a.jpg" if mode in ("CMYK", "YCbCr") else "a.tif"
    Image.new(mode, (300, 200)).save(tmp_path / name)

    assert opened(thumbnail(str(tmp_path / name), LIMIT)).size == (144, 96)


def test_of_an_animation_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (100, 100), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])

    red, _, blue = opened(thumbnail(str(tmp_path / "a.gif"), LIMIT)).getpixel((50, 50))  # type: ignore[misc]
    assert red > 200 > 50 > blue


def bomb(side: int) -> bytes:
    """A PNG of a few kilobytes that claims ``side`` squared pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(100_000)))
        + chunk(b"IEND", b"")
    )


def test_a_decompression_bomb_is_not_decoded(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bomb(30_000))

    tracemalloc.start()
    assert thumbnail(str(tmp_path / "a.png"), LIMIT) is None
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_a_large_image_that_can_not_be_shrunk_while_it_is_decoded_is_left(tmp_path: Path) -> None:
    Image.new("1", (8000, 6500)).save(tmp_path / "a.png")
    Image.new("L", (8000, 6500)).save(tmp_path / "a.jpg")

    assert thumbnail(str(tmp_path / "a.png"), LIMIT) is None
    assert thumbnail(str(tmp_path / "a.jpg"), LIMIT) is not None


def test_the_limit_is_the_callers(tmp_path: Path) -> None:
    Image.new("RGB", (200, 200)).save(tmp_path / "a.jpg")

    assert thumbnail(str(tmp_path / "a.jpg"), 40_000) is not None
    assert thumbnail(str(tmp_path / "a.jpg"), 39_999) is None


def test_a_file_of_too_many_bytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (200, 200)).save(tmp_path / "a.jpg")
    monkeypatch.setattr(module, "MOST_BYTES", 100)

    assert thumbnail(str(tmp_path / "a.jpg"), LIMIT) is None


@pytest.mark.timeout(30)
def test_what_is_no_image_gives_none_and_never_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    Image.new("RGB", (200, 200)).save(tmp_path / "icon.ico")  # Pillow reads it, our list of formats does not have it
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    Image.new("RGB", (200, 200)).save(tmp_path / "good.jpg")
    (tmp_path / "cut.png").write_bytes(bomb(100)[:60])
    names = [
        "pipe.jpg",
        "text.jpg",
        "empty.jpg",
        "script.eps",
        "icon.ico",
        "good.jpg",
        "cut.png",
        "gone.jpg",
        "a\0b",
        ".",
    ]

    found = list(thumbnails(((str(tmp_path / name), 0) for name in names), LIMIT))

    assert [name for name, data in zip(names, found, strict=True) if data is not None] == ["good.jpg"]


def test_the_order_is_that_of_the_paths_and_one_may_stop_early(tmp_path: Path) -> None:
    for number in range(100):
        Image.new("RGB", (20 + number, 20)).save(tmp_path / f"{number}.png")

    made = thumbnails(((str(tmp_path / f"{number}.png"), 0) for number in range(100)), LIMIT)
    assert [opened(next(made)).size[0] for _ in range(20)] == list(range(20, 40))
    made.close()
