"""The images of a training job, dealt into training and validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vision.networks import NetworkSpec
from vision.training import Dataset, LabelledImage, StoredRows, find_leaks, fold_by_family, split_by_family
from worker.errors import JobRefused
from worker.train.reading import InputReader, Inputs
from worker.train.training import Training


@dataclass(frozen=True, slots=True)
class Split:
    """Both sides of a training, how they came about, and pairs (training, validation) of near-duplicates."""

    training: Inputs
    validation: Inputs
    note: str
    leaks: list[tuple[Path, Path]]


def split_images(training: Training, reader: InputReader, dataset: Dataset) -> Split:
    """Return training and validation images: ``val/`` as given, or families dealt out.

    Raises:
        JobRefused: a side is empty, or ``val/`` holds near-duplicates of training images and the job forbids that.
    """
    found, features = _readable(training, reader, dataset)
    places = {image: place for place, image in enumerate(found)}
    train = [image for image in dataset.train if image in places]
    leaks: list[tuple[Path, Path]] = []
    if dataset.validation is not None:
        validation = [image for image in dataset.validation if image in places]
        sides = [_rows_of(features, [places[image] for image in side]) for side in (train, validation)]
        leaks = find_leaks(
            train, validation, train_features=sides[0], validation_features=sides[1], digests=reader.digests
        )
        note = _leak_note(dataset, validation, leaks, refused=training.job.fail_on_leak)
    else:
        dealt = split_by_family(
            train,
            fraction=training.recipe.validation_fraction,
            seed=training.recipe.seed,
            features=features,
            known=dataset.families,
            digests=reader.digests,
        )
        train, validation = list(dealt.train), list(dealt.validation)
        note = f"{dealt.families} families, none on both sides"
    _refuse_empty(reader, dataset, train, validation)
    with reader.opened(training.freeze) as read:
        split = Split(read(train, reader.repeats), read(validation, 0), "", leaks)
    # Without a backbone, images are decoded only now.
    _refuse_empty(reader, dataset, split.training.images, split.validation.images)
    absent = _absent(dataset, split.validation.images)
    notes = [note, f"no image validates {', '.join(absent)}" if absent else "", *dataset.notes]
    return replace(split, note="; ".join(filter(None, notes)))


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
    with reader.opened(training.freeze) as read:
        inputs = read(found, reader.repeats)
    _refuse_empty(reader, dataset, inputs.images, inputs.images)
    of_image = dict(zip(found, fold, strict=True))
    fold = np.array([of_image[image] for image in inputs.images], np.int64)  # some can't be decoded
    return [
        (inputs.only(np.flatnonzero(fold != number), inputs.views), inputs.only(np.flatnonzero(fold == number), 1))
        for number in range(count)
    ]


def _leak_note(
    dataset: Dataset, validation: list[LabelledImage], leaks: list[tuple[Path, Path]], *, refused: bool
) -> str:
    duplicates = {duplicate: original for original, duplicate in leaks}
    examples = "; ".join(
        f"{duplicate.relative_to(dataset.root)} is like {original.relative_to(dataset.root)}"
        for duplicate, original in list(duplicates.items())[:3]
    )
    val, train = (side[0].path.relative_to(dataset.root).parts[0] for side in (dataset.validation or (), dataset.train))
    note = f"{val}/ as given; {len(duplicates)} of its {len(validation)} images have a near-duplicate in {train}/"
    if duplicates and refused:
        raise JobRefused(f"{note}: {examples}; take them out of one side, or leave --fail-on-leak away")
    return f"{note}, such as {examples}" if duplicates else note


def _refuse_empty(
    reader: InputReader, dataset: Dataset, train: Sequence[LabelledImage], validation: Sequence[LabelledImage]
) -> None:
    absent = _absent(dataset, train)
    if train and not absent and not validation and dataset.validation is None and not reader.skipped:
        raise JobRefused(
            "the images of each class are one family of near-duplicates, or a single image, so that none can be held "
            "out to validate with: add other images, or put some into val/ and the rest into train/"
        )
    if absent or not validation:
        first = f"; the first that can't be read: {reader.skipped[0]}" if reader.skipped else ""
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
    if training.job.backbone is None:
        missing = [image.path for image in images if image.path not in reader.digests]
        reader.skip([f"{path}: it can't be opened" for path in missing])
        return [image for image in images if image.path in reader.digests], None
    # A cut or whole network is split by the pooled features, too, which cost one pass and stay in the cache.
    with reader.opened("backbone") as read:
        inputs = read(images, 0)
    spec = reader.network.spec
    return inputs.images, _LastMap(inputs.rows, spec) if spec.tells_near_duplicates else None


@dataclass(frozen=True, slots=True)
class _LastMap:
    """The last map's features at the scale nearest 1: what the likeness of near-duplicates was measured on."""

    rows: StoredRows
    spec: NetworkSpec

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.spec.last_map_features(self.rows[chosen])
        return found


def _rows_of(features: _LastMap | None, places: list[int]) -> _LastMap | None:
    return None if features is None else _LastMap(features.rows.only(np.array(places, np.int64)), features.spec)
