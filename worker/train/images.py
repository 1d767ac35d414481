"""The images of a training job: found, read as the trained part takes them, dealt into training and validation."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.errors import UnavailableError
from base.paths import text_to_path
from model_store import StoreError
from vision.images import Preprocessing
from vision.networks import NetworkSpec
from vision.serving import Engine, ModelFiles, graph_spec_of, open_engine, precision_here
from vision.training import (
    Dataset,
    Digests,
    Extractor,
    FeatureCache,
    LabelledImage,
    Samples,
    StoredRows,
    combine,
    file_digests,
    find_families,
    find_leaks,
    fold_by_family,
    frozen_spec,
    load_pixels,
    paths_of,
    read_dataset,
    read_table_dataset,
    split_by_family,
)
from worker.errors import JobRefused
from worker.train.body import Body, frozen_onnx
from worker.train.seen import read_seen, short
from worker.train.training import Training

log = logging.getLogger("sortline.training")

# Raised when decoding or augmentation changes, so that features of before are not met again.
FEATURES_SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Inputs:
    """Readable images, and what the trained part takes of them: ``views`` rows an image, all plain ones first."""

    images: list[LabelledImage]
    rows: StoredRows
    views: int = 1

    def samples(self) -> Samples:
        targets = np.array([image.class_index for image in self.images], np.int64)
        return Samples(inputs=self.rows, targets=np.tile(targets, self.views))

    def only(self, chosen: NDArray[np.int64], views: int) -> Inputs:
        """Return the images at ``chosen``, with their first ``views`` views."""
        places = np.concatenate([chosen + view * len(self.images) for view in range(views)])
        return Inputs([self.images[place] for place in chosen], self.rows.only(places), views)


def find_images(training: Training) -> tuple[Dataset, Digests]:
    """Return the dataset of the job, of one or more folders and tables, and the digest of each file that can be opened.

    Raises:
        JobRefused: one is not below the worker's data root, or that is no folder.
        UnavailableError: the data root is away.
    """
    root = training.runtime.data_root
    if not isinstance(root, Path):
        raise JobRefused(f"training reads a folder, and the data root of this worker is {root.url}; copy it first")
    if not root.is_dir():
        raise UnavailableError(f"the data root {root} is not there; is the share mounted?")
    places = [(root / text_to_path(path)).resolve() for path in training.job.sources]
    for path, place in zip(training.job.sources, places, strict=True):
        if not place.is_relative_to(root.resolve()):
            raise JobRefused(f"the dataset {path} is not below the worker's data root")
    is_alone = len(places) == 1
    sources = [
        read_table_dataset(place, root, is_alone=is_alone) if place.is_file() else read_dataset(place)
        for place in places
    ]
    digests = file_digests(dict.fromkeys(paths_of(sources)))
    dataset = combine(sources, digests)
    images = [*dataset.train, *(dataset.validation or ())]
    notes = "".join(f"; {note}" for note in dataset.notes)
    where = " and ".join(map(str, places))
    training.progress.report(f"{len(images)} images in {len(dataset.classes)} classes: {where}{notes}")
    return dataset, {image.path: digests[image.path] for image in images if image.path in digests}


class InputReader:
    """Reads images for the trained part of ``network``; without a backbone, that is all of it. With a ``body``, a head.

    Attributes:
        skipped: a line for each image that can't be read, and each folder that can't be entered.
    """

    def __init__(self, training: Training, network: Any, digests: Digests, body: Body | None = None) -> None:
        recipe = training.recipe
        self._training, self.network, self.digests, self.body = training, network, digests, body
        self.preprocessing = Preprocessing(height_px=recipe.height_px, width_px=recipe.width_px, fit=recipe.fit)
        self.repeats = recipe.augmentation.repeat if training.freeze != "none" else 0
        self.skipped: list[str] = []
        self._engines: dict[str, Engine] = {}  # of the frozen part; a frozen backbone is wanted twice

    def close(self) -> None:
        """Free the engines; what was read stays."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def read(self, images: Sequence[LabelledImage], freeze: str, repeats: int = 0) -> Inputs:
        """Return what a network frozen like that takes of ``images``, plain and in ``repeats`` augmented views."""
        training, settings, limits = self._training, self._training.runtime.settings, self._training.runtime.limits
        if freeze == "none":
            path = training.scratch_file("pixels")
            found = load_pixels(images, self.preprocessing, limits, path, self._report)
        else:
            spec = frozen_spec(self.network.spec, freeze)
            open_here = partial(self._engine, freeze, spec)
            cache = FeatureCache(settings.feature_cache_root, settings.feature_cache_bytes)
            precision = precision_here(settings.precision) or open_here().precision
            space_name, dtype = self._space(spec, precision), training.recipe.feature_dtype
            with cache.open(space_name, spec.feature_shape, dtype, len(self.digests) * (self.repeats + 1)) as space:
                seed = training.recipe.seed
                extractor = Extractor(open_here, space, self.preprocessing, limits, training.augmentation, seed)
                found = extractor.extract(images, self.digests, repeats, self._report)
        self.skip(found.errors)
        return Inputs(found.images, found.rows, 1 if freeze == "none" else repeats + 1)

    def _engine(self, freeze: str, spec: NetworkSpec) -> Engine:
        """Return the frozen part on an engine: exported, compiled and kept when it is wanted for the first time."""
        if freeze not in self._engines:
            files = self.body.files if self.body is not None else None
            model = files or ModelFiles(onnx=self._graph(spec, freeze), graph=graph_spec_of(spec))
            # The precision that will serve: a head should meet the features that it will be given.
            self._engines[freeze] = open_engine(model, precision=self._training.runtime.settings.precision)
        return self._engines[freeze]

    def skip(self, errors: Iterable[str]) -> None:
        """Note images that can't be read."""
        for error in errors:
            if error not in self.skipped:
                log.warning("training image skipped: %s", error)
                self.skipped.append(error)

    def _report(self, done: int, total: int, rate: float) -> None:
        self._training.progress.report(
            f"reading images {done}/{total}, {rate:.0f} img/s, eta {(total - done) / rate:.0f} s"
        )

    def _space(self, spec: NetworkSpec, precision: str) -> str:
        """Return the name of the features' space: a digest of all that they depend on beside the image."""
        backbones = self._training.job.backbones
        described = {
            "schema_version": FEATURES_SCHEMA_VERSION,
            "backbone": backbones[0].digest if len(backbones) == 1 else "",
            "network": spec.to_json(),
            "preprocessing": self.preprocessing.to_json(),
            "precision": precision,
            "dtype": self._training.recipe.feature_dtype,
        }
        if self.body is not None:
            described["body"] = self.body.described
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def _graph(self, spec: NetworkSpec, freeze: str) -> bytes:
        """Return the frozen part of a network of ours as ONNX."""
        pin = next(iter(self._training.job.backbones), None)
        return frozen_onnx(self._training.runtime.store, pin, self.network, freeze, spec)

    @property
    def likeness(self) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
        """Features -> those that near-duplicates are found by; None where the backbones don't tell them."""
        if self.body is not None:
            return self.body.likeness
        spec = self.network.spec
        return spec.last_map_features if spec.tells_near_duplicates else None


@dataclass(frozen=True, slots=True)
class Split:
    """Both sides of a training.

    Attributes:
        whole: the images of both, as those of training.
        note: how they came about, a sentence.
        leaks: near-duplicates (training, validation).
        families: for each validation image its digest, and those of its family where it was dealt out with one.
        named: the family of each image, by path; of ``val/`` as given only those that people named.
    """

    training: Inputs
    validation: Inputs
    whole: Inputs
    note: str
    leaks: list[tuple[Path, Path]]
    families: list[list[str]]
    named: Mapping[Path, str]


def split_images(training: Training, reader: InputReader, dataset: Dataset) -> Split:
    """Return training and validation images: ``val/`` as given, or families dealt out.

    Raises:
        JobRefused: a side is empty, or ``val/`` holds near-duplicates of training images and the job forbids that.
    """
    found, features = _readable(training, reader, dataset)
    places = {image: place for place, image in enumerate(found)}
    train = [image for image in dataset.train if image in places]
    leaks: list[tuple[Path, Path]] = []
    family_of: dict[LabelledImage, list[LabelledImage]] = {}
    dealt_families: list[list[LabelledImage]] = []
    if dataset.validation is not None:
        validation = [image for image in dataset.validation if image in places]
        of_train, of_validation = (
            None if features is None else features.only(np.array([places[image] for image in side], np.int64))
            for side in (train, validation)
        )
        leaks = find_leaks(
            train, validation, train_features=of_train, validation_features=of_validation, digests=reader.digests
        )
        note = _leak_note(dataset, validation, leaks, refused=training.job.fail_on_leak)
    else:
        dealt = split_by_family(
            train,
            fraction=training.recipe.validation_fraction,
            features=features,
            known=dataset.families,
            digests=reader.digests,
            held_before=_held_before(training, reader.digests),
        )
        train, validation = list(dealt.train), list(dealt.validation)
        dealt_families = dealt.families
        family_of = {image: family for family in dealt_families for image in family}
        note = f"{len(dealt.families)} families, none on both sides"
    _refuse_empty(reader, dataset, train, validation)
    whole = reader.read([*train, *validation], training.freeze, reader.repeats)
    kept = set(validation)
    is_held = np.array([image in kept for image in whole.images], bool)  # some can't be decoded
    taken = whole.only(np.flatnonzero(~is_held), whole.views)
    held_out = whole.only(np.flatnonzero(is_held), 1)
    # Without a backbone, images are decoded only now.
    _refuse_empty(reader, dataset, taken.images, held_out.images)
    absent = _absent(dataset, held_out.images)
    notes = [note, f"no image validates {', '.join(absent)}" if absent else "", *dataset.notes]
    families = [
        [reader.digests[member.path] for member in (image, *family_of.get(image, ()))] for image in held_out.images
    ]
    named = {image.path: str(number) for number, family in enumerate(dealt_families) for image in family}
    return Split(taken, held_out, whole, "; ".join(filter(None, notes)), leaks, families, named or dataset.families)


def _held_before(training: Training, digests: Digests) -> dict[str, bool]:
    """Return, by digest, which of these images earlier versions held out: the newest one and that in production."""
    store, name = training.runtime.store, training.job.name
    try:
        known = [store.versions(name)[-1], store.aliases(name).get("production")]
    except StoreError:
        return {}
    before: dict[str, bool] = {}
    for number in filter(None, known):
        if (seen := read_seen(store, store.resolve(f"{name}:{number}"))) is not None:
            before |= dict.fromkeys(seen.trained, False) | dict.fromkeys(seen.answers, True)
    return {digest: before[short(digest)] for digest in digests.values() if short(digest) in before}


def families_of(training: Training, reader: InputReader, dataset: Dataset) -> list[list[LabelledImage]]:
    """Return the images that can be read, by family: those of a class that are near-duplicates, or named so."""
    found, features = _readable(training, reader, dataset)
    return find_families(found, features, dataset.families, reader.digests)


def fold_images(training: Training, reader: InputReader, dataset: Dataset) -> list[tuple[Inputs, Inputs]]:
    """Return (training, validation) of each of the job's folds of all images; families are not parted."""
    count = training.job.folds
    found, features = _readable(training, reader, dataset)
    fold = fold_by_family(
        found,
        folds=count,
        seed=training.recipe.seed,
        features=features,
        known=dataset.families,
        digests=reader.digests,
    )
    inputs = reader.read(found, training.freeze, reader.repeats)
    _refuse_empty(reader, dataset, inputs.images, inputs.images)
    of_image = dict(zip(found, fold, strict=True))
    fold = np.array([of_image[image] for image in inputs.images], np.int64)  # some can't be decoded
    return [
        (inputs.only(np.flatnonzero(fold != number), inputs.views), inputs.only(np.flatnonzero(fold == number), 1))
        for number in range(count)
    ]


def family_numbers(reader: InputReader, dataset: Dataset, inputs: Inputs) -> NDArray[np.int64]:
    """Return the family of each image of ``inputs``, which are of a whole frozen backbone."""
    plain = inputs.only(np.arange(len(inputs.images)), 1).rows
    features = _LastMap(plain, reader.likeness) if reader.likeness is not None else None
    families = find_families(inputs.images, features, dataset.families, reader.digests)
    of_image = {image: number for number, family in enumerate(families) for image in family}
    return np.array([of_image[image] for image in inputs.images], np.int64)


def fold_numbers(training: Training, inputs: Inputs, families: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the fold of each image of ``inputs``; families, by number, are not parted."""
    known = {image.path: str(family) for image, family in zip(inputs.images, families.tolist(), strict=True)}
    return fold_by_family(inputs.images, folds=count, seed=training.recipe.seed, known=known)


def _leak_note(
    dataset: Dataset, validation: list[LabelledImage], leaks: list[tuple[Path, Path]], *, refused: bool
) -> str:
    duplicates = {duplicate: original for original, duplicate in leaks}
    examples = "; ".join(
        f"{duplicate.relative_to(dataset.root)} is like {original.relative_to(dataset.root)}"
        for duplicate, original in list(duplicates.items())[:3]
    )
    val, train = dataset.side_names
    note = f"{val} as given; {len(duplicates)} of its {len(validation)} images have a near-duplicate in {train}"
    if duplicates and refused:
        raise JobRefused(f"{note}: {examples}; take them out of one side, or leave --fail-on-leak away")
    return f"{note}, such as {examples}" if duplicates else note


def _refuse_empty(
    reader: InputReader, dataset: Dataset, train: Sequence[LabelledImage], validation: Sequence[LabelledImage]
) -> None:
    is_dealt = dataset.validation is None
    absent = _absent(dataset, [*train, *validation] if is_dealt else train)
    first = f"; {len(reader.skipped)} can't be read, the first: {reader.skipped[0]}" if reader.skipped else ""
    if is_dealt and not absent and (not validation or _absent(dataset, train)):
        raise JobRefused(
            "the images of each class are one family of near-duplicates, or a single image, so that none can be held "
            f"out to validate with: add other images, or put some into val/ and the rest into train/{first}"
        )
    if absent or not validation:
        what = f"train on in {', '.join(absent)}" if absent else "validate with"
        raise JobRefused(f"no readable image to {what}{first}")


def _absent(dataset: Dataset, images: Sequence[LabelledImage]) -> list[str]:
    """Return the labels of the classes that have none of ``images``."""
    present = {image.class_index for image in images}
    return [info.label for index, info in enumerate(dataset.classes) if index not in present]


def _readable(training: Training, reader: InputReader, dataset: Dataset) -> tuple[list[LabelledImage], _LastMap | None]:
    """Return the readable images and the backbone's plain features of them, if they tell near-duplicates."""
    images = [*dataset.train, *(dataset.validation or ())]
    reader.skip(dataset.unlisted)
    if not training.job.backbones:
        reader.skip(f"{image.path}: it can't be opened" for image in images if image.path not in reader.digests)
        return [image for image in images if image.path in reader.digests], None
    # A cut or whole network is split by the pooled features, too, which cost one pass and stay in the cache.
    inputs = reader.read(images, "backbone")
    return inputs.images, _LastMap(inputs.rows, reader.likeness) if reader.likeness is not None else None


@dataclass(frozen=True, slots=True)
class _LastMap:
    """The last map's features at the scale nearest 1: what the likeness of near-duplicates was measured on."""

    rows: StoredRows
    chosen: Callable[[NDArray[Any]], NDArray[Any]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.chosen(self.rows[chosen])
        return found

    def only(self, chosen: NDArray[np.int64]) -> _LastMap:
        return _LastMap(self.rows.only(chosen), self.chosen)
