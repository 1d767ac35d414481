"""Which images of a labelled folder look wrongly labelled: networks that have not seen them say so.

Confident learning (Northcutt et al. 2021, section 3): an image is suspicious when an out-of-fold network gives another
class at least the probability that images of that class get on average. All are ranked by the margin between their own
label and the best other one.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import mindspore
import numpy as np
from numpy.typing import NDArray

from base.errors import ImageError
from base.paths import path_to_text
from base.process import available_cpus
from jobs import Finding
from vision.images import ImageLimits, Quality, quality_of
from vision.training import Dataset, LabelledImage, embed, fit_temperature, outlier_scores, softmax
from worker.train.images import InputReader, families_of, fold_images
from worker.train.network import fit_network, with_new_head
from worker.train.training import Training

SENT_AT_ONCE = 1000
MOST_SENT = 20_000  # of the findings, the most suspicious first: 8 MB, and 14 MB of embeddings
DIGITS = 4  # of probabilities
NAMED = 5  # classes


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """The images of an audit and what was found of each, in one order.

    Attributes:
        labels: (N,) class indices as given.
        probabilities: (N, classes), by networks that have not seen the image or its family.
        families: (N,), a number a family.
        judged: bool (N,), whether those networks have seen other images of the class at all.
        embeddings: (N, D); None without a backbone.
        outliers: (N,); None likewise.
    """

    images: list[LabelledImage]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    families: NDArray[np.int64]
    judged: NDArray[np.bool_]
    qualities: list[Quality]
    embeddings: NDArray[np.float32] | None
    outliers: NDArray[np.float32] | None


def audit(training: Training, reader: InputReader, dataset: Dataset) -> str:
    """Label all images by networks that have not seen them or their families, and report findings; return a sentence.

    The findings go out as events of the job, the most suspicious first.
    """
    found = _audited(training, reader, dataset)
    order = most_suspicious_first(found)
    findings = list(
        findings_of(dataset, found, order, reader.digests, os.path.realpath(str(training.runtime.data_root)))
    )
    sent = order[:MOST_SENT]
    for start in range(0, len(sent), SENT_AT_ONCE):
        some = findings[start : min(start + SENT_AT_ONCE, MOST_SENT)]
        vectors: list[str] = []
        if training.job.embeddings and found.embeddings is not None:
            rows = found.embeddings[sent[start : start + SENT_AT_ONCE]].astype("<f2")
            vectors = [b64encode(row.tobytes()).decode() for row in rows]
        text = f"findings {start + 1} to {start + len(some)} of {len(findings)}"
        training.progress.report_findings(text, some, vectors)
    suspicious = sum(finding.suspicious for finding in findings)
    judged = int(found.judged.sum())
    left = len(findings) - judged
    right = sum(finding.label == finding.suggested for finding in findings) - left
    said = []
    if judged:
        said.append(f"{suspicious:,} of {judged:,} labels look wrong; out of fold, {right / judged:.1%} are as given")
    if left:
        alone = sorted({dataset.classes[index].label for index in found.labels[~found.judged].tolist()})
        more = f" and {len(alone) - NAMED} more" if len(alone) > NAMED else ""
        said.append(
            f"{left:,} labels can't be judged, since all images of their class are near-duplicates of each other: "
            f"{', '.join(alone[:NAMED])}{more}"
        )
    return "; ".join(said)


def _audited(training: Training, reader: InputReader, dataset: Dataset) -> Audited:
    images: list[LabelledImage] = []
    parts: list[NDArray[np.float64]] = []
    embeddings = None
    with closing(reader):
        with training.progress.phase("features"):
            families = families_of(training, reader, dataset)
            number_of = {image: number for number, family in enumerate(families) for image in family}
            named = {image.path: str(number) for image, number in number_of.items()}
            folds = fold_images(training, reader, replace(dataset, families=named))
        with training.progress.phase("train"):
            for number, (inputs, held_out) in enumerate(folds, start=1):
                mindspore.set_seed(training.recipe.seed)
                fresh = with_new_head(training, reader.network, len(inputs.images))
                fitted = fit_network(training, fresh, inputs, held_out, f"fold {number}/{len(folds)}, ")
                training.remove_checkpoints()
                images += held_out.images
                parts.append(fitted.logits)
        if training.job.backbones:
            embeddings = embed(reader.read(images, "backbone").rows)  # from the cache
    with training.progress.phase("quality"), ThreadPoolExecutor(available_cpus()) as pool:
        limits = training.runtime.limits
        qualities = list(pool.map(lambda image: _quality(image.path, limits), images))
    labels, logits = np.array([image.class_index for image in images], np.int64), np.concatenate(parts)
    of_family = np.array([number_of[image] for image in images], np.int64)
    fold = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    alone = [index for index in range(len(dataset.classes)) if len(np.unique(fold[labels == index])) < 2]
    return Audited(
        images=images,
        labels=labels,
        probabilities=softmax(logits / fit_temperature(logits, labels)),
        families=of_family,
        judged=~np.isin(labels, alone),
        qualities=qualities,
        embeddings=embeddings,
        outliers=None if embeddings is None else outlier_scores(embeddings, of_family, labels),
    )


def _quality(path: Path, limits: ImageLimits) -> Quality:
    try:
        return quality_of(path, limits)
    except ImageError:  # it was read a moment ago
        return Quality(0.0, 0.0, 0.0, 0.0, 0.0)


def confident_errors(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], judged: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return for each row the class that is confidently another than its label, or -1.

    Args:
        probabilities: (N, C), out of fold.
        labels: (N,) class indices; each class has images.
        judged: (N,), as of `Audited`. A class without such images has no average of its own, and gets the mean of all.
    """
    classes = probabilities.shape[1]
    average = np.array([probabilities[labels == index, index].mean() for index in range(classes)])
    known = np.isin(np.arange(classes), labels[judged])
    average[~known] = average[known].mean() if known.any() else 1.0
    confident = np.where(probabilities >= average, probabilities, -1.0)
    best = confident.argmax(axis=1)
    return np.where((confident.max(axis=1) >= 0) & (best != labels), best, -1)


def most_suspicious_first(found: Audited) -> list[int]:
    """Return the places of the images, the least likely label first; those that can't be judged last."""
    rows = np.arange(len(found.images))
    others = found.probabilities.copy()
    others[rows, found.labels] = -1.0
    margins = found.probabilities[rows, found.labels] - others.max(axis=1)
    order: list[int] = np.lexsort((rows, margins, ~found.judged)).tolist()
    return order


def findings_of(
    dataset: Dataset, found: Audited, order: Iterable[int], digests: Mapping[Path, str], root: str
) -> Iterator[Finding]:
    """Yield what was found of each image."""
    labels, probabilities = found.labels, found.probabilities
    wrong = np.where(found.judged, confident_errors(probabilities, labels, found.judged), -1)
    suggested = np.where(wrong >= 0, wrong, np.where(found.judged, probabilities.argmax(axis=1), labels))
    held_out = {image.path for image in dataset.validation or ()}
    same: dict[str, list[Path]] = defaultdict(list)
    like: dict[int, list[Path]] = defaultdict(list)
    for image, family in sorted(zip(found.images, found.families.tolist(), strict=True)):
        same[digests[image.path]].append(image.path)
        like[family].append(image.path)

    def text(path: Path | None) -> str:
        return path_to_text(os.path.relpath(path, root)) if path is not None else ""

    for place in order:
        path, index = found.images[place].path, suggested[place]
        copies, family = same[digests[path]], like[int(found.families[place])]
        twin = next((other for other in copies if other != path), None)
        crossing = (other for other in (*copies, *family) if (other in held_out) != (path in held_out))
        yield Finding(
            path=text(path),
            label=dataset.classes[labels[place]].label,
            suggested=dataset.classes[index].label,
            label_probability=_rounded(probabilities[place, labels[place]]),
            suggested_probability=_rounded(probabilities[place, index]),
            suspicious=bool(wrong[place] >= 0),
            same_as=text(twin),
            similar_to=text(family[0] if family[0] != path and twin is None else None),
            leak=text(next(crossing, None)),
            outlier=None if found.outliers is None else _rounded(found.outliers[place]),
            **{name: _rounded(score) for name, score in found.qualities[place]._asdict().items()},
        )


def _rounded(value: float) -> float:
    return round(float(value), DIGITS)
