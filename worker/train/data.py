"""The images of a training job, dealt into training and validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision.images import Preprocessing
from vision.networks import NetworkSpec
from vision.training import Dataset, Digests, LabelledImage, StoredRows, find_leaks, fold_by_family, split_by_family
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


class TrainingData:
    """Deals out the images of one job, and reads them."""

    def __init__(self, training: Training, network: Any, dataset: Dataset, digests: Digests) -> None:
        self.dataset, self.digests = dataset, digests
        self._training, self._network = training, network
        self._reader = InputReader(training, network, digests)

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to images before the network."""
        return self._reader.preprocessing

    @property
    def skipped(self) -> list[str]:
        """A line for each image that can't be read."""
        return self._reader.skipped

    def close(self) -> None:
        """Free the engines; what was read stays."""
        self._reader.close()

    def split(self, *, fail_on_leak: bool) -> Split:
        """Return training and validation images: ``val/`` as given, or families dealt out.

        Raises:
            JobRefused: a side is empty, or ``fail_on_leak`` and ``val/`` holds near-duplicates of training images.
        """
        given = self.dataset.validation is not None
        found, features = self._readable([*self.dataset.train, *(self.dataset.validation or ())])
        places = {image: place for place, image in enumerate(found)}
        train = [image for image in self.dataset.train if image in places]
        leaks: list[tuple[Path, Path]] = []
        if given:
            validation = [image for image in self.dataset.validation or () if image in places]
            sides = [_rows_of(features, [places[image] for image in side]) for side in (train, validation)]
            leaks = find_leaks(
                train, validation, train_features=sides[0], validation_features=sides[1], digests=self.digests
            )
            note = self._leak_note(validation, leaks, fail_on_leak)
        else:
            dealt = split_by_family(
                train,
                fraction=self._training.recipe.validation_fraction,
                seed=self._training.recipe.seed,
                features=features,
                known=self.dataset.families,
                digests=self.digests,
            )
            train, validation = list(dealt.train), list(dealt.validation)
            note = f"{dealt.families} families, none on both sides"
        self._refuse_empty(train, validation)
        with self._reader.opened(self._training.freeze) as read:
            return Split(read(train, self._reader.repeats), read(validation, 0), note, leaks)

    def folds(self, count: int) -> list[tuple[Inputs, Inputs]]:
        """Return (training, validation) of each fold of all images; families are not parted."""
        found, features = self._readable([*self.dataset.train, *(self.dataset.validation or ())])
        fold = fold_by_family(
            found,
            folds=count,
            seed=self._training.recipe.seed,
            features=features,
            known=self.dataset.families,
            digests=self.digests,
        )
        with self._reader.opened(self._training.freeze) as read:
            all_inputs = read(found, self._reader.repeats)
        return [
            (
                all_inputs.only(np.flatnonzero(fold != number), all_inputs.views),
                all_inputs.only(np.flatnonzero(fold == number), 1),
            )
            for number in range(count)
        ]

    def _leak_note(self, validation: list[LabelledImage], leaks: list[tuple[Path, Path]], fail: bool) -> str:
        duplicates = {duplicate: original for original, duplicate in leaks}
        examples = "; ".join(
            f"{duplicate.relative_to(self.dataset.root)} is like {original.relative_to(self.dataset.root)}"
            for duplicate, original in list(duplicates.items())[:3]
        )
        note = f"val/ as given; {len(duplicates)} of its {len(validation)} images have a near-duplicate in train/"
        if duplicates and fail:
            raise JobRefused(f"{note}: {examples}; take them out of one side, or leave --fail-on-leak away")
        return f"{note}, such as {examples}" if duplicates else note

    def _refuse_empty(self, train: Sequence[LabelledImage], validation: Sequence[LabelledImage]) -> None:
        present = {image.class_index for image in train}
        absent = [info.label for index, info in enumerate(self.dataset.classes) if index not in present]
        if absent or not validation:
            first = f"; the first that can't be read: {self._reader.skipped[0]}" if self._reader.skipped else ""
            what = f"train on in {', '.join(absent)}" if absent else "validate with"
            raise JobRefused(f"no readable image to {what}{first}")

    def _readable(self, images: Sequence[LabelledImage]) -> tuple[list[LabelledImage], _LastMap | None]:
        """Return the readable images and the backbone's plain features of them, by which near-duplicates are found."""
        if self._training.job.backbone is None:
            missing = [image.path for image in images if image.path not in self.digests]
            self._reader.skip([f"{path}: it can't be opened" for path in missing])
            return [image for image in images if image.path in self.digests], None
        # A cut or whole network is split by the pooled features, too, which cost one pass and stay in the cache.
        with self._reader.opened("backbone") as read:
            inputs = read(images, 0)
        return inputs.images, _LastMap(inputs.rows, self._network.spec)


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
