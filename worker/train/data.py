"""The images of a training job, dealt into sides, and what the trained part of the network sees of each."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs import Recipe
from jobs import ModelPin
from vision.images.preprocess import Preprocessing
from vision.networks import spec_from_json
from vision.networks.spec import NetworkSpec
from vision.serving.engines import Engine, ModelFiles, open_engine
from vision.serving.export import export_onnx, graph_spec
from vision.training.augment import Augmentation
from vision.training.dataset import Dataset, LabelledImage
from vision.training.families import find_leaks, fold_by_family, split_by_family
from vision.training.feature_cache import FeatureCache, StoredRows
from vision.training.features import Digests, Extracted, Extractor, load_pixels
from vision.training.parts import build_frozen, frozen_spec
from vision.training.samples import Samples
from worker.errors import JobRefused
from worker.models.files import SERVING
from worker.runtime import Runtime

log = logging.getLogger("sortline.training")

FEATURES_SCHEMA_VERSION = (
    1  # raised when decoding or augmentation changes, so that features of before are not met again
)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Seen:
    """Readable images, and what the trained part sees of them: ``views`` rows an image, all plain ones first."""

    images: list[LabelledImage]
    rows: StoredRows
    views: int = 1

    def samples(self) -> Samples:
        targets = np.array([image.class_index for image in self.images], np.int64)
        return Samples(inputs=self.rows, targets=np.tile(targets, self.views))

    def only(self, chosen: NDArray[np.int64], views: int) -> Seen:
        """Return the images at ``chosen``, with their first ``views`` views."""
        places = np.concatenate([chosen + view * len(self.images) for view in range(views)])
        return Seen([self.images[place] for place in chosen], self.rows.only(places), views)


@dataclass(frozen=True, slots=True)
class Split:
    """Both sides of a training, how they came about, and pairs (training, validation) of near copies."""

    training: Seen
    validation: Seen
    note: str
    leaks: list[tuple[Path, Path]]


class TrainingData:
    """Reads the images of one job.

    Args:
        folder: of this job, for pixels that don't go into the shared cache.
        say: tells a person what goes on, and raises when the job was cancelled.
    """

    def __init__(
        self,
        runtime: Runtime,
        recipe: Recipe,
        network: Any,
        backbone: ModelPin | None,
        dataset: Dataset,
        digests: Digests,
        folder: Path,
        say: Say,
    ) -> None:
        self.runtime, self.recipe, self.network, self.backbone = runtime, recipe, network, backbone
        self.dataset, self.digests, self.folder, self.say = dataset, digests, folder, say
        self.preprocessing = Preprocessing(height_px=recipe.height_px, width_px=recipe.width_px, fit=recipe.fit)
        self.freeze = recipe.freeze if backbone is not None else "none"
        self.repeats = recipe.augmentation.repeat if self.freeze != "none" else 0
        self.skipped: list[str] = []
        self._engines: dict[str, Engine] = {}  # of the frozen part; a frozen backbone is wanted twice

    def close(self) -> None:
        """Free the engines; what was read stays."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def split(self, *, fail_on_leak: bool) -> Split:
        """Return training and validation images: ``val/`` as given, or families dealt out.

        Raises:
            JobRefused: a side is empty, or ``fail_on_leak`` and ``val/`` holds near copies of training images.
        """
        given = self.dataset.validation is not None
        found, marks = self._readable([*self.dataset.train, *(self.dataset.validation or ())])
        places = {image: place for place, image in enumerate(found)}
        train = [image for image in self.dataset.train if image in places]
        leaks: list[tuple[Path, Path]] = []
        if given:
            validation = [image for image in self.dataset.validation or () if image in places]
            sides = [_marks_of(marks, [places[image] for image in side]) for side in (train, validation)]
            leaks = find_leaks(
                train, validation, train_features=sides[0], validation_features=sides[1], digests=self.digests
            )
            note = self._told_leaks(validation, leaks, fail_on_leak)
        else:
            dealt = split_by_family(
                train,
                fraction=self.recipe.validation_fraction,
                seed=self.recipe.seed,
                features=marks,
                known=self.dataset.families,
                digests=self.digests,
            )
            train, validation = list(dealt.train), list(dealt.validation)
            note = f"{dealt.families} families, none on both sides"
        self._refuse_empty(train, validation)
        with self._reader(self.freeze) as read:
            return Split(read(train, self.repeats), read(validation, 0), note, leaks)

    def folds(self, count: int) -> list[tuple[Seen, Seen]]:
        """Return (training, validation) of each fold of all images; families are not parted."""
        found, marks = self._readable([*self.dataset.train, *(self.dataset.validation or ())])
        fold = fold_by_family(
            found,
            folds=count,
            seed=self.recipe.seed,
            features=marks,
            known=self.dataset.families,
            digests=self.digests,
        )
        with self._reader(self.freeze) as read:
            seen = read(found, self.repeats)
        return [
            (seen.only(np.flatnonzero(fold != number), seen.views), seen.only(np.flatnonzero(fold == number), 1))
            for number in range(count)
        ]

    def _told_leaks(self, validation: list[LabelledImage], leaks: list[tuple[Path, Path]], fail: bool) -> str:
        copied = {copy: original for original, copy in leaks}
        examples = "; ".join(
            f"{copy.relative_to(self.dataset.root)} is like {original.relative_to(self.dataset.root)}"
            for copy, original in list(copied.items())[:3]
        )
        note = f"val/ as given; {len(copied)} of its {len(validation)} images have a near copy in train/"
        if copied and fail:
            raise JobRefused(f"{note}: {examples}; take them out of one side, or leave --fail-on-leak away")
        return f"{note}, such as {examples}" if copied else note

    def _refuse_empty(self, train: Sequence[LabelledImage], validation: Sequence[LabelledImage]) -> None:
        present = {image.class_index for image in train}
        absent = [info.label for index, info in enumerate(self.dataset.classes) if index not in present]
        if absent or not validation:
            first = f"; the first that can't be read: {self.skipped[0]}" if self.skipped else ""
            what = f"train on in {', '.join(absent)}" if absent else "validate with"
            raise JobRefused(f"no readable image to {what}{first}")

    def _readable(self, images: Sequence[LabelledImage]) -> tuple[list[LabelledImage], _LastMap | None]:
        """Return the readable images and the backbone's plain features of them, by which near copies are found."""
        if self.backbone is None:
            self._skip([f"{image.path}: it can't be opened" for image in images if image.path not in self.digests])
            return [image for image in images if image.path in self.digests], None
        # A cut or whole network is split by the pooled features, too, which cost one pass and stay in the cache.
        with self._reader("backbone") as read:
            seen = read(images, 0)
        return seen.images, _LastMap(seen.rows, self.network.spec)

    @contextmanager
    def _reader(self, freeze: str) -> Iterator[Callable[[Sequence[LabelledImage], int], Seen]]:
        """Give the function from images and a number of repeats to what a network frozen like that sees of them."""
        if freeze == "none":
            yield lambda images, repeats: self._seen(self._pixels(images), 1)
            return
        spec, settings = frozen_spec(self.network.spec, freeze), self.runtime.settings
        if freeze not in self._engines:
            model = ModelFiles(onnx=self._graph(spec, freeze), graph=graph_spec(spec))
            # The precision that will serve: a head should meet the features that it will be given.
            self._engines[freeze] = open_engine(model, precision=settings.precision)
        engine = self._engines[freeze]
        cache = FeatureCache(settings.feature_cache_root, settings.feature_cache_bytes)
        views = len(self.digests) * (self.repeats + 1)
        with cache.open(
            self._space(spec, engine.precision), spec.feature_shape, self.recipe.feature_dtype, views
        ) as space:
            extractor = Extractor(
                engine, space, self.preprocessing, self.runtime.limits, self._augmentation(), self.recipe.seed
            )
            yield lambda images, repeats: self._seen(
                extractor.extract(images, self.digests, repeats, self._told), repeats + 1
            )

    def _pixels(self, images: Sequence[LabelledImage]) -> Extracted:
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix="pixels-", delete=False) as file:
            path = Path(file.name)
        return load_pixels(images, self.preprocessing, self.runtime.limits, path, self._told)

    def _seen(self, extracted: Extracted, views: int) -> Seen:
        self._skip(extracted.errors)
        return Seen(extracted.images, extracted.rows, views)

    def _skip(self, errors: Sequence[str]) -> None:
        for error in errors:
            if error not in self.skipped:
                log.warning("training image skipped: %s", error)
                self.skipped.append(error)

    def _told(self, done: int, total: int, rate: float) -> None:
        self.say(f"reading images {done}/{total}, {rate:.0f} img/s, eta {(total - done) / rate:.0f} s")

    def _augmentation(self) -> Augmentation:
        return Augmentation(**self.recipe.augmentation.model_dump(exclude={"repeat"}))

    def _space(self, spec: NetworkSpec, precision: str) -> str:
        """Return the name of the features' space: a digest of all that they depend on beside the image."""
        described = {
            "schema_version": FEATURES_SCHEMA_VERSION,
            "backbone": self.backbone.digest if self.backbone else "",
            "network": spec.to_json(),
            "preprocessing": self.preprocessing.to_json(),
            "precision": precision,
            "dtype": self.recipe.feature_dtype,
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def _graph(self, spec: NetworkSpec, freeze: str) -> bytes:
        """Return the frozen part as ONNX: the backbone's own graph where that is it, else an export of two seconds."""
        store, pin = self.runtime.store, self.backbone
        if pin is not None and spec_from_json(store.resolve(str(pin)).manifest.network) == spec:
            return store.open_file(pin.name, pin.version, SERVING)
        with tempfile.TemporaryDirectory(prefix="sortline-") as folder:
            path = Path(folder) / "graph.onnx"
            frozen = build_frozen(self.network, freeze)
            export_onnx(frozen, path)
            return path.read_bytes()


@dataclass(frozen=True, slots=True)
class _LastMap:
    """The last map's features at the scale nearest 1: what the likeness of near copies was measured on."""

    rows: StoredRows
    spec: NetworkSpec

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.spec.last_map_features(self.rows[chosen])
        return found


def _marks_of(marks: _LastMap | None, places: list[int]) -> _LastMap | None:
    return None if marks is None else _LastMap(marks.rows.only(np.array(places, np.int64)), marks.spec)
