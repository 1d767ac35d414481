"""Files as people sent them, in ../shared/cases: what viewers show is read, what lacks part of the picture is not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from base.errors import ImageError
from producer.sources.argument import open_source
from tests.unit.awkward_images import decode_image

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not CASES.is_dir() and os.environ.get("CI") != "true", reason="needs ../shared/cases"),
    pytest.mark.filterwarnings("ignore:::PIL"),  # as in production, where vision.images.decode sets it
]


def contents(case: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((CASES / case / "photos").iterdir())}


def test_a_jpeg_that_lacks_only_its_end_is_read() -> None:
    found = contents("jpeg-without-end")
    assert len(found) == 3
    for data in found.values():
        assert decode_image(data).pixels.shape == (120, 160, 3)


def test_a_jpeg_of_which_only_a_third_decodes_is_an_error() -> None:
    found = contents("jpeg-damaged-middle")
    assert len(found) == 3
    for data in found.values():
        with pytest.raises(ImageError) as caught:
            decode_image(data)
        assert caught.value.reason == "corrupt"


def test_a_png_with_a_text_beyond_a_megabyte_is_read() -> None:
    (data,) = contents("png-big-text").values()
    assert decode_image(data).pixels.shape == (48, 64, 3)


def test_a_tiff_of_floats_in_three_colours_is_called_what_it_is() -> None:
    (data,) = contents("tiff-float-rgb").values()
    with pytest.raises(ImageError, match=r"unsupported_format: a TIFF of 3 x 32-bit floats \(RGB\)"):
        decode_image(data)


def test_a_grey_tiff_is_the_same_picture_with_white_as_zero_and_in_16_bits() -> None:
    pixels = [decode_image(data).pixels for data in contents("tiff-miniswhite16").values()]
    assert len(pixels) == 4
    for other in pixels[1:]:
        assert np.array_equal(other, pixels[0])


def test_a_jpeg_as_browsers_on_windows_save_it_is_found_and_read(tmp_path: Path) -> None:
    data = (CASES / "jfif-suffix" / "one.jpg").read_bytes()
    for name in ("one.jpg", "two.jfif"):
        (tmp_path / name).write_bytes(data)

    assert list(open_source(str(tmp_path)).paths()) == ["one.jpg", "two.jfif"]
    assert decode_image(data).pixels.size > 0
