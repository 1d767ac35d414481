"""``--pages all``: how many pictures a file holds, each of them decoded for itself, and their rows."""

from __future__ import annotations

import csv
import io
import os
import struct
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pillow_heif import register_heif_opener
from pydantic import ValidationError

from base.errors import ImageError
from base.pages import MOST_PAGES, page_numbers
from jobs.label import ChunkResult, LabelChunk
from jobs.messages import ModelPin
from producer.errors import UsageError
from producer.reports.layout import Layout
from producer.reports.request import request_of, write_reports
from producer.reports.sorting import sort_images
from producer.reports.tagging import tag_images
from producer.reports.thumbnails import thumbnail
from producer.runfile import RunFile
from producer.runfile.inputs import digest_of
from producer.sources.since import EarlierFiles, InputFilter
from tests.unit import test_label_chunk
from tests.unit.reported import ok, run_of
from tests.unit.test_label_chunk import BLUE, GREEN, RED, Opener
from vision.images import DEFAULT_LIMITS, ImageLimits, Page, PagedFile, decode_within
from worker.label.chunk import label_chunk

opened = test_label_chunk.opened
COLOURS = [RED, GREEN, BLUE]
NAMES = ["a.tif", "b.gif", "c.png", "d.webp", "e.avif", "f.mpo"]


def several(path: Path, colours: Sequence[tuple[int, int, int]] = COLOURS, size: int = 32, **saved: Any) -> Path:
    """Write a file with a picture of each colour; frames of animations differ, or Pillow would leave them out."""
    images = [Image.new("RGB", (size, size), colour) for colour in colours]
    images[0].save(path, save_all=True, append_images=images[1:], **saved)
    return path


def seen(path: Path, number: int, file: PagedFile | None = None, limits: ImageLimits = DEFAULT_LIMITS) -> list[int]:
    pixels = decode_within(Page(file or PagedFile(path.read_bytes()), number), limits, None).pixels
    return [int(value) for value in pixels.mean(axis=(0, 1)).round()]


def is_like(colour: list[int], expected: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.subtract(colour, expected)).max() < 30)


@pytest.mark.parametrize("name", [*NAMES, "g.heic"])
def test_every_picture_of_a_file_is_counted_and_decoded(tmp_path: Path, name: str) -> None:
    if name == "g.heic":
        register_heif_opener()
    path = several(tmp_path / name)
    file = PagedFile(path.read_bytes())

    assert page_numbers(str(path)) == [1, 2, 3]
    for numbers in ((1, 2, 3), (3, 1, 2)):  # threads may take them in any order
        for number in numbers:
            assert is_like(seen(path, number, file), COLOURS[number - 1]), (name, number)
    with pytest.raises(ImageError) as caught:
        seen(path, 4)
    assert caught.value.reason in ("truncated", "corrupt")


@pytest.mark.parametrize("name", ["a.tif", "b.gif", "c.png", "d.webp", "e.avif", "f.jpg", "g.bmp", "h.ppm"])
def test_a_file_with_one_picture_has_one(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (20, 20), RED).save(tmp_path / name)

    assert page_numbers(str(tmp_path / name)) == [1]
    assert is_like(seen(tmp_path / name, 1), RED)


def test_the_picture_that_an_animated_png_shows_to_old_programs_counts(tmp_path: Path) -> None:
    path = several(tmp_path / "a.png", default_image=True)

    assert page_numbers(str(path)) == [1, 2, 3]
    assert is_like(seen(path, 3), BLUE)


def tiff_of(kinds: Sequence[int], *, order: str = "<", big: bool = False) -> bytes:
    """Return a TIFF of directories that hold nothing but their kind, the last one followed by the first."""
    mark = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head = mark + struct.pack(order + ("HHQ" if big else "I"), *((8, 0, 16) if big else (8,)))
    size = (8 + 20 + 8) if big else (2 + 12 + 4)
    parts = []
    for number, kind in enumerate(kinds, start=1):
        after = len(head) + size * (number % len(kinds))
        if big:
            parts.append(struct.pack(order + "QHHQQQ", 1, 254, 4, 1, kind if order == "<" else kind << 32, after))
        else:
            parts.append(struct.pack(order + "HHHIII", 1, 254, 4, 1, kind, after))
    return head + b"".join(parts)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_previews_and_masks_of_a_tiff_are_no_pictures_and_a_loop_ends(tmp_path: Path, order: str, big: bool) -> None:
    (tmp_path / "a.tif").write_bytes(tiff_of([0, 1, 2, 4, 0], order=order, big=big))

    assert page_numbers(str(tmp_path / "a.tif")) == [1, 3, 5]


def test_a_raw_file_has_its_preview_alone(tmp_path: Path) -> None:
    several(tmp_path / "a.tif").rename(tmp_path / "a.nef")

    assert page_numbers(str(tmp_path / "a.nef")) == [1]


def test_brightness_maps_behind_a_jpeg_are_no_pictures(tmp_path: Path) -> None:
    images = [Image.new("RGB", (size, size)) for size in (32, 16, 32)]
    images[0].save(tmp_path / "a.mpo", save_all=True, append_images=images[1:])

    assert page_numbers(str(tmp_path / "a.mpo")) == [1, 3]


def test_damaged_files_and_what_is_no_file_have_one_picture_and_cost_no_time(tmp_path: Path) -> None:
    drawn = np.random.default_rng(5)
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "empty.gif").touch()
    started = time.process_time()
    for name in ("pipe.tif", "empty.gif", "gone.tif"):
        assert page_numbers(str(tmp_path / name)) == [1]
    for name in NAMES:
        whole = several(tmp_path / name).read_bytes()
        for _ in range(60):
            damaged = bytearray(whole)
            for place in drawn.integers(0, min(len(damaged), 400), 6):
                damaged[place] = drawn.integers(256)
            (tmp_path / "x").write_bytes(bytes(damaged)[: int(drawn.integers(1, len(damaged)))])
            assert 1 <= len(page_numbers(str(tmp_path / "x"))) <= MOST_PAGES + 1
    assert time.process_time() - started < 5


def test_beyond_the_limit_one_more_stands_for_all(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff_of([0] * (MOST_PAGES + 50)))
    path = several(tmp_path / "b.tif")

    assert page_numbers(str(tmp_path / "a.tif")) == [*range(1, MOST_PAGES + 2)]
    with pytest.raises(ImageError, match=r"more than 1,000 pictures") as caught:
        seen(path, MOST_PAGES + 1)
    assert caught.value.reason == "too_many_pages"


def test_frames_that_would_take_minutes_to_reach_are_refused(tmp_path: Path) -> None:
    path = several(tmp_path / "a.gif", [(level, 0, 255 - level) for level in range(0, 240, 8)])
    limits, file = ImageLimits(max_pixels=32 * 32), PagedFile(path.read_bytes())

    with pytest.raises(ImageError, match="29 frames of 1,024 pixels lie before it"):
        seen(path, 30, limits=limits)
    for number in range(1, 31):  # one after the other each is near
        seen(path, number, file, limits)
    with pytest.raises(ImageError, match="pixels lie before it"):
        seen(path, 2, limits=ImageLimits(max_pixels=32 * 32 - 1))


def chunk_of(*pictures: tuple[str, int]) -> LabelChunk:
    pin = ModelPin(name="colours", version=1, digest="0f" * 32)
    paths, pages = zip(*pictures, strict=True)
    return LabelChunk(run="r", first=0, paths=paths, pages=pages, model=pin, top_k=1)


def test_a_bad_page_costs_its_own_row_only_and_each_file_is_read_once(
    tmp_path: Path,
    opened: Opener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = several(tmp_path / "a.tif", compression="tiff_lzw")
    with Image.open(path) as image:
        image.seek(1)
        (strip,) = image.tag_v2[273]
    data = bytearray(path.read_bytes())
    data[strip : strip + 20] = b"\xff" * 20
    path.write_bytes(data)
    reads: list[str] = []
    monkeypatch.setattr("worker.label.data_root.fault", reads.append)
    chunk = chunk_of(("a.tif", 1), ("a.tif", 2), ("a.tif", 3), ("gone.tif", 1), ("gone.tif", 2))

    rows = label_chunk(chunk.model_copy(update={"file_info": True}), opened(), tmp_path).rows

    assert [row.error or row.top[0][0] for row in rows[:1] + rows[2:]] == [0, 2, "not_found", "not_found"]
    assert rows[1].error in ("corrupt", "truncated")
    assert {(row.bytes, row.sha256 is None) for row in rows[:3]} == {(len(data), False)}
    assert reads.count("read a.tif") == 1


def test_a_chunk_has_as_many_pages_as_paths_and_a_part_of_it_too() -> None:
    chunk = chunk_of(("a", 1), ("b", 2), ("c", 3))

    part = chunk.only([0, 2], 7)
    assert (part.paths, part.pages, part.first) == (("a", "c"), (1, 3), 7)
    assert replaced(chunk, pages=()).only([1]).pages == ()
    with pytest.raises(ValidationError, match="as many pages as paths"):
        replaced(chunk, pages=[1])
    with pytest.raises(ValidationError, match="less than or equal to 1001"):
        replaced(chunk, pages=[1, 2, 1002])


def replaced(chunk: LabelChunk, **changes: Any) -> LabelChunk:
    return LabelChunk.model_validate({**chunk.model_dump(), **changes})


def run_with_pages(folder: Path, base: Path, earlier: EarlierFiles | None = None) -> RunFile:
    with run_of(folder, [], []) as run:
        plan = replace(run.plan, base=str(base), pages=True)
    return RunFile.create(folder / "p.run", plan, ["a.tif", "b.jpg"], InputFilter(str(base), earlier, pages=True))


def test_pictures_are_inputs_which_are_counted_before_anything_is_sent(tmp_path: Path) -> None:
    several(tmp_path / "a.tif")
    Image.new("RGB", (20, 20)).save(tmp_path / "b.jpg")
    with closing(run_with_pages(tmp_path, tmp_path)) as run:
        assert list(run.missing_chunks(lambda: 3)) == [(0, ["a.tif"] * 3), (3, ["b.jpg"])]
        assert (run.total, run.pages(0, 3), run.pages(3, 1)) == (4, [1, 2, 3], [1])
        digests = [digest_of(["a.tif", "b.jpg"], InputFilter(str(tmp_path), pages=pages)) for pages in (True, False)]
        assert digests[0] == (4, run.plan.inputs_digest) != digests[1]
        run.record(ChunkResult(run="inbox-1", first=0, rows=(ok(0), ok(1))))
        assert [path for path, _, _ in run.labelled_files()] == []  # not all of its pictures have a label
        run.record(
            ChunkResult(run="inbox-1", first=2, rows=(ok(2), ok(0).model_copy(update={"top": (), "error": "corrupt"})))
        )
        assert [Path(path).name for path, _, _ in run.labelled_files()] == ["a.tif"]
        earlier = EarlierFiles(run.labelled_files())
        write_reports(run, request_of(tmp_path / "out", "csv,html"), max_pixels=1_000_000)
        layout = Layout.of(run.plan)
        for what in (
            lambda: sort_images(run, layout, tmp_path / "s", "link"),
            lambda: tag_images(run, layout, "name", 0),
        ):
            with pytest.raises(UsageError, match="not of a run with --pages all"):
                what()

    with (tmp_path / "out" / "report.csv").open() as file:
        assert [(row["path"], row["page"], row["label"]) for row in csv.DictReader(file)] == [
            ("a.tif", "1", "glass"), ("a.tif", "2", "paper"), ("a.tif", "3", "tin"), ("b.jpg", "1", ""),
        ]  # fmt: skip
    assert (tmp_path / "out" / "errors.csv").read_text().splitlines()[1].startswith("b.jpg,1,corrupt")
    assert "a.tif (page 3)" in (tmp_path / "out" / "report.html").read_text()
    with closing(run_with_pages(tmp_path, tmp_path, earlier)) as later:
        assert later.paths(0, 9) == ["b.jpg"]


def test_thumbnails_show_the_picture_that_is_meant(tmp_path: Path) -> None:
    for name in ("a.tif", "b.gif"):
        path = several(tmp_path / name)
        data = thumbnail(str(path), 1_000_000, page=3)
        assert data is not None
        assert is_like(list(Image.open(io.BytesIO(data)).convert("RGB").resize((1, 1)).getpixel((0, 0))), BLUE)  # type: ignore[arg-type]
