"""Pictures to features through the real loader and cache, with an engine that only counts and shrinks."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vision.errors import EngineError
from vision.images.decode import DEFAULT_LIMITS
from vision.images.preprocess import Preprocessing, load_image
from vision.serving.engines import Images, Outputs
from vision.serving.engines.protocol import GraphSpec
from vision.training.augment import Augmentation
from vision.training.dataset import LabelledImage, file_digests
from vision.training.feature_cache import FeatureCache
from vision.training.features import Digests, Extracted, Extractor, load_pixels

HEIGHT, WIDTH = 8, 12
PREPROCESSING = Preprocessing(height_px=HEIGHT, width_px=WIDTH)
TURNED = Augmentation(rotate_degrees=30, crop_area=0.5, flip=True, brightness=0.3)
FEATURES = HEIGHT * WIDTH * 3


class PixelEngine:
    """Its features of an image are the image's own pixels, so what an engine was shown can be read off the cache."""

    name, device, precision = "pixels", "cpu", "f32"
    graph = GraphSpec(height_px=HEIGHT, width_px=WIDTH, outputs=FEATURES, kind="features")

    def __init__(self, micro_batch: int = 4) -> None:
        self.micro_batch = micro_batch
        self.images = 0

    def describe(self) -> str:
        return self.name

    def submit(self, images: Images) -> Future[Outputs]:
        assert 1 <= len(images) <= self.micro_batch
        done: Future[Outputs] = Future()
        done.set_result(self.predict(images))
        return done

    def predict(self, images: Images) -> Outputs:
        assert (images.dtype.name, images.shape[1:]) == ("uint8", (HEIGHT, WIDTH, 3))
        self.images += len(images)
        return images.reshape(len(images), -1).astype(np.float32)

    def close(self) -> None:
        pass


class FailingEngine(PixelEngine):
    """Fails in its third forward pass."""

    def submit(self, images: Images) -> Future[Outputs]:
        if self.images >= 2 * self.micro_batch:
            raise EngineError("out of memory")
        return super().submit(images)


class Stop(Exception):
    """A job was cancelled."""


def write(path: Path, seed: int, height: int = 30, width: int = 40, orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    picture.save(path, exif=exif)
    return path


def pictures(folder: Path, count: int) -> list[LabelledImage]:
    return [LabelledImage(write(folder / f"{number:03d}.png", number), number % 3) for number in range(count)]


def digests_of(images: list[LabelledImage]) -> Digests:
    return file_digests(image.path for image in images)


def silent(done: int, total: int, rate: float) -> None:
    """Say nothing."""


@contextmanager
def extractor(
    root: Path, engine: PixelEngine, augmentation: Augmentation = TURNED, seed: int = 3
) -> Iterator[Extractor]:
    with FeatureCache(root / "cache", 10_000_000).open("f" * 64, (FEATURES,), "float16", 100) as space:
        yield Extractor(lambda: engine, space, PREPROCESSING, DEFAULT_LIMITS, augmentation, seed)


def extract(
    root: Path,
    images: list[LabelledImage],
    repeats: int = 0,
    engine: PixelEngine | None = None,
    augmentation: Augmentation = TURNED,
    seed: int = 3,
) -> Extracted:
    with extractor(root, engine or PixelEngine(), augmentation, seed) as opened:
        return opened.extract(images, digests_of(images), repeats, silent)


def views(extracted: Extracted, repeats: int) -> NDArray[np.uint8]:
    """Return the pixels the engine was shown, (V, N, H, W, 3)."""
    return extracted.rows[:].reshape(repeats + 1, len(extracted.images), HEIGHT, WIDTH, 3).astype(np.uint8)


def shown(path: Path) -> NDArray[np.uint8]:
    return load_image(path, PREPROCESSING).pixels


def test_features_that_are_all_known_open_no_engine(tmp_path: Path) -> None:
    images = pictures(tmp_path, 3)
    first = extract(tmp_path, images, 1)

    def refuse() -> PixelEngine:
        raise AssertionError("an engine was opened")

    with extractor(tmp_path, PixelEngine()) as again:
        again.engine = refuse
        found = again.extract(images, digests_of(images), 1, silent)
        with pytest.raises(AssertionError, match="an engine was opened"):
            again.extract(images, digests_of(images), 2, silent)
    np.testing.assert_array_equal(found.rows[:], first.rows[:])


def test_plain_views_are_exactly_what_labelling_would_see(tmp_path: Path) -> None:
    upright = write(tmp_path / "a.png", 1, 20, 50)
    images = [LabelledImage(upright, 0)] + [
        LabelledImage(write(tmp_path / f"{turn}.jpg", 2, 90, 60, turn), 1) for turn in (1, 3, 6, 8)
    ]
    images.append(LabelledImage(tmp_path / "red.png", 2))
    Image.new("RGB", (9, 9), (250, 10, 90)).save(tmp_path / "red.png")

    found = views(extract(tmp_path, images), 0)[0]

    np.testing.assert_array_equal(found, [shown(image.path) for image in images])
    assert found[-1, 0, 0].tolist() == [250, 10, 90]


def test_rows_are_view_by_view_in_the_order_of_the_images(tmp_path: Path) -> None:
    images = pictures(tmp_path, 5)[::-1]
    extracted = extract(tmp_path, images, repeats=2)
    found = views(extracted, 2)
    assert (extracted.images, extracted.errors) == (images, [])
    assert (extracted.rows.shape, extracted.rows.dtype.name) == ((15, FEATURES), "float32")
    np.testing.assert_array_equal(found[0], [shown(image.path) for image in images])
    for place, image in enumerate(images):
        alone = views(extract(tmp_path / "other", [image], repeats=2), 2)
        np.testing.assert_array_equal(found[:, place], alone[:, 0])
    assert len({view.tobytes() for view in found.reshape(15, -1)}) == 15


def test_each_image_and_each_repeat_draws_for_itself(tmp_path: Path) -> None:
    images = [LabelledImage(tmp_path / f"{level}.png", 0) for level in range(100, 106)]
    for image in images:
        Image.new("RGB", (9, 9), (int(image.path.stem),) * 3).save(image.path)
    found = views(extract(tmp_path, images, 2, augmentation=Augmentation(brightness=0.5)), 2).mean(axis=(2, 3, 4))
    factors = found[1:] / found[0]
    assert (factors.std(axis=0) > 0.01).all()
    assert (factors.std(axis=1) > 0.1).all()
    assert 0.49 < factors.min() < factors.max() < 1.51


def test_a_second_job_computes_nothing(tmp_path: Path) -> None:
    images = pictures(tmp_path, 6)
    first, second, more = PixelEngine(), PixelEngine(), PixelEngine()
    before = extract(tmp_path, images, 2, first)
    again = extract(tmp_path, images, 2, second)
    extract(tmp_path, images, 3, more)
    assert (first.images, second.images, more.images) == (18, 0, 6)
    np.testing.assert_array_equal(before.rows[:], again.rows[:])


@pytest.mark.parametrize(("augmentation", "seed"), [(Augmentation(rotate_degrees=31), 3), (TURNED, 4)])
def test_another_recipe_or_seed_computes_augmented_views_only(
    tmp_path: Path, augmentation: Augmentation, seed: int
) -> None:
    images, engine, back = pictures(tmp_path, 4), PixelEngine(), PixelEngine()
    before = views(extract(tmp_path, images, 2), 2)
    after = views(extract(tmp_path, images, 2, engine, augmentation, seed), 2)
    extract(tmp_path, images, 2, back)
    assert (engine.images, back.images) == (8, 0)
    np.testing.assert_array_equal(before[0], after[0])
    assert (before[1:] != after[1:]).any(axis=(2, 3, 4)).all()


def test_equal_files_are_computed_once_and_both_are_there(tmp_path: Path) -> None:
    images, engine = pictures(tmp_path, 3), PixelEngine()
    copy = LabelledImage(tmp_path / "copy.png", 2)
    copy.path.write_bytes(images[0].path.read_bytes())

    extracted = extract(tmp_path, [*images, copy], 1, engine)

    assert engine.images == 6
    assert extracted.images == [*images, copy]
    found = views(extracted, 1)
    np.testing.assert_array_equal(found[:, 0], found[:, 3])


@pytest.mark.parametrize("micro_batch", [1, 3, 5, 64])
def test_a_view_depends_on_neither_order_nor_company_nor_micro_batches(tmp_path: Path, micro_batch: int) -> None:
    images = pictures(tmp_path, 7)
    expected = views(extract(tmp_path / "one", images, 2), 2)
    order = np.random.default_rng(micro_batch).permutation(7)[:5]
    shuffled = [images[place] for place in order]
    broken = LabelledImage(tmp_path / "broken.png", 0)
    broken.path.write_bytes(b"no picture")
    shuffled.insert(2, broken)

    found = views(extract(tmp_path / "two", shuffled, 2, PixelEngine(micro_batch)), 2)

    np.testing.assert_array_equal(found, expected[:, order])


def test_images_that_can_not_be_used_are_named_and_cost_their_neighbours_nothing(tmp_path: Path) -> None:
    images = pictures(tmp_path, 4)
    cut, text, gone = (LabelledImage(tmp_path / name, 1) for name in ("cut.png", "text.png", "gone.png"))
    cut.path.write_bytes(images[0].path.read_bytes()[:60])
    text.path.write_text("no picture, and long enough to be one")
    twin = LabelledImage(tmp_path / "twin.png", 1)
    twin.path.write_bytes(text.path.read_bytes())

    engine = PixelEngine()
    extracted = extract(tmp_path, [cut, images[0], text, images[1], gone, images[2], twin, images[3]], 1, engine)

    assert extracted.images == images
    assert engine.images == 8
    np.testing.assert_array_equal(views(extracted, 1)[0], [shown(image.path) for image in images])
    expected = [(cut, "truncated"), (text, "not_an_image"), (gone, "it can't be read"), (twin, "not_an_image")]
    assert len(extracted.errors) == 4
    for error, (image, reason) in zip(extracted.errors, expected, strict=True):
        assert error.startswith(f"{image.path}: {reason}")


def test_no_usable_image_is_no_rows(tmp_path: Path) -> None:
    broken = LabelledImage(tmp_path / "a.png", 0)
    broken.path.write_bytes(b"no picture")
    for images, errors in (([], 0), ([broken], 1)):
        extracted = extract(tmp_path, images, 2)
        assert (extracted.images, extracted.rows.shape, len(extracted.errors)) == ([], (0, FEATURES), errors)


def test_a_file_that_changes_after_its_digest_was_taken_is_an_error(tmp_path: Path) -> None:
    images, engine = pictures(tmp_path, 3), PixelEngine()
    digests = digests_of(images)
    write(images[1].path, 99)
    images[2].path.unlink()

    with extractor(tmp_path, engine) as opened:
        extracted = opened.extract(images, digests, 1, silent)

    assert extracted.images == [images[0]]
    assert engine.images == 2
    assert extracted.errors[0].startswith(f"{images[1].path}: unreadable: it changed while the job was reading it")
    assert "not_found" in extracted.errors[1]
    # Nothing was kept under the new content's name.
    assert len(extract(tmp_path, images[1:2], 0, engine).images) == 1
    assert engine.images == 3


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("changed", [0, 1])
def test_of_equal_files_one_may_change_or_go_while_the_job_runs(tmp_path: Path, changed: int, gone: bool) -> None:
    original = write(tmp_path / "a.png", 1)
    images = [LabelledImage(original, 0), LabelledImage(tmp_path / "b.png", 0)]
    images[1].path.write_bytes(original.read_bytes())
    digests, expected = digests_of(images), shown(original)
    if gone:
        images[changed].path.unlink()
    else:
        write(images[changed].path, 2)

    with extractor(tmp_path, PixelEngine()) as opened:
        extracted = opened.extract(images, digests, 0, silent)

    assert (extracted.images, extracted.errors) == (images, [])
    np.testing.assert_array_equal(views(extracted, 0)[0], [expected, expected])


def test_features_in_the_cache_are_found_without_the_files(tmp_path: Path) -> None:
    images = pictures(tmp_path, 3)
    digests = digests_of(images)
    before = extract(tmp_path, images, 1).rows[:]
    for image in images:
        image.path.unlink()
    with extractor(tmp_path, PixelEngine()) as opened:
        after = opened.extract(images, digests, 1, silent)
    np.testing.assert_array_equal(after.rows[:], before)


def test_a_cancelled_job_keeps_what_it_computed_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vision.training.features.VIEWS_AT_ONCE", 8)
    images = pictures(tmp_path, 8)
    said: list[tuple[int, int]] = []

    def say(done: int, total: int, rate: float) -> None:
        assert rate > 0
        said.append((done, total))
        if len(said) == 2:
            raise Stop

    engine, rest = PixelEngine(), PixelEngine()
    with pytest.raises(Stop), extractor(tmp_path, engine) as opened:
        opened.extract(images, digests_of(images), 2, say)
    with extractor(tmp_path, rest) as opened:
        extracted = opened.extract(images, digests_of(images), 2, say)

    assert said == [(8, 24), (16, 24), (8, 8)]
    assert (engine.images, rest.images) == (16, 8)
    np.testing.assert_array_equal(extracted.rows[:], extract(tmp_path / "other", images, 2).rows[:])


def test_progress_counts_images_that_can_not_be_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision.training.features.VIEWS_AT_ONCE", 4)
    images = pictures(tmp_path, 6)
    images[2].path.write_bytes(b"no picture")
    said: list[tuple[int, int]] = []

    with extractor(tmp_path, PixelEngine()) as opened:
        opened.extract(images, digests_of(images), 1, lambda done, total, rate: said.append((done, total)))

    assert said == [(4, 12), (10, 12), (12, 12)]


def test_a_failing_engine_ends_the_work_and_what_was_computed_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vision.training.features.VIEWS_AT_ONCE", 6)
    images = pictures(tmp_path, 9)
    with pytest.raises(EngineError, match="out of memory"):
        extract(tmp_path, images, 0, FailingEngine(3))
    rest = PixelEngine()
    extract(tmp_path, images, 0, rest)
    assert rest.images == 3


def test_a_damaged_row_is_computed_again(tmp_path: Path) -> None:
    images = pictures(tmp_path, 4)
    before = extract(tmp_path, images, 1).rows[:]
    with (tmp_path / "cache" / ("f" * 64) / "rows.bin").open("r+b") as file:
        file.seek(3 * FEATURES * 2 + 10)
        file.write(b"\xff\xff")
    engine = PixelEngine()
    np.testing.assert_array_equal(extract(tmp_path, images, 1, engine).rows[:], before)
    assert engine.images == 1


def test_an_augmented_view_shows_its_image(tmp_path: Path) -> None:
    """Cut from a larger copy: without any change it is the plain view but for sampling."""
    image = LabelledImage(write(tmp_path / "a.png", 5, 120, 160), 0)
    found = views(extract(tmp_path, [image], 1, augmentation=Augmentation()), 1)[:, 0].astype(int)
    assert np.abs(found[1] - found[0]).mean() < 6


def test_pixels_for_training_a_network_whole_are_those_of_labelling(tmp_path: Path) -> None:
    images = pictures(tmp_path, 5)
    broken = LabelledImage(tmp_path / "broken.png", 0)
    broken.path.write_bytes(b"no picture")
    file = tmp_path / "scratch" / "pixels"

    extracted = load_pixels([images[0], broken, *images[1:]], PREPROCESSING, DEFAULT_LIMITS, file, silent)

    assert extracted.images == images
    assert len(extracted.errors) == 1
    assert extracted.errors[0].startswith(f"{broken.path}: not_an_image")
    assert (extracted.rows.shape, extracted.rows.dtype.name) == ((5, HEIGHT, WIDTH, 3), "uint8")
    np.testing.assert_array_equal(extracted.rows[:], [shown(image.path) for image in images])
    assert file.stat().st_size == 5 * FEATURES  # written, not a file of holes that a full disk can't fill

    for few, errors in (([], 0), ([broken], 1)):
        nothing = load_pixels(few, PREPROCESSING, DEFAULT_LIMITS, file, silent)
        assert (nothing.images, nothing.rows.shape, len(nothing.errors)) == ([], (0, HEIGHT, WIDTH, 3), errors)


def test_reading_pixels_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision.training.features.VIEWS_AT_ONCE", 2)

    def say(done: int, total: int, rate: float) -> None:
        assert (done, total) == (2, 5)
        raise Stop

    with pytest.raises(Stop):
        load_pixels(pictures(tmp_path, 5), PREPROCESSING, DEFAULT_LIMITS, tmp_path / "pixels", say)
