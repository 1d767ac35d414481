"""Score a recipe by cross-validation over families of images."""

from __future__ import annotations

from contextlib import closing

import mindspore

from vision.training import Dataset
from worker.train.data import fold_images
from worker.train.fitting import fit_network
from worker.train.network import with_new_head
from worker.train.reading import InputReader
from worker.train.training import Training


def cross_validate(training: Training, reader: InputReader, dataset: Dataset) -> tuple[str, dict[str, float]]:
    """Train on all folds but one, in turn, and measure on that one; return a sentence and the scores.

    The last epoch counts, so nothing is chosen by what is measured.
    """
    progress = training.progress
    with closing(reader), progress.phase("features"):
        folds = fold_images(training, reader, dataset)
    right = images = 0.0
    for number, (inputs, held_out) in enumerate(folds, start=1):
        fold = f"fold {number}/{len(folds)}"
        mindspore.set_seed(training.recipe.seed)
        fresh = with_new_head(training, reader.network, len(inputs.images))
        last = fit_network(training, fresh, inputs, held_out, f"{fold}, ").history[-1]
        training.remove_checkpoints()
        right += last.val_top1 * len(held_out.images)
        images += len(held_out.images)
        progress.report(f"{fold}: {last.val_top1:.2%} of {len(held_out.images)} images, last epoch")
    accuracy = right / images
    error = (accuracy * (1 - accuracy) / images) ** 0.5
    text = f"{accuracy:.2%} of {images:.0f} images in {len(folds)} folds by family, standard error {error:.2%}"
    return text, {"top1": accuracy, "standard_error": error, "images": images}
