"""Several datasets become one: the photos that a model began with, and what people have corrected since.

The same image, by its bytes, has the label of the last source that names it. It stays where it was: its path, and its
side of a split, so that a corrected validation image goes on validating.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from vision.training.dataset import ClassInfo, Dataset, DatasetError, LabelledImage

NAMED: Final = 5  # images that a note names


@dataclass(slots=True)
class _Entry:
    path: Path
    label: str
    is_held: bool  # for validation


def combine(sources: Sequence[Dataset], digests: Mapping[Path, str]) -> Dataset:
    """Return the images of all sources; notes say where they contradict each other, and what was passed over.

    Args:
        digests: sha256 of each file of `paths_of` that can be read.

    Raises:
        DatasetError: fewer than two classes are left.
    """
    first, *later = sources
    if not later:
        return _as_it_is(first, digests)
    together = _Together(digests)
    for number, source in enumerate(sources):
        together.add(source, is_first=not number)
    return together.dataset(sources)


def paths_of(sources: Sequence[Dataset]) -> Iterator[Path]:
    """Yield the files whose digests `combine` needs."""
    for source in sources:
        yield from (image.path for image in (*source.train, *(source.validation or ())))
        yield from source.rejected


class _Together:
    """The images so far, by their bytes; those that can't be read by their path."""

    def __init__(self, digests: Mapping[Path, str]) -> None:
        self._digests = digests
        self._entries: dict[str, list[_Entry]] = defaultdict(list)
        self._conflicts: list[str] = []
        self._rejected: list[str] = []
        self._stale: list[str] = []

    def add(self, source: Dataset, *, is_first: bool) -> None:
        held = set(source.validation or ())
        for image in (*source.train, *(source.validation or ())):
            label = source.classes[image.class_index].label
            key = self._key(image.path, source.expected.get(image.path, ""))
            if key is None:
                self._stale.append(image.path.name)
            elif is_first or key not in self._entries:
                self._entries[key].append(_Entry(image.path, label, image in held))
            else:
                self._relabel(key, label)
        for path, digest in source.rejected.items():
            key = self._key(path, digest)
            if key is None:
                self._stale.append(path.name)
            elif self._entries.pop(key, []):
                self._rejected.append(path.name)

    def _key(self, path: Path, expected: str) -> str | None:
        """Return what names an image; None where the bytes that it was decided about are nowhere."""
        digest = self._digests.get(path)
        if not expected or digest == expected:
            return digest or str(path)
        return expected if expected in self._entries else None

    def _relabel(self, key: str, label: str) -> None:
        for entry in self._entries[key]:
            if entry.label != label:
                self._conflicts.append(f"{entry.path.name} ({label}, was {entry.label})")
                entry.label = label

    def dataset(self, sources: Sequence[Dataset]) -> Dataset:
        entries = [entry for entries in self._entries.values() for entry in entries]
        classes = self._classes(sources, {entry.label for entry in entries})
        index = {info.label: number for number, info in enumerate(classes)}

        def side(is_held: bool) -> tuple[LabelledImage, ...]:
            images = (LabelledImage(entry.path, index[entry.label]) for entry in entries if entry.is_held == is_held)
            return tuple(sorted(images, key=lambda image: (image.class_index, image.path)))

        held = side(True)
        return Dataset(
            root=Path(os.path.commonpath([sources[0].root, *(entry.path for entry in entries)])),
            classes=classes,
            train=side(False),
            validation=held or None,
            families={path: family for source in sources for path, family in source.families.items()},
            unlisted=tuple(line for source in sources for line in source.unlisted),
            notes=tuple([note for source in sources for note in source.notes] + list(self._notes())),
        )

    def _classes(self, sources: Sequence[Dataset], used: set[str]) -> tuple[ClassInfo, ...]:
        known = {info.label: info for source in reversed(sources) for info in source.classes}
        order = dict.fromkeys(info.label for source in sources for info in source.classes)
        classes = tuple(known[label] for label in order if label in used)
        if len(classes) < 2:
            raise DatasetError(f"{len(classes)} classes are left of all sources; a classifier needs two")
        return classes

    def _notes(self) -> Iterator[str]:
        for what, names in (
            ("another label in a later source", self._conflicts),
            ("not usable, left out", self._rejected),
            ("corrected, but changed since or gone, passed over", self._stale),
        ):
            if names:
                more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
                yield f"{what}: {len(names):,}, {', '.join(names[:NAMED])}{more}"


def _as_it_is(source: Dataset, digests: Mapping[Path, str]) -> Dataset:
    """Return a dataset that stands alone, without the images that are other ones by now than its table is about."""
    stale = {path for path, digest in source.expected.items() if digests.get(path, digest) != digest}
    if not stale:
        return source
    kept = [None if side is None else tuple(image for image in side if image.path not in stale)
            for side in (source.train, source.validation)]  # fmt: skip
    note = f"changed since the table was made, passed over: {len(stale):,}, "
    names = ", ".join(sorted(path.name for path in stale)[:NAMED])
    return replace(source, train=kept[0] or (), validation=kept[1], notes=(*source.notes, note + names))
