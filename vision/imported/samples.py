"""Images with the answers of the user's own framework, which an import must give as well: the proof of its facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from base.errors import ImageError
from base.text_files import read_table
from vision.images import CutAt, Pixels, Preprocessing, ResizeFit, load_image
from vision.imported.description import LOGITS, PROBABILITIES, Description, ImportRefused
from vision.imported.reference import Outputs, Reference
from vision.imported.sources import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD

TIE: Final = 1e-6  # two probabilities that are equal but for rounding: either label is the best
MAX_SAMPLES: Final = 10_000
TRIED: Final = 24  # samples that other facts are tried with
AT_ONCE: Final = 32  # images loaded at a time
USUAL_FILTERS: Final = (
    "bilinear", "bicubic", "lanczos", "nearest", "torch-nearest", "torch-bilinear", "torch-bicubic",
    "torch-lanczos", "opencv-linear", "openvino-linear",
)  # fmt: skip
MUCH_BETTER: Final = 0.5  # a mistake is named where it halves the difference from the samples


@dataclass(frozen=True, slots=True)
class Samples:
    """Images and what another framework answers.

    Attributes:
        paths: of the images.
        labels: the best class of each, as an index.
        expected: float32 (N, classes), NaN where the file says nothing.
    """

    paths: list[Path]
    labels: NDArray[np.int64]
    expected: Outputs

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many samples get the same best label, and the largest difference of a probability."""

    same: int
    images: int
    difference: float

    def __str__(self) -> str:
        return f"{self.same} of {self.images} labels equal, probabilities within {self.difference:.2g}"


def read_samples(file: Path, labels: list[str]) -> Samples:
    """Return the samples of a CSV: ``path,label,confidence``, or ``path`` and a column of probabilities a label.

    Paths are relative to the file's folder.

    Raises:
        ImportRefused: a column or label is unknown, or a line has no number; it is named.
        TextError: the file is no text.
    """
    header, rows = read_table(file, numbered=True)
    index = {label: number for number, label in enumerate(labels)}
    whole = all(label in header for label in labels)
    if "path" not in header or not (whole or {"label", "confidence"} <= set(header)):
        raise ImportRefused(f"{file.name} needs columns path, label and confidence, or path and one for every label")
    if not 1 <= len(rows) <= MAX_SAMPLES:
        raise ImportRefused(f"{file.name} has {len(rows):,} samples; 1 to {MAX_SAMPLES:,} are compared")
    expected = np.full((len(rows), len(labels)), np.nan, np.float32)
    for position, (line, cells) in enumerate(rows):
        try:
            if whole:
                expected[position] = [float(cells[label]) for label in labels]
            else:
                expected[position, index[cells["label"]]] = float(cells["confidence"])
            cells["path"]
        except (KeyError, ValueError) as error:
            raise ImportRefused(
                f"{file.name}, line {line}: {error} is no label of the network, or no number"
            ) from error
    if not np.isfinite(expected).any(axis=1).all():
        raise ImportRefused(f"{file.name} holds probabilities that are not finite")
    paths = [file.parent / cells["path"] for _, cells in rows]
    return Samples(paths, np.nanargmax(expected, axis=1), expected)


def check_samples(samples: Samples, reference: Reference, tolerance: float) -> str:
    """Return how the original graph agrees with the samples, as a line for people.

    Raises:
        ImportRefused: a best label differs, or a probability by more than ``tolerance``; with the likeliest mistake.
    """
    found = compare(samples, reference, reference.facts)
    if found.same == found.images and found.difference <= tolerance:
        return f"check: {found}"
    cause = likeliest_mistake(samples, reference, reference.facts)
    raise ImportRefused(f"the samples are answered differently: {found} (allowed {tolerance:g}); {cause}")


def compare(samples: Samples, reference: Reference, facts: Description) -> Agreement:
    """Return how the original graph, fed as ``facts`` say, agrees with the samples.

    Raises:
        ImportRefused: an image can't be read.
    """
    batches = _loaded(samples.paths, preprocessing_of(facts))
    return _agreement(samples, np.concatenate([reference.probabilities(images, facts) for images in batches]))


def _agreement(samples: Samples, given: Outputs) -> Agreement:
    """Return how answers agree with the first samples."""
    expected, labels = samples.expected[: len(given)], samples.labels[: len(given)]
    same = int((given[np.arange(len(given)), labels] >= given.max(axis=1) - TIE).sum())
    return Agreement(same, len(given), float(np.nanmax(np.abs(given - expected))))


def likeliest_mistake(samples: Samples, reference: Reference, facts: Description) -> str:
    """Return which other facts agree with the samples much better, as a sentence, or that none does."""

    @lru_cache(maxsize=1)  # most of the time goes into files, and mistakes that load alike come one after the other
    def pixels(how: Preprocessing) -> Pixels:
        return np.concatenate(list(_loaded(samples.paths[:TRIED], how)))

    def answers(facts: Description) -> Outputs:
        return reference.probabilities(pixels(preprocessing_of(facts)), facts)

    given = answers(facts)
    base = _agreement(samples, given)
    best, cause = base, ""
    for change, other in _usual_mistakes(facts):
        agreement = _agreement(samples, answers(other))
        if (agreement.same, -agreement.difference) > (best.same, -best.difference):
            best, cause = agreement, f"with --preprocess {change}"
    for shift in (1, -1):
        agreement = _agreement(samples, np.roll(given, shift, axis=1))
        if agreement.same > best.same:
            best, cause = agreement, "the labels are shifted by one: with each moved by one place"
    if not cause or (best.same == base.same and best.difference > MUCH_BETTER * base.difference):
        return "none of the usual mistakes explains it"
    return f"likeliest cause: {cause}, {best}"


def preprocessing_of(facts: Description) -> Preprocessing:
    """Return the preprocessing that facts add up to."""
    height, width = facts.get("size")
    return Preprocessing(height_px=height, width_px=width, resize=facts.resize())


def _loaded(paths: list[Path], preprocessing: Preprocessing) -> Iterator[Pixels]:
    for start in range(0, len(paths), AT_ONCE):
        images = []
        for path in paths[start : start + AT_ONCE]:
            try:
                images.append(load_image(path, preprocessing).pixels)
            except ImageError as error:
                raise ImportRefused(f"the sample {path} can't be read: {error}") from error
        yield np.stack(images)


def _usual_mistakes(facts: Description) -> Iterator[tuple[str, Description]]:
    """Yield the facts with one of them changed, and the change as a user would say it."""
    height, width = facts.get("size")
    whole, part = min(height, width), int(min(height, width) / 0.875)
    scalings: dict[str, dict[str, Any]] = {
        "scale=1/255 mean=0.485,0.456,0.406 std=0.229,0.224,0.225": {
            "scale": 1 / 255,
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
        },
        "scale=1/255 mean=0 std=1": {"scale": 1 / 255, "mean": 0.0, "std": 1.0},
        "scale=1/127.5 mean=1 std=1": {"scale": 1 / 127.5, "mean": 1.0, "std": 1.0},
        "scale=1 mean=0 std=1": {"scale": 1.0, "mean": 0.0, "std": 1.0},
        "scale=1/255 and CLIP's mean and std": {"scale": 1 / 255, "mean": CLIP_MEAN, "std": CLIP_STD},
    }
    resizings: dict[str, dict[str, Any]] = {
        f"resize={whole}": {"resize": whole},
        f"resize={part}": {"resize": part},
        **{
            f"resize={height}x{width}" + (f" fit={fit}" if fit != "stretch" else ""): {
                "resize": (height, width),
                "fit": fit,
            }
            for fit in get_args(ResizeFit)
        },
        **{f"filter={name}": {"filter": name} for name in USUAL_FILTERS},
        **{f"cut_at={place}": {"cut_at": place} for place in get_args(CutAt)},
    }
    colours = "RGB" if facts.get("colours") == "BGR" else "BGR"
    outputs = PROBABILITIES if facts.get("outputs") == LOGITS else LOGITS
    others: dict[str, dict[str, Any]] = {
        f"colours={colours}": {"colours": colours},
        f"outputs={outputs}": {"outputs": outputs},
    }
    single = {**scalings, **resizings, **others}
    pairs = {f"{a} and {b}": {**x, **y} for b, y in resizings.items() for a, x in {**scalings, **others}.items()}
    for change, values in {**single, **pairs}.items():
        yield change, Description(dict(facts.facts)).state("tried", **values)
