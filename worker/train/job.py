"""A training job: labelled folder -> published model version."""

from __future__ import annotations

import errno
import gc
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import mindspore
import numpy as np
from numpy.typing import NDArray

from base.install import pip_install
from configs import Recipe
from jobs import ModelPin, TrainModel
from vision import VisionError
from vision.networks import network_kind
from vision.serving import can_halve, can_quantise
from vision.training import Dataset, TrainingStopped
from worker.errors import JobCancelled, JobRefused
from worker.runtime import Runtime
from worker.train.audit import audit
from worker.train.calibration import Calibration, OutOfFold, calibrate
from worker.train.cascade import train_first_stage
from worker.train.images import InputReader, Inputs, find_images, fold_images, split_images
from worker.train.network import build, fit_network, refit, with_new_head
from worker.train.promotion import promote
from worker.train.publication import already_published, pin_of, publish_trained
from worker.train.training import Progress, Report, Training

REFUSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # and a quota, and a limit of the file system


@dataclass(frozen=True, slots=True)
class Trained:
    """What a job leaves: a published version, or scores alone; and a sentence that says so."""

    text: str
    pin: ModelPin | None = None
    scores: dict[str, float] | None = None


def train_model(
    job: TrainModel,
    recipe: Recipe,
    runtime: Runtime,
    *,
    report: Report,
    cancelled: Callable[[], bool],
) -> Trained:
    """Train as ``recipe`` says on the job's folder; return the version that was published and whether it serves.

    Raises:
        JobRefused: the dataset, the backbone or the recipe can't work; the message says why.
        JobCancelled: ``cancelled()`` became true.
        UnavailableError: the data root is away.
    """
    if (earlier := already_published(job, runtime.store)) is not None:
        return Trained(f"published {earlier} before its worker died; promote it by hand", earlier)
    training = Training(job=job, recipe=recipe, runtime=runtime, progress=Progress(job.job, report, cancelled))
    # MindSpore collects garbage at each of six compilations: a tenth of a second among what it imported. For good: the
    # process ends with the job.
    gc.freeze()
    try:
        with _errors_sorted(cancelled):
            return _train(training)
    finally:
        shutil.rmtree(training.scratch, ignore_errors=True)


def _train(training: Training) -> Trained:
    job, recipe, progress = training.job, training.recipe, training.progress
    _check_precisions(recipe)
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_seed(recipe.seed)
    training.scratch.mkdir(parents=True, exist_ok=True)
    with progress.phase("read"):
        dataset, digests = find_images(training)
    with progress.phase("build"):
        network, body = build(training, len(dataset.classes))
    reader = InputReader(training, network, digests, body)
    if job.purpose == "folds":
        text, scores = _cross_validate(training, reader, dataset)
        return Trained(text, scores=scores)
    if job.purpose == "audit":
        return Trained(audit(training, reader, dataset))
    with closing(reader), progress.phase("features"):
        split = split_images(training, reader, dataset)
    skipped = f", {len(reader.skipped)} unreadable skipped" if reader.skipped else ""
    progress.report(
        f"training on {_counted(split.training)}, validating with {_counted(split.validation)}{skipped}; {split.note}"
    )
    built, network = network, with_new_head(training, network, len(split.training.images))
    with progress.phase("train"):
        fitted = fit_network(training, network, split.training, split.validation)
    if job.purpose == "score":
        training.remove_checkpoints()
        kept = fitted.kept
        scores = {"val_top1": kept.val_top1, "val_top5": kept.val_top5, "val_loss": kept.val_loss}
        return Trained(f"val {kept.val_top1:.1%} in epoch {kept.epoch}", scores=scores)
    measured = None
    if recipe.refit:
        with progress.phase("refit"):
            last, fitted = refit(training, built, network, split, fitted)
        if fitted.is_refit:
            network, measured = last, network
    first, judged = None, None
    answers = OutOfFold(training, reader, dataset, split, fitted)
    if recipe.cascade:
        with progress.phase("cascade"):
            trained = train_first_stage(training, reader, answers, split, fitted)
        if trained is not None:
            first, judged = trained.graph, (trained.graph.record.threshold, trained.judged)
    with progress.phase("calibrate"):
        calibration = calibrate(training, answers, split, fitted, judged)
    version = publish_trained(training, reader, dataset, split, network, fitted, calibration, first, measured)
    training.remove_checkpoints()
    promoted = promote(training, version, split, fitted)
    return Trained(f"published {version.manifest.reference}; {promoted}", pin_of(version))


def _cross_validate(training: Training, reader: InputReader, dataset: Dataset) -> tuple[str, dict[str, float]]:
    """Train on all folds but one, in turn, and measure on that one; return a sentence and the scores.

    Families stay whole, and the last epoch counts, so nothing is chosen by what is measured.
    """
    progress = training.progress
    with closing(reader), progress.phase("features"):
        folds = fold_images(training, reader, dataset)
    right = images = 0.0
    logits: list[NDArray[np.float64]] = []
    targets: list[NDArray[np.int64]] = []
    is_unchosen = True  # whether no logits are of an epoch that was chosen by what is measured
    for number, (inputs, held_out) in enumerate(folds, start=1):
        fold = f"fold {number}/{len(folds)}"
        mindspore.set_seed(training.recipe.seed)
        fresh = with_new_head(training, reader.network, len(inputs.images))
        fitted = fit_network(training, fresh, inputs, held_out, f"{fold}, ")
        last = fitted.history[-1]
        is_unchosen &= fitted.kept is last
        logits.append(fitted.logits)
        targets.append(held_out.samples().targets)
        training.remove_checkpoints()
        right += last.val_top1 * len(held_out.images)
        images += len(held_out.images)
        progress.report(f"{fold}: {last.val_top1:.2%} of {len(held_out.images)} images, last epoch")
    accuracy = right / images
    error = (accuracy * (1 - accuracy) / images) ** 0.5
    text = f"{accuracy:.2%} of {images:.0f} images in {len(folds)} folds by family, standard error {error:.2%}"
    scores = {"top1": accuracy, "standard_error": error, "images": images}
    if is_unchosen:
        scores["ece"] = Calibration.of(np.concatenate(logits), np.concatenate(targets)).expected_error
        text += f", expected calibration error {scores['ece']:.2%}"
    return text, scores


@contextmanager
def _errors_sorted(cancelled: Callable[[], bool]) -> Iterator[None]:
    """Raise what can't be mended by another try as JobRefused."""
    try:
        yield
    except TrainingStopped as error:
        if cancelled():
            raise JobCancelled(str(error)) from error
        raise JobRefused(str(error)) from error
    except VisionError as error:
        raise JobRefused(str(error)) from error
    except OSError as error:
        if error.errno in DISK_FULL:
            raise JobRefused(f"the disk is full: {error}; nothing was published") from error
        if error.errno in REFUSED:
            why = f"the system refuses the training worker: {error}; nothing was published; mend that, then train again"
            raise JobRefused(why) from error
        raise


def _check_precisions(recipe: Recipe) -> None:
    """Refuse a recipe that asks for a graph which this worker can't make, before anything is read."""
    if recipe.int8 and len(recipe.backbones) < 2 and not network_kind(recipe.network).float_ends:
        raise JobRefused(f"int8 = true: no 8-bit graph is made of {recipe.network}; set int8 = false")
    if recipe.int8 and not can_quantise():
        raise JobRefused(
            "int8 = true makes an 8-bit graph; that takes a CPU with VNNI, and on the training worker: "
            f"{pip_install('sortline[int8]')}; or set int8 = false"
        )
    if recipe.f16 and not can_halve():
        raise JobRefused(
            "f16 = true needs ONNX Runtime on the training worker: "
            f"{pip_install('sortline[train]')}; or set f16 = false"
        )


def _counted(inputs: Inputs) -> str:
    views = f" in {inputs.views} views each" if inputs.views > 1 else ""
    return f"{len(inputs.images)} images{views}"
