"""Photos in other colour spaces reach the network as the sRGB photos that people see."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.unit.awkward_images import decode_image, encoded, picture
from tests.unit.icc import (
    ADOBE_COLUMNS,
    P3_COLUMNS,
    PROPHOTO_COLUMNS,
    SRGB_COLUMNS,
    SRGB_CURVE,
    cmyk_profile,
    grey_profile,
    rgb_profile,
)  # fmt: skip
from vision.images.colour import MAX_PROFILE_BYTES, _transform
from vision.images.preprocess import Fit, Preprocessing, load_image

SRGB = ImageCms.createProfile("sRGB")
PROFILES = {
    "Display P3": rgb_profile(P3_COLUMNS, SRGB_CURVE),
    "Adobe RGB": rgb_profile(ADOBE_COLUMNS, (2.19921875,)),
    "ProPhoto RGB": rgb_profile(PROPHOTO_COLUMNS, (1.8,)),
}
FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"]


def photo() -> Image.Image:
    """Smooth colours, none at the edge of what sRGB holds: no space loses any."""
    side = np.linspace(40, 215, 96)
    red, green = np.meshgrid(side, side)
    return Image.fromarray(np.stack([red, green, (red + green) / 2], axis=-1).astype(np.uint8))


def in_space(image: Image.Image, profile: bytes) -> Image.Image:
    """Return the numbers that a camera which works in the profile's space stores for the same colours."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(image, SRGB, target, ImageCms.Intent.RELATIVE_COLORIMETRIC)
    assert converted is not None
    converted.info.clear()  # with which it would be saved
    return converted


def difference(data: bytes, expected: Image.Image) -> float:
    return float(np.abs(decode_image(data).pixels.astype(int) - np.asarray(expected)).mean())


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("name", PROFILES)
def test_a_photo_of_another_space_has_the_pixels_of_the_srgb_one(name: str, format_: str) -> None:
    stored = in_space(photo(), PROFILES[name])
    options = {"quality": 100, "subsampling": "4:4:4"} if format_ == "AVIF" else {}

    assert difference(encoded(stored, format_, icc_profile=PROFILES[name], **options), photo()) < 1.5
    assert difference(encoded(stored, format_, **options), photo()) > 3  # without the profile these numbers are others


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_the_network_sees_a_photo_of_another_space_as_the_srgb_one(fit: Fit) -> None:
    preprocessing, profile = Preprocessing(height_px=32, width_px=48, fit=fit), PROFILES["Display P3"]

    seen = load_image(encoded(in_space(photo(), profile), "JPEG", icc_profile=profile), preprocessing).pixels

    expected = load_image(encoded(photo(), "JPEG"), preprocessing).pixels
    assert np.abs(seen.astype(int) - expected).mean() < 1.5


def test_transparent_pixels_of_another_space_lie_on_white() -> None:
    profile = PROFILES["Display P3"]
    stored = in_space(photo(), profile)
    stored.putalpha(Image.fromarray(np.repeat(np.asarray([[0, 255]], np.uint8), 48, axis=1).repeat(96, axis=0)))

    pixels = decode_image(encoded(stored, "PNG", icc_profile=profile)).pixels

    assert pixels[:, :48].min() == 255
    assert np.abs(pixels[:, 48:].astype(int) - np.asarray(photo())[:, 48:]).mean() < 1.5


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    "profile",
    [
        ImageCms.ImageCmsProfile(SRGB).tobytes(),
        rgb_profile(SRGB_COLUMNS, SRGB_CURVE),
        PROFILES["Display P3"][:200],
        PROFILES["Display P3"][:-300] + bytes(300),
        PROFILES["Display P3"].replace(b"XYZ \0\0\0\0", b"nope\0\0\0\0"),
        cmyk_profile([(128, 128, 128)] * 16),
        grey_profile(1.0),
        b"no profile at all" * 9,
    ],
    ids=["srgb", "srgb by another maker", "cut", "zeros", "damaged", "of inks", "of grey", "text"],
)
def test_pixels_stay_as_they_are_with_a_profile_of_srgb_or_one_that_is_no_use(format_: str, profile: bytes) -> None:
    plain = decode_image(encoded(photo(), format_)).pixels
    assert np.array_equal(decode_image(encoded(photo(), format_, icc_profile=profile)).pixels, plain)


def test_a_profile_beyond_the_limit_is_passed_over() -> None:
    profile = PROFILES["Display P3"]
    large = (len(profile) + MAX_PROFILE_BYTES).to_bytes(4, "big") + profile[4:] + bytes(MAX_PROFILE_BYTES)
    stored = in_space(photo(), profile)

    for format_ in ("JPEG", "PNG", "TIFF"):
        plain = decode_image(encoded(stored, format_)).pixels
        assert np.array_equal(decode_image(encoded(stored, format_, icc_profile=large)).pixels, plain)


def test_inks_are_mixed_as_their_profile_says() -> None:
    # By this one magenta ink looks as light grey, which no formula of Pillow's says.
    magenta = Image.new("CMYK", (16, 16), (0, 255, 0, 0))
    labs = [(255, 128, 128)] * 16
    labs[0b0100] = (196, 128, 128)
    profile = cmyk_profile(labs)

    for format_ in ("JPEG", "TIFF"):
        by_profile = decode_image(encoded(magenta, format_, icc_profile=profile)).pixels
        assert np.ptp(by_profile[8, 8]) <= 2
        assert 170 < by_profile[8, 8, 1] < 200
        assert decode_image(encoded(magenta, format_)).pixels[8, 8, 1] < 5


def test_grey_of_another_gamma_is_brought_to_srgbs() -> None:
    grey = photo().convert("L")
    stored = in_space(photo().convert("L").convert("RGB"), PROFILES["ProPhoto RGB"]).convert("L")  # gamma 1.8

    for format_ in ("JPEG", "PNG", "TIFF"):
        data = encoded(stored, format_, icc_profile=grey_profile(1.8))
        assert difference(data, grey.convert("RGB")) < 1.5


def test_the_cache_of_transforms_is_bounded() -> None:
    for gamma in range(50):
        decode_image(encoded(photo(), "JPEG", icc_profile=rgb_profile(P3_COLUMNS, (1.5 + gamma / 100,))))

    assert _transform.cache_info().currsize <= 16


def test_a_profile_in_several_segments_is_joined_and_a_missing_one_ignored() -> None:
    profile = PROFILES["Adobe RGB"]
    whole = encoded(in_space(photo(), profile), "JPEG", icc_profile=profile)
    at = whole.index(b"ICC_PROFILE\0") - 4
    length = len(profile) + 18
    half = len(profile) // 2

    def segment(number: int, part: bytes) -> bytes:
        body = b"ICC_PROFILE\0" + bytes((number, 2)) + part
        return b"\xff\xe2" + (len(body) + 2).to_bytes(2, "big") + body

    first, second = segment(1, profile[:half]), segment(2, profile[half:])
    for parts in (first + second, second + first):
        assert difference(whole[:at] + parts + whole[at + length :], photo()) < 1.5
    for parts in (first, second, first + first):
        assert difference(whole[:at] + parts + whole[at + length :], photo()) > 3


def test_the_picture_of_the_corpus_is_the_same_in_every_space() -> None:
    for profile in PROFILES.values():  # full red, green and blue of sRGB lie inside all three
        assert difference(encoded(in_space(picture(), profile), "PNG", icc_profile=profile), picture()) < 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_camera_s_exif_may_name_adobe_rgb(order: str) -> None:
    stored = in_space(photo(), PROFILES["Adobe RGB"])

    def exif(index: bytes, colour_space: int = 0xFFFF) -> bytes:
        def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
            return struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0")

        def directory(*entries: bytes) -> bytes:
            return struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)

        long = order + "I"
        head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(long, 8)
        first = directory(entry(0x8769, 4, 1, struct.pack(long, 26)))
        colours = entry(0xA001, 3, 1, struct.pack(order + "H", colour_space))
        second = directory(colours, entry(0xA005, 4, 1, struct.pack(long, 56)))
        return b"Exif\0\0" + head + first + second + directory(entry(1, 2, 4, index))

    assert difference(encoded(stored, "JPEG", exif=exif(b"R03\0")), photo()) < 1.5
    assert difference(encoded(stored, "JPEG", exif=exif(b"R98\0")), photo()) > 3
    assert difference(encoded(stored, "JPEG", exif=exif(b"R03\0", 1)), photo()) > 3


def test_code_points_may_name_display_p3() -> None:
    stored = in_space(photo(), PROFILES["Display P3"])
    png = encoded(stored, "PNG")

    def coded(primaries: int, transfer: int) -> bytes:
        chunk = b"cICP" + bytes((primaries, transfer, 0, 1))
        return png[:33] + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]

    assert difference(coded(12, 13), photo()) < 1.5
    assert difference(coded(1, 13), photo()) > 3
    codes = {"quality": 100, "chroma": 444, "color_primaries": 12, "transfer_characteristics": 13}
    assert difference(encoded(stored, "HEIF", **codes), photo()) < 1.5
    assert difference(encoded(stored, "HEIF", **{**codes, "color_primaries": 1}), photo()) > 3
