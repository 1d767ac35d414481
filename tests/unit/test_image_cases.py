"""Files as people sent them, in ../shared/cases: what viewers show is read, what lacks part of the picture is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from base.errors import ImageError
from vision.images.decode import decode_image

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases"),
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
