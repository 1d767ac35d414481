"""One chunk of files through the real reader, decoder and classifier, with an engine that can be reckoned by hand."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from base.errors import UnavailableError
from base.paths import path_to_text
from jobs.label import ChunkResult, LabelChunk, Photo, Row
from jobs.messages import ModelPin, from_json, to_json
from vision.errors import EngineError
from vision.images.decode import ImageLimits
from vision.images.preprocess import Preprocessing
from vision.serving.classifier import LAST_ALONE, Classifier, Inference, Source, top_labels
from vision.serving.engines import Images, Outputs
from vision.serving.engines.protocol import PROBABILITIES, GraphSpec
from vision.serving.forwarding import LOADED_AHEAD
from worker.label.chunk import label_chunk

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
SIZE_PX = 8


class ColourEngine:
    """Three classes, red, green and blue: the probability of each is its part of the light. Keeps what it was given."""

    name, device, precision = "colour", "cpu", "f32"
    graph = GraphSpec(height_px=SIZE_PX, width_px=SIZE_PX, outputs=3, kind=PROBABILITIES)

    def __init__(self, micro_batch: int = 2) -> None:
        self.micro_batch = micro_batch
        self.batches: list[Images] = []

    def describe(self) -> str:
        return self.name

    def submit(self, images: Images) -> Future[Outputs]:
        assert images.dtype == np.uint8
        assert images.shape[1:] == (SIZE_PX, SIZE_PX, 3)
        assert 1 <= len(images) <= self.micro_batch
        self.batches.append(images)
        done: Future[Outputs] = Future()
        done.set_result(self.predict(images))
        return done

    def predict(self, images: Images) -> Outputs:
        light = images.astype(np.float32).mean(axis=(1, 2))
        return np.asarray(light / np.maximum(light.sum(axis=1, keepdims=True), 1), np.float32)

    def close(self) -> None:
        pass


class OutlierEngine(ColourEngine):
    """Gives an outlier score, too: 0 for what is pure, 5 for what is mixed; larger than any probability."""

    graph = replace(ColourEngine.graph, outlier_name="outlier")

    def predict(self, images: Images) -> Outputs:
        probabilities = super().predict(images)
        return np.concatenate(
            [probabilities, 5 * (probabilities.max(axis=1, keepdims=True) < 0.9)], 1, dtype=np.float32
        )


class LosingEngine(ColourEngine):
    """Answers with one row too few, or too many."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def predict(self, images: Images) -> Outputs:
        return np.resize(super().predict(images), (len(images) + self.rows, 3))


class BrokenEngine(ColourEngine):
    """Fails in every forward pass."""

    def submit(self, images: Images) -> Future[Outputs]:
        failed: Future[Outputs] = Future()
        failed.set_exception(EngineError("a forward pass failed: out of memory"))
        return failed


class ReturningShare(ColourEngine):
    """While it computes, a share that was away comes back."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def submit(self, images: Images) -> Future[Outputs]:
        write_image(self.path)
        return super().submit(images)


class LosingClassifier(Classifier):
    """Forgets the last image that it has read."""

    def infer(self, sources: Sequence[Source]) -> Inference:
        found = super().infer(sources)
        return Inference(found.images[:-1], found.outputs[:-1], found.early[:-1], found.seconds)


Opener = Callable[..., Classifier]


@pytest.fixture
def opened() -> Iterator[Opener]:
    classifiers: list[Classifier] = []

    def make(
        engine: ColourEngine | None = None, kind: type[Classifier] = Classifier, decode_threads: int = 2
    ) -> Classifier:
        preprocessing = Preprocessing(height_px=SIZE_PX, width_px=SIZE_PX)
        classifiers.append(kind(engine or ColourEngine(), preprocessing, decode_threads=decode_threads))
        return classifiers[-1]

    yield make
    for classifier in classifiers:
        classifier.close()


def write_image(
    path: Path, colour: tuple[int, int, int] = RED, width: int = 12, height: int = 10, **saved: Any
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path, "PNG", **saved)
    return path


def chunk_of(*paths: str, first: int = 0, top_k: int = 3) -> LabelChunk:
    pin = ModelPin(name="colours", version=1, digest="0f" * 32)
    return LabelChunk(run="inbox-1", first=first, paths=paths, model=pin, top_k=top_k)


def first_labels(result: ChunkResult) -> list[int | str]:
    return [row.error or row.top[0][0] for row in result.rows]


def test_a_broken_image_becomes_a_row_and_its_neighbours_are_labelled(tmp_path: Path, opened: Opener) -> None:
    good = write_image(tmp_path / "red.png", RED)
    write_image(tmp_path / "blue.png", BLUE)
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:20])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture, and long enough to be one")
    (tmp_path / "folder.png").mkdir()
    chunk = chunk_of("red.png", "cut.png", "empty.png", "text.png", "folder.png", "gone.png", "blue.png", first=256)

    result = label_chunk(chunk, opened(), tmp_path, worker="label-1@host")

    reasons = ["truncated", "empty", "not_an_image", "not_a_file", "not_found"]
    assert first_labels(result) == [0, *reasons, 2]
    assert (result.run, result.first, result.worker, result.refused) == ("inbox-1", 256, "label-1@host", None)
    assert result.rows[0] == Row(top=((0, 1.0), (1, 0.0), (2, 0.0)), width=12, height=10)
    assert all(row.top == () for row in result.rows[1:-1])
    assert "gone.png does not exist" in result.rows[5].detail
    assert from_json(ChunkResult, to_json(result)) == result


def test_an_outlier_score_stands_in_the_row_and_is_no_label(tmp_path: Path, opened: Opener) -> None:
    for name, colour in (("mixed", (200, 110, 90)), ("pure", GREEN)):
        write_image(tmp_path / f"{name}.png", colour)

    chunk = chunk_of("mixed.png", "none.png", "pure.png", top_k=4)
    result = label_chunk(chunk, opened(OutlierEngine()), tmp_path)

    assert first_labels(result) == [0, "not_found", 1]
    assert [row.outlier for row in result.rows] == [5.0, None, 0.0]
    assert [len(row.top) for row in result.rows] == [3, 0, 3]
    assert label_chunk(chunk, opened(), tmp_path).rows[0].outlier is None


def test_rows_say_how_long_each_file_is_and_its_digest_when_the_chunk_asks_for_them(
    tmp_path: Path, opened: Opener
) -> None:
    good = write_image(tmp_path / "red.png", RED).read_bytes()
    (tmp_path / "cut.png").write_bytes(good[:20])
    chunk = chunk_of("red.png", "cut.png", "gone.png").model_copy(update={"file_info": True})

    rows = label_chunk(chunk, opened(), tmp_path).rows

    assert [(row.bytes, row.sha256) for row in rows] == [
        (len(good), sha256(good).hexdigest()),
        (20, sha256(good[:20]).hexdigest()),
        (0, None),
    ]
    plain = label_chunk(chunk_of("red.png", "cut.png"), opened(), tmp_path).rows
    assert [(row.bytes, row.sha256) for row in plain] == [(0, None), (0, None)]


def test_rows_say_what_cameras_wrote_when_the_chunk_asks_for_it_and_no_exif_costs_a_row(
    tmp_path: Path, opened: Opener
) -> None:
    tags = Image.Exif()
    tags[0x010F], tags.get_ifd(0x8769)[0x9003] = "Canon", "2026:03:01 12:00:05"
    write_image(tmp_path / "red.png", RED, exif=tags.tobytes())
    write_image(tmp_path / "blue.png", BLUE, exif=b"Exif\0\0II*\0" + b"\xff" * 200)
    chunk = chunk_of("red.png", "blue.png", "gone.png").model_copy(update={"exif": True})

    result = label_chunk(chunk, opened(), tmp_path)

    photo = Photo(taken="2026-03-01T12:00:05", make="Canon")
    assert [(row.error, row.photo) for row in result.rows] == [(None, photo), (None, Photo()), ("not_found", None)]
    assert from_json(ChunkResult, to_json(result)) == result
    assert label_chunk(chunk_of("red.png"), opened(), tmp_path).rows[0].photo is None


def test_a_chunk_of_broken_images_only_has_a_row_for_each(tmp_path: Path, opened: Opener) -> None:
    engine = ColourEngine()
    (tmp_path / "other").mkdir()  # an empty data root is no mounted share

    result = label_chunk(chunk_of("a.png", "b.png", "c.png"), opened(engine), tmp_path)

    assert first_labels(result) == ["not_found"] * 3
    assert engine.batches == []


def test_rows_stand_in_the_order_of_the_paths(tmp_path: Path, opened: Opener) -> None:
    colours = [(255 - shade, shade, 0) for shade in range(0, 250, 10)]
    names = [f"{number:02}.png" for number in range(len(colours))]
    for name, colour in zip(names, colours, strict=True):
        write_image(tmp_path / name, colour)
    shuffled = [int(number) for number in np.random.default_rng(3).permutation(len(names))]

    result = label_chunk(chunk_of(*(names[number] for number in shuffled)), opened(decode_threads=4), tmp_path)

    green = [dict(row.top)[1] for row in result.rows]
    # float32 of n/255
    np.testing.assert_allclose(green, [colours[number][1] / 255 for number in shuffled], atol=1e-6)


def test_the_same_path_twice_has_two_rows(tmp_path: Path, opened: Opener) -> None:
    write_image(tmp_path / "a.png", GREEN)

    assert first_labels(label_chunk(chunk_of("a.png", "a.png"), opened(), tmp_path)) == [1, 1]


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "a/../../secret.png",
        "/etc/hostname",
        "ABSOLUTE",
        "link.png",
        "linked/secret.png",
        "..",
        "link2.png",
    ],
)
def test_what_lies_outside_the_data_root_is_refused_unread(tmp_path: Path, opened: Opener, path: str) -> None:
    root = tmp_path / "data"
    write_image(root / "a" / "ok.png")
    secret = write_image(tmp_path / "secret.png")
    (root / "link.png").symlink_to(secret)
    (root / "link2.png").symlink_to("link.png")  # by way of another link
    (root / "linked").symlink_to(tmp_path)
    path = str(secret) if path == "ABSOLUTE" else path

    result = label_chunk(chunk_of(path, "a/ok.png"), opened(), root)

    assert first_labels(result) == ["outside_data_root", 0]
    assert result.rows[0].detail == f"{path} is not below the worker's data root"


def test_a_folder_beside_the_data_root_with_a_longer_name_is_outside(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "data").mkdir()
    write_image(tmp_path / "data-private" / "a.png")

    result = label_chunk(chunk_of("../data-private/a.png"), opened(), tmp_path / "data")

    assert first_labels(result) == ["outside_data_root"]


@pytest.mark.parametrize("path", ["a/ok.png", "a/../a/ok.png", "./a//ok.png", "inside.png", "turn/ok.png"])
def test_what_stays_below_the_data_root_is_read_also_through_links(tmp_path: Path, opened: Opener, path: str) -> None:
    write_image(tmp_path / "real" / "a" / "ok.png", BLUE)
    (tmp_path / "real" / "inside.png").symlink_to("a/ok.png")
    (tmp_path / "real" / "turn").symlink_to(tmp_path / "real" / "a")
    (tmp_path / "data").symlink_to(tmp_path / "real")  # the root itself may be a link

    assert first_labels(label_chunk(chunk_of(path), opened(), tmp_path / "data")) == [2]


def test_an_absolute_path_below_the_root_is_read(tmp_path: Path, opened: Opener) -> None:
    path = write_image(tmp_path / "a.png", BLUE)

    assert first_labels(label_chunk(chunk_of(str(path)), opened(), Path("/"))) == [2]
    assert first_labels(label_chunk(chunk_of(str(path)), opened(), tmp_path)) == [2]


@pytest.mark.parametrize("path", ["a\0b.png", "a%00b.png", "\0", "../a%00"])
def test_a_name_with_a_nul_byte_is_no_file(tmp_path: Path, opened: Opener, path: str) -> None:
    write_image(tmp_path / "ok.png")

    result = label_chunk(chunk_of(path, "ok.png"), opened(), tmp_path)

    assert first_labels(result) == ["not_found", 0]
    assert "holds a NUL byte" in result.rows[0].detail
    assert "\0" not in result.rows[0].detail


def test_a_name_that_is_not_utf8_is_read_by_its_text(tmp_path: Path, opened: Opener) -> None:
    name = os.fsdecode(b"caf\xe9 50%.png")
    write_image(tmp_path / name, GREEN)

    result = label_chunk(chunk_of(path_to_text(name), path_to_text(name + "x")), opened(), tmp_path)

    assert first_labels(result) == [1, "not_found"]
    assert "caf%E9 50%25.pngx does not exist" in result.rows[1].detail  # fits JSON and UTF-8


def test_a_pipe_is_not_waited_for(tmp_path: Path, opened: Opener) -> None:
    os.mkfifo(tmp_path / "pipe.png")

    assert first_labels(label_chunk(chunk_of("pipe.png"), opened(), tmp_path)) == ["not_a_file"]


def test_a_file_above_the_limit_is_not_read(tmp_path: Path, opened: Opener) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"x" * 2000)

    result = label_chunk(chunk_of("a.png", "b.png"), opened(), tmp_path, ImageLimits(max_bytes=1999))

    assert first_labels(result) == [0, "too_large"]


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_data_root_that_is_away_is_no_fault_of_the_images(tmp_path: Path, opened: Opener, kind: str) -> None:
    root = tmp_path / "share"
    if kind == "file":
        root.touch()

    with pytest.raises(UnavailableError, match=r"the data root .*share is not there; is the share mounted\?"):
        label_chunk(chunk_of("a.png"), opened(), root)


def test_an_empty_data_root_is_an_unmounted_share_and_no_fault_of_the_images(tmp_path: Path, opened: Opener) -> None:
    with pytest.raises(UnavailableError, match=r"the data root .* is empty; is the share mounted\?"):
        label_chunk(chunk_of("a.png"), opened(), tmp_path)


def test_a_share_that_came_back_meanwhile_gives_no_rows_of_files_that_are_well(tmp_path: Path, opened: Opener) -> None:
    write_image(tmp_path / "a.png")
    chunk = chunk_of("a.png", "b.png", "never.png")

    with pytest.raises(UnavailableError, match=r"b\.png was not there and is there now: .* was away for a moment"):
        label_chunk(chunk, opened(ReturningShare(tmp_path / "b.png")), tmp_path)

    rows = label_chunk(chunk, opened(), tmp_path).rows
    assert [row.error for row in rows] == [None, None, "not_found"]


@pytest.mark.parametrize("mount_point", [True, False])
def test_a_data_root_that_goes_away_during_a_chunk_is_no_fault_of_the_images(
    tmp_path: Path, opened: Opener, mount_point: bool
) -> None:
    root = tmp_path / "share"
    root.mkdir()
    write_image(root / "a.png")
    classifier = opened()

    def gone(sources: Sequence[Source], top_k: int) -> object:
        shutil.rmtree(root)  # renamed, it would still be read
        if mount_point:
            root.mkdir()
        return Classifier.classify(classifier, sources, top_k)

    classifier.classify = gone  # type: ignore[assignment,method-assign]
    with pytest.raises(UnavailableError, match="is the share mounted"):
        label_chunk(chunk_of("a.png"), classifier, root)


@pytest.mark.parametrize(("rows", "word"), [(-1, "shorter"), (1, "longer")])
def test_an_engine_that_loses_or_invents_a_row_gives_no_result(
    tmp_path: Path, opened: Opener, rows: int, word: str
) -> None:
    for name in "abc":
        write_image(tmp_path / f"{name}.png")

    with pytest.raises(ValueError, match=rf"zip\(\) argument 2 is {word} than argument 1"):
        label_chunk(chunk_of("a.png", "b.png", "gone.png", "c.png"), opened(LosingEngine(rows)), tmp_path)


def test_a_classifier_that_forgets_an_image_gives_no_result(tmp_path: Path, opened: Opener) -> None:
    for name in "abc":
        write_image(tmp_path / f"{name}.png")

    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is shorter than argument 1"):
        label_chunk(chunk_of("a.png", "b.png", "c.png"), opened(kind=LosingClassifier), tmp_path)


def test_a_failing_engine_is_no_fault_of_the_images(tmp_path: Path, opened: Opener) -> None:
    write_image(tmp_path / "a.png")

    with pytest.raises(EngineError, match="out of memory"):
        label_chunk(chunk_of("a.png"), opened(BrokenEngine()), tmp_path)


def test_the_most_probable_labels_come_first_and_equal_ones_by_index(tmp_path: Path, opened: Opener) -> None:
    write_image(tmp_path / "grey.png", (90, 90, 90))
    write_image(tmp_path / "yellow.png", (90, 90, 0))
    write_image(tmp_path / "cyan.png", (0, 90, 90))

    result = label_chunk(chunk_of("grey.png", "yellow.png", "cyan.png"), opened(), tmp_path)

    assert [[index for index, _ in row.top] for row in result.rows] == [[0, 1, 2], [0, 1, 2], [1, 2, 0]]
    assert all(value == pytest.approx(1 / 3, abs=1e-6) for _, value in result.rows[0].top)


def test_ties_among_many_classes_go_by_index() -> None:
    even = np.full((1, 1000), 0.001, np.float32)

    assert [index for index, _ in top_labels(even, 5)[0]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (3, 3), (1000, 3)])
def test_a_row_has_top_k_labels_or_as_many_as_there_are(tmp_path: Path, opened: Opener, top_k: int, count: int) -> None:
    write_image(tmp_path / "a.png", (10, 20, 30))

    result = label_chunk(chunk_of("a.png", top_k=top_k), opened(), tmp_path)

    assert [index for index, _ in result.rows[0].top] == [2, 1, 0][:count]


def test_probabilities_that_rounding_took_out_of_range_are_put_back() -> None:
    outputs = np.asarray([[1.0000001, -1e-9]], np.float32)

    assert top_labels(outputs, 2) == [[(0, 1.0), (1, 0.0)]]


def test_micro_batches_are_cut_from_readable_images_whatever_stands_between(tmp_path: Path, opened: Opener) -> None:
    good = [f"{number}.png" for number in range(7)]
    for number, name in enumerate(good):
        write_image(tmp_path / name, (number, 0, 0))
    plain, mixed = ColourEngine(micro_batch=3), ColourEngine(micro_batch=3)
    broken = ["gone.png", good[0], good[1], "x/gone.png", "../gone.png", *good[2:6], "gone.png", good[6], "gone.png"]

    label_chunk(chunk_of(*good), opened(plain), tmp_path)
    label_chunk(chunk_of(*broken), opened(mixed), tmp_path)

    cut = [[int(image[0, 0, 0]) for image in batch] for batch in plain.batches]
    assert cut == [[0, 1, 2], [3, 4, 5], [6]]
    assert [[int(image[0, 0, 0]) for image in batch] for batch in mixed.batches] == cut


def test_batches_do_not_depend_on_which_image_was_decoded_first(tmp_path: Path, opened: Opener) -> None:
    count = LOADED_AHEAD + LAST_ALONE + 10
    data = [write_image(tmp_path / f"{number}.png", (number, 0, 0)).read_bytes() for number in range(count)]
    last_of_window = threading.Event()

    def source(number: int) -> bytes:
        if number == LOADED_AHEAD - 1:
            last_of_window.set()
        elif number == 0:
            assert last_of_window.wait(30)  # the first to start is the last to end
        elif number % 7 == 0:
            time.sleep(0.002)
        return data[number]

    engine = ColourEngine(micro_batch=16)
    classifier = opened(engine, decode_threads=4)
    outcomes, seconds = classifier.classify([lambda number=number: source(number) for number in range(count)], 1)  # type: ignore[misc]

    assert [int(image[0, 0, 0]) for batch in engine.batches for image in batch] == list(range(count))
    assert [len(batch) for batch in engine.batches] == [16, 16, 16, 16, 16, 10]
    assert len(outcomes) == count
    assert seconds.keys() == {"decode_s", "chunk_s"}


def test_the_last_two_images_are_decoded_side_by_side(tmp_path: Path, opened: Opener) -> None:
    data = write_image(tmp_path / "a.png", (10, 20, 30)).read_bytes()
    count, both = 52, threading.Barrier(2)

    def source(number: int) -> bytes:
        if number >= count - 2:
            both.wait(30)  # a thread that had to do one after the other would wait for itself
        return data

    outcomes, _ = opened(decode_threads=2).classify([partial(source, number) for number in range(count)], 1)

    assert [outcome.error for outcome in outcomes] == [None] * count
