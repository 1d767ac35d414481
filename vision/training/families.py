"""Families: images of one class that are duplicates or near-duplicates, and splits that keep them together.

Datasets gathered from the web or enlarged by augmentation hold one picture many times. Split image by image, such
duplicates land on both sides, and by this data leakage the validation score measures memory. So families are split as
wholes.

Two images of a class are related when their files are equal, when the 64-bit perceptual hashes of the one and of the
other or its mirror image differ in at most `NEAR_BITS` bits, or, where the caller has a backbone's features of them,
when the cosine of the features is at least `NEAR_COSINE`. A family is whatever is linked by a chain of relations.

The hash finds recompressed, rescaled and recoloured duplicates. Turned, zoomed and shifted ones are found by features
only: pass them wherever there is a backbone.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from base.errors import ImageError
from base.process import available_cpus
from vision.images import Preprocessing, load_image
from vision.training.dataset import DatasetError, LabelledImage, file_digests

NEAR_BITS = 8  # of 64; recompressed and rescaled duplicates stay below, unrelated pictures of one class lie around 32
# Of pooled MobileNetV2 features. Held to families found with care in 1,811 web photos, a split at 0.75 leaves 6 % of
# its validation photos a relative in training; one at 0.79 21 %, one by hash alone 78 %, one by photo 81 %. Of
# EfficientNet-Lite1's it leaves 6 % of all 2,067 photos', at 0.7 2 % and at 0.79 17 %.
NEAR_COSINE = 0.75
_HASHED = Preprocessing(height_px=32, width_px=32)
_HASHED_TOGETHER = 16  # by a thread, which would else be woken for each image of 0.2 ms
_ROWS = 1024  # images compared with all others at a time: 1024 x 10,000 distances are 40 MB


class Features(Protocol):
    """A backbone's features of images, a row each; read when asked for, so they may lie on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: NDArray[np.int64], /) -> NDArray[np.float32]: ...


class _Fingerprints(NamedTuple):
    """What images are compared by, a row each: sha256 or "", hashes int8 (N, 2, 64), features."""

    digests: list[str]
    hashes: NDArray[np.int8]
    features: Features | None


class FamilySplit(NamedTuple):
    """Training and validation images in the order they came, and the families that they form."""

    train: tuple[LabelledImage, ...]
    validation: tuple[LabelledImage, ...]
    families: list[list[LabelledImage]]


def split_by_family(
    images: Sequence[LabelledImage],
    *,
    fraction: float,
    features: Features | None = None,
    known: Mapping[Path, str] | None = None,
    digests: Mapping[Path, str] | None = None,
    held_before: Mapping[str, bool] | None = None,
) -> FamilySplit:
    """Deal out whole families class by class: about ``fraction`` of each class to validation, the rest to training.

    The bytes of the images decide, so that names, order and other classes don't matter. Every class keeps training
    images; a class of a single family has no validation images. An image that can't be decoded is related to its
    byte-identical duplicates only: reading it for training reports it.

    Args:
        images: each file once.
        fraction: above 0 and below 1.
        features: (N, D), a backbone's pooled features of the images in their order, or None.
        known, digests: as `find_families` takes them.
        held_before: by digest, whether an earlier split held an image out. Its family stays on that side; one that was
            on both goes to training.

    Raises:
        DatasetError: ``fraction`` is out of range, or the number of features is not that of the images.
    """
    if not 0 < fraction < 1:
        raise DatasetError(f"the validation fraction is {fraction}; it must lie between 0 and 1, such as 0.15")
    if digests is None:
        digests = file_digests([image.path for image in images])
    families = find_families(images, features, known, digests)
    by_class: dict[int, list[_Dealable]] = defaultdict(list)
    for family in families:
        of_members = sorted(digests.get(image.path, str(image.path)) for image in family)
        sides = {held_before[digest] for digest in of_members if digest in held_before} if held_before else set()
        # Of digests alone the least would often be of a large family.
        order = hashlib.sha256(of_members[0].encode()).hexdigest()
        by_class[family[0].class_index].append(_Dealable(order, family, all(sides) if sides else None))
    held = {image for members in by_class.values() for image in _dealt(sorted(members), fraction)}
    return FamilySplit(
        train=tuple(image for image in images if image not in held),
        validation=tuple(image for image in images if image in held),
        families=families,
    )


def fold_by_family(
    images: Sequence[LabelledImage],
    *,
    folds: int,
    seed: int,
    features: Features | None = None,
    known: Mapping[Path, str] | None = None,
    digests: Mapping[Path, str] | None = None,
) -> NDArray[np.int64]:
    """Return the fold of each image, 0 to ``folds`` - 1; a family lies in one fold.

    Class by class the shuffled families go, the largest first, to the fold that has fewest images of the class so far.

    Raises:
        DatasetError: there are fewer images or families than folds, or the number of features is not that of the
            images.
    """
    if not 2 <= folds <= len(images):
        raise DatasetError(f"{folds} folds of {len(images)} images; take from 2 folds to as many as there are images")
    found = np.zeros(len(images), np.int64)
    place = {image: position for position, image in enumerate(images)}
    families = find_families(images, features, known, digests)
    if len(families) < folds:
        raise DatasetError(f"{folds} folds of {len(families)} families of images; take at most as many as families")
    total = np.zeros(folds, np.int64)
    for members in _shuffled(families, seed):
        counts = np.zeros(folds, np.int64)
        for family in sorted(members, key=len, reverse=True):
            fold = min(range(folds), key=lambda number: (counts[number], total[number], number))
            counts[fold] += len(family)
            total[fold] += len(family)
            found[[place[image] for image in family]] = fold
    return found


def find_families(
    images: Sequence[LabelledImage],
    features: Features | None = None,
    known: Mapping[Path, str] | None = None,
    digests: Mapping[Path, str] | None = None,
) -> list[list[LabelledImage]]:
    """Return the families, each sorted by class and path, sorted by their first images; singles are families of one.

    ``known`` names families by hand; where it names all images, nothing else is looked at. ``digests`` are those of
    `file_digests`, where the caller has them already.
    """
    known = known or {}
    parent = list(range(len(images)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    first: dict[tuple[int, str], int] = {}
    for place, image in enumerate(images):
        if (name := known.get(image.path)) is not None:
            parent[root(place)] = root(first.setdefault((image.class_index, name), place))
    if len(known.keys() & {image.path for image in images}) < len(images):
        for one, other in _related(images, images, features, features, digests):
            parent[root(other)] = root(one)
    families: dict[int, list[LabelledImage]] = defaultdict(list)
    for place, image in enumerate(images):
        families[root(place)].append(image)
    return sorted(sorted(family) for family in families.values())


def find_leaks(
    train: Sequence[LabelledImage],
    validation: Sequence[LabelledImage],
    *,
    train_features: Features | None = None,
    validation_features: Features | None = None,
    digests: Mapping[Path, str] | None = None,
) -> list[tuple[Path, Path]]:
    """Return the pairs (training path, validation path) that are related, sorted: data leakage."""
    pairs = set(_related(train, validation, train_features, validation_features, digests))
    return sorted((train[one].path, validation[other].path) for one, other in pairs)


def _shuffled(families: list[list[LabelledImage]], seed: int) -> Iterator[list[list[LabelledImage]]]:
    """Yield the families of each class in a random order that other classes have no part in."""
    by_class: dict[int, list[list[LabelledImage]]] = defaultdict(list)
    for family in families:
        by_class[family[0].class_index].append(family)
    for class_index, members in sorted(by_class.items()):
        order = np.random.default_rng([seed, class_index]).permutation(len(members))
        yield [members[place] for place in order]


class _Dealable(NamedTuple):
    """A family, its place in the order of dealing, and whether it was held out before; None for a new one."""

    order: str
    members: list[LabelledImage]
    held_before: bool | None


def _dealt(families: list[_Dealable], fraction: float) -> list[LabelledImage]:
    """Return the validation images of one class: what was held out before, then families in order while they fit."""
    total = sum(len(family.members) for family in families)
    wanted = max(1, round(total * fraction))
    held: list[LabelledImage] = []
    for family in sorted(families, key=lambda family: not family.held_before):
        size = len(held) + len(family.members)
        if size < total and (family.held_before or (family.held_before is None and size <= wanted)):
            held += family.members
    smallest = min((family.members for family in families if family.held_before is None), key=len, default=[])
    # Nothing fits where every family is large. One too many is better than none, unless training lost most by it.
    if not held and len(smallest) * 2 <= total:
        held += smallest
    return held


def _related(
    left: Sequence[LabelledImage],
    right: Sequence[LabelledImage],
    left_features: Features | None,
    right_features: Features | None,
    digests: Mapping[Path, str] | None,
) -> Iterator[tuple[int, int]]:
    """Yield pairs of places (in left, in right) of related images of one class, some of them more than once."""
    own = _fingerprints(left, left_features, digests)
    others = own if right is left else _fingerprints(right, right_features, digests)
    classes = [np.array([image.class_index for image in images], np.int64) for images in (left, right)]
    for class_index in np.unique(classes[0]):
        ours, theirs = (np.flatnonzero(of == class_index) for of in classes)
        duplicates: dict[str, list[int]] = defaultdict(list)
        for place in theirs:
            duplicates[others.digests[place]].append(int(place))
        yield from ((int(place), other) for place in ours for other in duplicates[own.digests[place]])
        # Of hashes as +1 and -1 the product is 64 less twice the bits that differ; BLAS does that fastest.
        for turned in (0, 1):
            left_hashes, right_hashes = own.hashes[ours, 0], others.hashes[theirs, turned]
            least = 64 - 2 * NEAR_BITS
            for one, other in _alike(left_hashes.astype(np.float32), right_hashes.astype(np.float32), least):
                yield int(ours[one]), int(theirs[other])
        if own.features is not None and others.features is not None:
            for one, other in _alike(_unit(own.features[ours]), _unit(others.features[theirs]), NEAR_COSINE):
                yield int(ours[one]), int(theirs[other])


def _alike(left: NDArray[np.float32], right: NDArray[np.float32], least: float) -> Iterator[tuple[int, int]]:
    """Yield the places of rows whose product is at least ``least``."""
    for start in range(0, len(left), _ROWS):
        for one, other in np.argwhere(left[start : start + _ROWS] @ right.T >= least):
            yield start + int(one), int(other)


def _unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _fingerprints(
    images: Sequence[LabelledImage], features: Features | None, digests: Mapping[Path, str] | None
) -> _Fingerprints:
    if features is not None and len(features) != len(images):
        raise DatasetError(f"features of {len(features)} images for {len(images)} images; pass one row an image")
    paths = [image.path for image in images]
    if digests is None:
        digests = file_digests(paths)
    return _Fingerprints([digests.get(path, f"unreadable {path}") for path in paths], _hashes(paths), features)


def _hashes(paths: Sequence[Path]) -> NDArray[np.int8]:
    """Return (N, 2, 64) of +1 and -1: each image's hash and its mirror image's; zeros where it can't be decoded."""
    groups = [paths[start : start + _HASHED_TOGETHER] for start in range(0, len(paths), _HASHED_TOGETHER)]
    with ThreadPoolExecutor(available_cpus()) as pool:
        lows = [low for group in pool.map(lambda group: [*map(_low_frequencies, group)], groups) for low in group]
    hashes = np.zeros((len(paths), 2, 64), np.int8)  # likeness 0 to everything: related to nothing
    if decoded := {place: low for place, low in enumerate(lows) if low is not None}:
        # Above or below the median, found for all at once: one by one it would hold up the threads that decode.
        found = np.stack([*decoded.values()])
        hashes[[*decoded]] = np.where(found > np.median(found, axis=2, keepdims=True), 1, -1)
    return hashes


def _low_frequencies(path: Path) -> NDArray[np.float32] | None:
    """Return (2, 64) of the cosine transform of an image and its mirror image: what survives recompression."""
    try:
        pixels = load_image(path, _HASHED).pixels
    except ImageError:
        return None
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.stack([cv2.dct(side)[:8, :8].ravel() for side in (grey, np.ascontiguousarray(grey[:, ::-1]))])
