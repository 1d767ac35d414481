"""Confidences that mean what they say: one temperature, fitted on answers about images that were not trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from base.drift import CONFIDENCE_BINS, confidence_bin
from model_store import HeldOut
from vision import VisionError
from vision.training import Dataset, fit_temperature, reliability, softmax
from worker.train.images import InputReader, Split, fold_numbers
from worker.train.network import Fitted, out_of_fold
from worker.train.training import Training

FOLDS: Final = 3
FEW: Final = 100  # images, of which the accuracy alone has a standard error of 4 points at 80 %


@dataclass(frozen=True, slots=True)
class Calibration:
    """A temperature, the images that it was fitted on, the expected calibration error and the answers on them."""

    temperature: float
    images: int
    expected_error: float
    held_out: HeldOut

    @classmethod
    def of(cls, logits: NDArray[np.float64], targets: NDArray[np.int64]) -> Calibration:
        temperature = fit_temperature(logits, targets)
        probabilities = softmax(logits, temperature)
        error = reliability(probabilities, targets).expected_error
        return cls(temperature, len(targets), error, held_out(probabilities))

    def to_json(self) -> dict[str, Any]:
        return {"images": self.images, "ece": self.expected_error}


def held_out(probabilities: NDArray[np.float64]) -> HeldOut:
    """Return how images were answered, (N, classes), as the manifest keeps it."""
    confidences = [confidence_bin(confidence) for confidence in probabilities.max(axis=1).tolist()]
    return HeldOut(
        confidences=np.bincount(confidences, minlength=CONFIDENCE_BINS).tolist(),
        labels=np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1]).tolist(),
    )


def calibrate(training: Training, reader: InputReader, dataset: Dataset, split: Split, fitted: Fitted) -> Calibration:
    """Return the calibration of a network; an event warns where it is of few images.

    A head on RBF centers is solved so fast that all images are answered out of fold. Any other network has the
    validation images.
    """
    logits, targets = fitted.logits, split.validation.samples().targets
    if training.recipe.rbf_centers:
        try:
            named = replace(dataset, families=split.named)  # which are not looked for again
            folds = fold_numbers(training, reader, named, split.whole, FOLDS)
        except VisionError as error:  # too few families
            training.progress.report(f"calibrating with the validation images: {error}")
        else:
            logits = out_of_fold(training, reader.network, split.whole, folds, 1, "calibrating")
            targets = np.array([image.class_index for image in split.whole.images], np.int64)
    found = Calibration.of(logits, targets)
    if found.images < FEW:
        training.progress.report(
            f"confidences are calibrated on {found.images} images only: they may be some ten points off; hold out more "
            "(validation_fraction), or add images"
        )
    return found
