"""Which images of a labelled folder look wrongly labelled: networks that have not seen them say so.

Confident learning (Northcutt et al. 2021, section 3): an image is suspicious when an out-of-fold network gives another
class at least the probability that images of that class get on average. All are ranked by the margin between their own
label and the best other one.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import mindspore
import numpy as np
from numpy.typing import NDArray

from base.paths import path_to_text
from jobs import Finding
from vision.training import Dataset, LabelledImage, fit_temperature, softmax
from worker.train.images import InputReader, families_of, fold_images
from worker.train.network import fit_network, with_new_head
from worker.train.training import Training

SENT_AT_ONCE = 1000
MOST_SENT = 20_000  # of the findings, the most suspicious first: 3 MB
DIGITS = 4  # of probabilities


def audit(training: Training, reader: InputReader, dataset: Dataset) -> str:
    """Label all images by networks that have not seen them or their families, and report findings; return a sentence.

    The findings go out as events of the job, the most suspicious first.
    """
    with closing(reader):
        with training.progress.phase("features"):
            families = families_of(training, reader, dataset)
            named = {image.path: str(number) for number, family in enumerate(families) for image in family}
            folds = fold_images(training, reader, replace(dataset, families=named))
        images: list[LabelledImage] = []
        parts: list[NDArray[np.float64]] = []
        with training.progress.phase("train"):
            for number, (inputs, held_out) in enumerate(folds, start=1):
                mindspore.set_seed(training.recipe.seed)
                fresh = with_new_head(training, reader.network, len(inputs.images))
                fitted = fit_network(training, fresh, inputs, held_out, f"fold {number}/{len(folds)}, ")
                training.remove_checkpoints()
                images += held_out.images
                parts.append(fitted.logits)
    root = os.path.realpath(str(training.runtime.data_root))
    labels = np.array([image.class_index for image in images], np.int64)
    logits = np.concatenate(parts)
    probabilities = softmax(logits / fit_temperature(logits, labels))
    findings = list(_findings(dataset, images, probabilities, families, reader.digests, root))
    for start in range(0, min(len(findings), MOST_SENT), SENT_AT_ONCE):
        some = tuple(findings[start : min(start + SENT_AT_ONCE, MOST_SENT)])
        training.progress.report(f"findings {start + 1} to {start + len(some)} of {len(findings)}", findings=some)
    suspicious = sum(finding.suspicious for finding in findings)
    right = sum(finding.label == finding.suggested for finding in findings)
    return f"{suspicious} of {len(findings)} labels look wrong; out of fold, {right / len(findings):.1%} are as given"


def confident_errors(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each row the class that is confidently another than its label, or -1.

    Args:
        probabilities: (N, C), out of fold.
        labels: (N,) class indices; each class has images.
    """
    classes = probabilities.shape[1]
    average = np.array([probabilities[labels == index, index].mean() for index in range(classes)])
    confident = np.where(probabilities >= average, probabilities, -1.0)
    best = confident.argmax(axis=1)
    return np.where((confident.max(axis=1) >= 0) & (best != labels), best, -1)


def _findings(
    dataset: Dataset,
    images: list[LabelledImage],
    probabilities: NDArray[np.float64],
    families: list[list[LabelledImage]],
    digests: Mapping[Path, str],
    root: str,
) -> Iterator[Finding]:
    """Yield what was found of each image, the least likely label first."""
    labels = np.array([image.class_index for image in images], np.int64)
    rows = np.arange(len(images))
    own = probabilities[rows, labels]
    others = probabilities.copy()
    others[rows, labels] = -1.0
    wrong = confident_errors(probabilities, labels)
    suggested = np.where(wrong >= 0, wrong, probabilities.argmax(axis=1))
    same: dict[str, list[Path]] = defaultdict(list)
    for image in sorted(images):
        same[digests[image.path]].append(image.path)
    first_of_family = {image.path: family[0].path for family in families for image in family}

    def text(path: Path) -> str:
        return path_to_text(os.path.relpath(path, root))

    for place in np.lexsort((rows, own - others.max(axis=1))).tolist():
        path = images[place].path
        twin = next((other for other in same[digests[path]] if other != path), None)
        first = first_of_family.get(path, path)
        yield Finding(
            path=text(path),
            label=dataset.classes[labels[place]].label,
            suggested=dataset.classes[suggested[place]].label,
            label_probability=round(float(own[place]), DIGITS),
            suggested_probability=round(float(probabilities[place, suggested[place]]), DIGITS),
            suspicious=bool(wrong[place] >= 0),
            same_as=text(twin) if twin is not None else "",
            similar_to=text(first) if first != path and twin is None else "",
        )
