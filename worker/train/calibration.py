"""Confidences that mean what they say, and what becomes of an answer: by answers about images that were not trained on.

A head on RBF centers is solved so fast that all images are answered out of fold: each by a network that was trained
without its family. So are those of a head that is trained in epochs, where few images were dealt out to validate with.
Any other network has the validation images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_store import Decisions, HeldOut
from vision import VisionError
from vision.training import (
    Dataset,
    draw_rbf_centers,
    fit_temperature,
    nearest_of_other_families,
    reliability,
    softmax,
)
from worker.models.decisions import FEW, Judged, described, find_decisions, held_out
from worker.train.images import InputReader, Inputs, Split, family_numbers, fold_numbers
from worker.train.network import Fitted, out_of_fold
from worker.train.training import Training

FOLDS: Final = 3
ENOUGH: Final = 1000  # validation images, which calibrate as well as all: three more trainings would gain nothing
# Part of the images of training that are not unknown. By five folds of 2,067 photos, 3.2 % of those held out were, and
# 95 % of photos of other things; with 0.98 2.2 % and 92 %. 3 to 10 nearest centers told no better than the nearest.
KNOWN: Final = 0.97
# Part of the features' mean squared length. Where images are no further apart, the rounding of float32 shows in scores.
APART: Final = 1e-3


class OutOfFold:
    """Answers about the images of both sides, each by a network without its family; found when they are wanted."""

    def __init__(self, training: Training, reader: InputReader, dataset: Dataset, split: Split, fitted: Fitted) -> None:
        self._training, self._reader, self._split, self._fitted = training, reader, split, fitted
        self._dataset = replace(dataset, families=split.named)  # which are not looked for again

    @property
    def are_wanted(self) -> bool:
        """Whether they calibrate better than the validation images, at little cost."""
        is_dealt, few = self._dataset.validation is None, len(self._split.validation.images) < ENOUGH
        return bool(self._training.recipe.rbf_centers) or (self._training.freeze == "backbone" and is_dealt and few)

    @cached_property
    def families(self) -> NDArray[np.int64]:
        """The number of each image's family."""
        return family_numbers(self._reader, self._dataset, self._split.whole)

    @cached_property
    def folds(self) -> NDArray[np.int64]:
        """The fold of each image; VisionError where there are too few families."""
        return fold_numbers(self._training, self._split.whole, self.families, FOLDS)

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        return np.array([image.class_index for image in self._split.whole.images], np.int64)

    @cached_property
    def logits(self) -> NDArray[np.float64]:
        epochs, whole = self._fitted.kept.epoch, self._split.whole
        return out_of_fold(self._training, self._reader.network, whole, self.folds, epochs, "answering out of fold")

    def distances(self, inputs: Inputs | None = None) -> NDArray[np.float64]:
        """Return each image's squared distance from the nearest RBF center of another family, (N,).

        All are 0 where the images are too much alike for it to mean anything.

        Args:
            inputs: the same images as another network takes them.
        """
        recipe, whole = self._training.recipe, inputs or self._split.whole
        # Of the published network, whose images stand first where it is not trained on all of them.
        trained = len(whole.images) if self._fitted.is_refit else len(self._split.training.images)
        centers = draw_rbf_centers(trained, min(recipe.rbf_centers, trained), recipe.seed)
        plain = whole.only(np.arange(len(whole.images)), 1).rows
        found = nearest_of_other_families(plain, centers, self.families)
        squared_length = float(np.square(plain[centers[:100]].astype(np.float64)).sum(axis=1).mean())
        return found if outlier_distance(found) > APART * squared_length else np.zeros(len(found))


@dataclass(frozen=True, slots=True)
class Calibration:
    """A temperature, the images that it was fitted on, the expected calibration error and the answers on them.

    Of a head on RBF centers whose images are all answered out of fold, also ``decisions``, and ``outlier_distance`` for
    the network's spec.
    """

    temperature: float
    images: int
    expected_error: float
    held_out: HeldOut
    is_out_of_fold: bool = False
    outlier_distance: float = 0.0
    decisions: Decisions | None = None

    @classmethod
    def of(cls, logits: NDArray[np.float64], targets: NDArray[np.int64]) -> Calibration:
        temperature = fit_temperature(logits, targets)
        probabilities = softmax(logits, temperature)
        error = reliability(probabilities, targets).expected_error
        return cls(temperature, len(targets), error, held_out(probabilities))

    def to_json(self) -> dict[str, Any]:
        return {"images": self.images, "out_of_fold": self.is_out_of_fold, "ece": self.expected_error}

    def __str__(self) -> str:
        how = "answered out of fold" if self.is_out_of_fold else "held out"
        error = f"expected calibration error {self.expected_error:.1%}"
        return f"temperature {self.temperature:.3g} by {self.images} images, {how}: {error}"


def calibrate(
    training: Training, answers: OutOfFold, split: Split, fitted: Fitted, first: tuple[float, Judged] | None = None
) -> Calibration:
    """Return the calibration of a network; an event says how many images it would accept, or warns of few images.

    Args:
        first: of a cascade's first stage: its threshold, and how it judged the images.
    """
    found = None
    if answers.are_wanted:
        try:
            found = replace(Calibration.of(answers.logits, answers.targets), is_out_of_fold=True)
            if training.recipe.rbf_centers and found.images >= FEW:
                found = _decided(found, answers, first)
        except VisionError as error:  # too few families
            training.progress.report(f"calibrating with the validation images: {error}")
    found = found or Calibration.of(fitted.logits, split.validation.samples().targets)
    training.progress.report(str(found))
    if found.images < FEW:
        training.progress.report(
            f"confidences are calibrated on {found.images} images only: they may be some ten points off; hold out more "
            "(validation_fraction), or add images"
        )
    if found.decisions is not None:
        training.progress.report(described(found.decisions, "answered out of fold"))
    return found


def outlier_distance(distances: NDArray[np.float64]) -> float:
    """Return the squared distance beyond which an image is unknown; 0 where that means nothing."""
    return float(np.quantile(distances, KNOWN)) if np.isfinite(distances).all() else 0.0


def outlier_scores(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores (N,) that the served network gives at these distances; zeros where it gives none."""
    farthest = outlier_distance(distances)
    return distances / farthest if farthest else np.zeros(len(distances))


def _decided(found: Calibration, answers: OutOfFold, first: tuple[float, Judged] | None) -> Calibration:
    """Return a calibration with what becomes of an answer."""
    distances = answers.distances()
    judged = Judged(softmax(answers.logits, found.temperature), outlier_scores(distances))
    if first is not None:
        threshold, early = first
        is_early = early.probabilities.max(axis=1) >= threshold
        judged = Judged(
            np.where(is_early[:, None], early.probabilities, judged.probabilities),
            np.where(is_early, early.outliers, judged.outliers),
        )
    return replace(
        found,
        held_out=held_out(judged.probabilities),
        outlier_distance=outlier_distance(distances),
        decisions=find_decisions(judged, answers.targets),
    )
