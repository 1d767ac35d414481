"""Labelled images -> what the trained part of a network sees: pixels, or features of the frozen part.

Both go through the loader and the engines that label, so a head never meets features that serving would not give it.
A *view* of an image is the plain one, number 0, or one of the augmented repeats 1, 2, ... Features of a view are kept
on disk under the image's content, so that they are computed once for all jobs.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from base.errors import ImageError
from base.files import read_file
from base.process import available_cpus
from vision.images import ImageLimits, Pixels, Preprocessing, load_image
from vision.serving import Engine, forward
from vision.training.augment import Augmentation
from vision.training.dataset import LabelledImage
from vision.training.feature_cache import FeatureSpace
from vision.training.samples import StoredRows

VIEWS_AT_ONCE = 512  # computed between two writes to the cache, looks at progress and at cancelling
VIEWS_AHEAD = 64  # decoded before the engine wants them: 10 MB at 224 x 224
SOURCE_ROOM = 1.5  # augmented views are cut from an image this much larger than the network's input a side

Report = Callable[[int, int, float], None]  # views done, views in all, views a second
Digests = Mapping[Path, str]  # sha256 of each file that can be read


class Extracted(NamedTuple):
    """Features (V * N, ...) of V views of N images: all plain views, then all first repeats, and so on.

    ``images`` are those that could be read and decoded, in the order they came; ``errors`` has a line for each other.
    """

    images: list[LabelledImage]
    rows: StoredRows
    errors: list[str]


class _Loaded(NamedTuple):
    digest: str
    views: list[int]
    pixels: Pixels  # (views, H, W, 3)
    error: str | None = None


@dataclass
class Extractor:
    """The frozen part of a network on an engine, with the space of the cache that holds its features.

    Attributes:
        engine: gives uint8 (N, H, W, 3) -> flat features (N, F); is not called where all features are known.
        augmentation: of the repeats.
        seed: of the repeats; each image and repeat draws from a generator of its own, so neither order nor company
            changes a view.
    """

    engine: Callable[[], Engine]
    space: FeatureSpace
    preprocessing: Preprocessing
    limits: ImageLimits
    augmentation: Augmentation
    seed: int

    def extract(self, images: Sequence[LabelledImage], digests: Digests, repeats: int, report: Report) -> Extracted:
        """Return the features of every image, plain and in ``repeats`` augmented views; only missing ones are computed.

        An image without a digest could not be read. ``report`` is called now and then; what it raises ends the work,
        and what was computed by then is kept.
        """
        paths: dict[str, list[Path]] = {}
        for image in images:
            if image.path in digests:
                paths.setdefault(digests[image.path], []).append(image.path)
        changes = [self._change(view) for view in range(repeats + 1)]
        keys = {(digest, view): _key(digest, change) for digest in paths for view, change in enumerate(changes)}
        missing = set(self.space.missing(list(keys.values())))
        wanted: dict[str, list[int]] = {}
        for position, (digest, view) in enumerate(keys):
            if position in missing:
                wanted.setdefault(digest, []).append(view)
        errors = self._compute(self.engine(), wanted, paths, keys, report) if wanted else {}
        good: list[LabelledImage] = []
        bad: list[str] = []
        for image in images:
            error = errors.get(digests[image.path]) if image.path in digests else "it can't be read"
            if error is None:
                good.append(image)
            else:
                bad.append(f"{image.path}: {error}")
        rows = self.space.rows([keys[digests[image.path], view] for view in range(repeats + 1) for image in good])
        return Extracted(good, rows, bad)

    def _compute(
        self,
        engine: Engine,
        wanted: Mapping[str, list[int]],
        paths: Mapping[str, list[Path]],
        keys: Mapping[tuple[str, int], bytes],
        report: Report,
    ) -> dict[str, str]:
        """Compute the wanted views of each digest into the space; return by digest why an image can't be decoded."""
        errors: dict[str, str] = {}
        made: list[bytes] = []  # keys of views that were handed to the engine and are not in the cache yet
        rows: list[NDArray[np.float32]] = []
        total, added, started = sum(map(len, wanted.values())), 0, time.perf_counter()

        def keep() -> None:
            nonlocal added
            together = np.concatenate(rows)
            self.space.add(made[: len(together)], together)
            del made[: len(together)]
            rows.clear()
            added += len(together)
            done = added + sum(len(wanted[digest]) for digest in errors)
            report(done, total, done / (time.perf_counter() - started))

        loads = (partial(self._load, digest, paths[digest], views) for digest, views in wanted.items())
        ahead = max(2, VIEWS_AHEAD // max(map(len, wanted.values()), default=1))
        with ThreadPoolExecutor(available_cpus(), thread_name_prefix="decode") as pool:
            for outputs in forward(engine, pool, loads, partial(_take, keys, made, errors), ahead=ahead):
                rows.append(outputs)
                if len(rows) * engine.micro_batch >= VIEWS_AT_ONCE:
                    keep()
            if rows:
                keep()
        return errors

    def _load(self, digest: str, paths: list[Path], views: list[int]) -> _Loaded:
        """Return the pixels of an image's views; a file is read once, and decoded once for all augmented ones."""
        target = self.preprocessing
        height_px, width_px = round(target.height_px * SOURCE_ROOM), round(target.width_px * SOURCE_ROOM)
        larger = replace(target, height_px=height_px, width_px=width_px)
        repeats = [view for view in views if view]
        try:
            data = self._read(digest, paths)
            blocks = [load_image(data, target, self.limits).pixels[None]] if 0 in views else []
            source = load_image(data, larger, self.limits).pixels if repeats else None
        except ImageError as error:
            nothing = np.empty((0, target.height_px, target.width_px, 3), np.uint8)
            return _Loaded(digest, views, nothing, str(error))
        if source is not None:
            randoms = [self._random(digest, view) for view in repeats]
            blocks.append(self.augmentation.views(source, target.height_px, target.width_px, randoms))
        return _Loaded(digest, views, blocks[0] if len(blocks) == 1 else np.concatenate(blocks))

    def _read(self, digest: str, paths: list[Path]) -> bytes:
        """Return the content with this digest from the first of equal files that still has it."""
        error = ImageError("unreadable", "it changed while the job was reading it")
        for path in paths:
            try:
                data = read_file(path, self.limits.max_bytes)
            except ImageError as found:
                error = found
                continue
            if hashlib.sha256(data).hexdigest() == digest:
                return data
        raise error

    def _random(self, digest: str, view: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, view, int(digest[:16], 16)])

    def _change(self, view: int) -> str:
        """Return all that decides a repeat's pixels beside the image; nothing for the plain view."""
        return json.dumps([self.augmentation.to_json(), self.seed, view]) if view else ""


def load_pixels(
    images: Sequence[LabelledImage], preprocessing: Preprocessing, limits: ImageLimits, file: Path, report: Report
) -> Extracted:
    """Return the plain views as pixels uint8 (N, H, W, 3) RGB, which lie in ``file``.

    On disk and memory-mapped, so that a network may be trained whole on more pictures than the memory holds.
    """
    file.parent.mkdir(parents=True, exist_ok=True)

    def load(image: LabelledImage) -> Pixels | str:
        try:
            return load_image(image.path, preprocessing, limits).pixels
        except ImageError as error:
            return f"{image.path}: {error}"

    good: list[LabelledImage] = []
    errors: list[str] = []
    started = time.perf_counter()
    # Written, and mapped only then: a disk that fills up under a mapped file kills the process instead of failing.
    with ThreadPoolExecutor(available_cpus()) as pool, file.open("wb") as stored:
        for start in range(0, len(images), VIEWS_AT_ONCE):
            some = images[start : start + VIEWS_AT_ONCE]
            for image, loaded in zip(some, pool.map(load, some), strict=True):
                if isinstance(loaded, str):
                    errors.append(loaded)
                else:
                    stored.write(loaded.data)
                    good.append(image)
            done = start + len(some)
            report(done, len(images), done / (time.perf_counter() - started))
    shape = (len(good), preprocessing.height_px, preprocessing.width_px, 3)
    # An empty file can't be mapped.
    pixels = np.memmap(file, np.uint8, "r", shape=shape) if good else np.zeros(shape, np.uint8)
    return Extracted(good, StoredRows.of(pixels), errors)


def _key(digest: str, change: str) -> bytes:
    """Return what names a view's features."""
    return hashlib.sha256(f"{digest} {change}".encode()).digest()


def _take(keys: Mapping[tuple[str, int], bytes], made: list[bytes], errors: dict[str, str], loaded: _Loaded) -> Pixels:
    if loaded.error is not None:
        errors[loaded.digest] = loaded.error
    else:
        made.extend(keys[loaded.digest, view] for view in loaded.views)
    return loaded.pixels
