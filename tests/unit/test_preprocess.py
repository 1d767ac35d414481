"""The loader against pictures whose every pixel is known, and against files that are broken, hostile or no files."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from base.errors import ImageError
from base.files import read_file
from tests.unit.awkward_images import decode_image, dng
from vision.errors import VisionError
from vision.images.decode import ImageLimits
from vision.images.preprocess import Fit, Preprocessing, load_image

SMALL = Preprocessing(height_px=32, width_px=32)
RED = (255, 0, 0)


def encoded(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def quarters(width: int = 64, height: int = 48) -> Image.Image:
    """Red, green / blue, white: no turn or mirror image of it is the same."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = RED
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = 255
    return Image.fromarray(pixels)


def stored_as(upright: Image.Image, orientation: int) -> Image.Image:
    """The picture as a camera held that way stores it: the inverse of what a viewer does."""
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    return upright.transpose(turn[orientation]) if orientation in turn else upright


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def reason_of(source: Path | bytes, limits: ImageLimits | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(source, SMALL, limits or ImageLimits())
    assert caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_photo_taken_at_any_orientation_gives_the_upright_picture(format_: str, orientation: int) -> None:
    upright = quarters()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if format_ == "JPEG" else {}
    data = encoded(stored_as(upright, orientation), format_, exif=exif, **options)

    whole, loaded = decode_image(data), load_image(data, Preprocessing(height_px=24, width_px=32))

    assert (whole.width_px, whole.height_px, whole.pixels.shape) == (64, 48, (48, 64, 3))
    assert (loaded.width_px, loaded.height_px) == (64, 48)
    for corner, colour in (((4, 4), RED), ((4, -4), (0, 255, 0)), ((-4, 4), (0, 0, 255)), ((-4, -4), (255, 255, 255))):
        assert whole.pixels[corner] == pytest.approx(colour, abs=40)  # WebP and JPEG lose a little
        assert loaded.pixels[corner] == pytest.approx(colour, abs=40)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_photo_is_decoded_smaller_and_still_reports_its_own_size(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored_as(quarters(1200, 800), orientation), "JPEG", exif=exif)

    loaded = load_image(data, SMALL)

    assert (loaded.width_px, loaded.height_px, loaded.pixels.shape) == (1200, 800, (32, 32, 3))
    assert loaded.pixels[4, 4] == pytest.approx(RED, abs=3)
    assert loaded.pixels[-4, 4] == pytest.approx((0, 0, 255), abs=3)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_a_red_image_is_255_0_0_in_every_format(format_: str) -> None:
    loaded = load_image(encoded(Image.new("RGB", (40, 40), RED), format_), SMALL)

    assert loaded.pixels.dtype == np.uint8
    assert loaded.pixels.flags.c_contiguous
    assert loaded.pixels.reshape(-1, 3).mean(axis=0) == pytest.approx(RED, abs=2)


@pytest.mark.parametrize(("mode", "format_"), [("P", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG"), ("CMYK", "TIFF")])
def test_a_red_image_is_255_0_0_in_every_colour_model(mode: str, format_: str) -> None:
    image = Image.new("RGB", (40, 40), RED).convert(mode)

    assert load_image(encoded(image, format_), SMALL).pixels[16, 16] == pytest.approx(RED, abs=2)


def test_opencv_and_pillow_decode_a_jpeg_to_the_same_pixels() -> None:
    for options in ({}, {"progressive": True}, {"subsampling": 0}):
        data = encoded(noise(123, 77), "JPEG", **options)
        assert np.array_equal(decode_image(data).pixels, np.asarray(Image.open(io.BytesIO(data))))


def test_grey_levels_survive_at_one_eight_and_sixteen_bits() -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (4, 1))
    eight_bits = (ramp >> 8).astype(np.uint8)

    sixteen = decode_image(encoded(Image.fromarray(ramp), "PNG")).pixels
    eight = decode_image(encoded(Image.fromarray(eight_bits), "PNG")).pixels
    one = decode_image(encoded(Image.fromarray(eight_bits).point(lambda v: 255 * (v > 127), "1"), "PNG")).pixels

    assert np.abs(sixteen[..., 0].astype(int) - eight_bits).max() <= 1
    assert np.array_equal(eight[..., 2], eight_bits)
    assert np.unique(one).tolist() == [0, 255]


def test_float_images_are_stretched_from_black_to_white() -> None:
    values = np.linspace(-3, 7, 64, dtype=np.float32).reshape(8, 8)
    pixels = decode_image(encoded(Image.fromarray(values), "TIFF")).pixels
    assert (pixels[0, 0, 0], pixels[-1, -1, 0]) == (0, 255)


def test_transparent_pixels_lie_on_white() -> None:
    glass = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 0, 0])

    assert decode_image(encoded(glass, "PNG")).pixels.min() == 255
    assert decode_image(encoded(palette, "PNG", transparency=0)).pixels.min() == 255
    assert decode_image(encoded(Image.new("LA", (8, 8), (0, 127)), "PNG")).pixels[0, 0] == pytest.approx(128, abs=1)


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), "blue")]
    for format_ in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], format_, save_all=True, append_images=frames[1:])
        assert decode_image(data).pixels[4, 4] == pytest.approx(RED, abs=2)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("tenths", range(1, 10))
def test_a_file_that_ends_early_is_refused_wherever_it_ends(format_: str, tenths: int) -> None:
    data = encoded(noise(160, 120), format_)
    assert reason_of(data[: len(data) * tenths // 10]) in {"truncated", "corrupt"}


@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
def test_a_jpeg_or_png_that_ends_early_says_so(format_: str) -> None:
    data = encoded(noise(160, 120), format_)
    assert {reason_of(data[: len(data) * tenths // 10]) for tenths in range(1, 10)} == {"truncated"}
    assert reason_of(data[:16]) == "truncated"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"just a note", "not_an_image"),
        (b"<!doctype html><title>404</title>", "not_an_image"),
        (b"\0" * 4096, "not_an_image"),
        (b"%PDF-1.7 ...", "unsupported_format"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "unsupported_format"),
        (b"\xff\xd8\xff\xd9", "corrupt"),
    ],
)
def test_what_is_no_image_says_what_it_is(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


def test_damaged_bytes_give_pixels_or_an_image_error_and_nothing_else() -> None:
    rng = np.random.default_rng(11)
    for format_ in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"):
        good = encoded(noise(24, 16), format_)
        for _ in range(60):
            data = bytearray(good)
            for at in rng.integers(0, min(len(good), 200), 4):
                data[at] = rng.integers(256)
            with contextlib.suppress(ImageError):
                assert load_image(bytes(data), SMALL).pixels.shape == (32, 32, 3)


def test_a_header_claiming_billions_of_pixels_is_refused_before_memory_is_taken() -> None:
    jpeg = bytearray(encoded(noise(16, 16), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 50_000, 50_000)
    before_kb, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()

    assert reason_of(png_header(50_000, 50_000)) == "too_many_pixels"
    assert reason_of(bytes(jpeg)) == "too_many_pixels"

    assert time.monotonic() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 20_000


def test_limits_are_the_callers() -> None:
    data = encoded(noise(20, 20), "PNG")
    assert reason_of(data, ImageLimits(max_pixels=399)) == "too_many_pixels"
    assert reason_of(data, ImageLimits(max_bytes=len(data) - 1)) == "too_large"
    assert load_image(data, SMALL, ImageLimits(max_pixels=400, max_bytes=len(data))).width_px == 20


def test_paths_that_are_no_readable_file_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")

    assert reason_of(tmp_path) == "not_a_file"
    assert reason_of(tmp_path / "pipe.jpg") == "not_a_file"
    assert reason_of(Path("/dev/zero")) == "not_a_file"
    assert reason_of(tmp_path / "missing.jpg") == "not_found"
    assert reason_of(tmp_path / "empty.jpg" / "below") == "not_found"
    assert reason_of(tmp_path / "nul\0.jpg") == "not_found"
    assert reason_of(tmp_path / "empty.jpg") == "empty"
    assert reason_of(tmp_path / "loop.jpg") == "unreadable"


def test_a_file_above_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ImageError, match="too_large"):
        read_file(tmp_path / "sparse.jpg", 1000)


def test_odd_exif_neither_warns_nor_changes_the_picture_even_where_warnings_are_errors() -> None:
    script = """
import io, numpy as np
from PIL import Image
from vision.images.decode import ImageLimits, decode_within
odd = b"Exif\\0\\0II*\\0\\x08\\0\\0\\0\\xff\\0\\x12"
for mode in ("RGB", "CMYK"):
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (255, 0, 0)).convert(mode).save(out, "JPEG", exif=odd)
    assert decode_within(out.getvalue(), ImageLimits(), None).pixels[8, 8].tolist() in ([254, 0, 0], [255, 0, 0])
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("width", "height"), [(64, 48), (48, 64), (9, 7), (300, 2)])
def test_stretch_keeps_all_four_corners(width: int, height: int) -> None:
    data = encoded(quarters(width, height), "PNG")
    pixels = load_image(data, Preprocessing(height_px=20, width_px=30)).pixels
    assert pixels.shape == (20, 30, 3)
    assert [pixels[y, x].tolist() for y in (0, -1) for x in (0, -1)] == [
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
        [255] * 3,
    ]


def test_crop_takes_the_centre_and_pad_keeps_all_on_black() -> None:
    stripes = np.zeros((20, 60, 3), np.uint8)
    stripes[:, 20:40] = RED
    stripes[:, :20] = stripes[:, 40:] = (0, 0, 255)
    data = encoded(Image.fromarray(stripes), "PNG")

    crop = load_image(data, Preprocessing(height_px=10, width_px=10, fit="crop")).pixels
    pad = load_image(data, Preprocessing(height_px=30, width_px=30, fit="pad")).pixels

    assert (crop == RED).all()
    assert (pad[:10] == 0).all()
    assert (pad[20:] == 0).all()
    assert (pad[10:20, 10:20] == RED).all()
    assert (pad[10:20, :10] == (0, 0, 255)).all()


def test_a_crop_fraction_cuts_that_share_of_each_side() -> None:
    frame = np.zeros((32, 32, 3), np.uint8)
    frame[2:30, 2:30] = 255
    data = encoded(Image.fromarray(frame), "PNG")
    cropped = load_image(data, Preprocessing(height_px=28, width_px=28, fit="crop", crop_fraction=0.875)).pixels
    assert (cropped == 255).all()


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_a_thread_of_a_picture_costs_no_more_memory_than_it_has_pixels(fit: Fit) -> None:
    for size in ((1, 200_000), (200_000, 1)):
        data = encoded(Image.new("RGB", size, RED), "PNG")
        assert load_image(data, Preprocessing(height_px=32, width_px=32, fit=fit)).pixels.shape == (32, 32, 3)


def test_preprocessing_goes_round_through_json() -> None:
    for record in (SMALL, Preprocessing(height_px=224, width_px=192, fit="crop", crop_fraction=0.875)):
        assert Preprocessing.from_json(record.to_json()) == record


@pytest.mark.parametrize(
    "change",
    [
        {"height_px": 0},
        {"height_px": True},
        {"height_px": 224.0},
        {"width_px": "224"},
        {"width_px": 100_000},
        {"fit": "squeeze"},
        {"fit": ["crop"]},
        {"crop_fraction": 0.5},
        {"crop_fraction": float("nan")},
        {"colour": "rgb"},
    ],
)
def test_a_preprocessing_record_that_is_not_exactly_right_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(VisionError, match="preprocessing"):
        Preprocessing.from_json({**SMALL.to_json(), **change})


def test_a_preprocessing_record_without_a_size_is_refused() -> None:
    with pytest.raises(VisionError, match="width_px"):
        Preprocessing.from_json({"height_px": 32, "fit": "pad"})


@pytest.mark.parametrize(
    ("package", "data"),
    [
        ("pillow_heif", b"\0\0\0\x1cftypheic\0\0\0\0mif1heic"),
        ("pillow_heif", b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic"),
        ("rawpy", b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom"),
        ("rawpy", b"FUJIFILMCCD-RAW 0201"),
        ("rawpy", dng(b"", 1)),
    ],
)
def test_a_host_without_the_package_for_a_format_says_which_to_install(
    monkeypatch: pytest.MonkeyPatch, package: str, data: bytes
) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(ImageError, match=f"unsupported_format: it is .*`pip install {package.replace('_', '-')}`"):
        load_image(data, SMALL)
