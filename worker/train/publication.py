"""Publish what a job has trained, with its report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs import ModelPin, TrainModel
from model_store import ClassEntry, ModelStore, ModelVersion, PrecisionProof, StoreError
from vision.images import ImageLimits, load_image
from vision.networks import get_weights
from vision.serving import CALIBRATION_IMAGES, ModelFiles, exchange_weights
from vision.training import Dataset, LabelledImage, fingerprint
from worker.models.publish import Details, FirstGraph, Graph, Publication, graph_of, publish
from worker.train.body import graph_on
from worker.train.calibration import Calibration
from worker.train.drawing import Drawing
from worker.train.images import InputReader, Split
from worker.train.network import Fitted
from worker.train.report import TrainingReport, report_files
from worker.train.seen import SPLIT, seen_csv
from worker.train.training import Training

GOLDEN_IMAGES = 16


def already_published(job: TrainModel, store: ModelStore) -> ModelPin | None:
    """Return the version that this job published before its worker died, if it did."""
    try:
        versions = store.versions(job.name)
    except StoreError:
        return None
    for number in reversed(versions):
        version = store.resolve(f"{job.name}:{number}")
        if version.manifest.training.get("job") == job.job:
            return pin_of(version)
    return None


def pin_of(version: ModelVersion) -> ModelPin:
    """Return what names exactly this version."""
    return ModelPin(name=version.name, version=version.version, digest=version.manifest.digest)


def publish_trained(
    training: Training,
    reader: InputReader,
    dataset: Dataset,
    split: Split,
    network: Any,
    fitted: Fitted,
    calibration: Calibration,
    first: FirstGraph | None = None,
    measured: Any = None,
) -> ModelVersion:
    """Publish ``network``, calibrated, with a report; its plots are drawn while it is exported and compared.

    ``measured`` is the network as it was before the last training, on all images, if there was one.
    """
    recipe, limits = training.recipe, training.runtime.limits
    made = " and an 8-bit graph, which takes half a minute or a whole one," if recipe.int8 else ""
    training.progress.report(f"publishing: export{made} and comparison of engines and precisions")
    started = time.perf_counter()
    report = _report(training, reader, dataset, split, fitted, calibration)
    network.spec = replace(network.spec, temperature=report.temperature, outlier_distance=calibration.outlier_distance)
    export = graph_of if reader.body is None else partial(graph_on, reader.body)
    with Drawing(report.plotted(), training.scratch) as drawing:
        graph = export(network)

        def details(proofs: Mapping[str, PrecisionProof]) -> Details:
            """Return the report with all that is known at the end, and what the manifest says."""
            training.progress.check("publishing")  # took seconds: who stops a job in them wants no version
            publish_s = round(time.perf_counter() - started, 3)
            seconds = {**training.progress.seconds, "publish": publish_s}
            whole = replace(report, precisions=proofs, seconds=seconds)
            files = report_files(whole, drawing.plots(), limits) | {SPLIT: _seen(reader, split, whole)}
            return Details(training={**_described(training, whole), "calibration": calibration.to_json()}, files=files)

        publication = Publication(
            graph=graph,
            measured=partial(_measured, graph.files, network, measured, export) if measured is not None else None,
            preprocessing=reader.preprocessing,
            golden_images=_pictures(reader, limits, split.validation.images, GOLDEN_IMAGES),
            classes=[
                ClassEntry(label=info.label, names=dict(info.names), group=info.group, folder=info.folder)
                for info in dataset.classes
            ],
            scores=_scores(report),
            parents=training.job.backbones,
            validation=split.validation.images,
            calibration=_pictures(reader, limits, split.training.images, CALIBRATION_IMAGES) if recipe.int8 else None,
            f16=recipe.f16,
            limits=limits,
            first=first,
            held_out=calibration.held_out,
            decisions=calibration.decisions,
            details=details,
        )
        return publish(training.runtime.store, training.job.name, publication)


def _measured(files: ModelFiles, network: Any, measured: Any, export: Callable[[Any], Graph]) -> ModelFiles:
    """Return the graph of ``measured``; ``files`` are those of ``network``, which has the same layers."""
    onnx = exchange_weights(files.onnx, get_weights(network), get_weights(measured))
    return export(measured).files if onnx is None else replace(files, onnx=onnx, mindspore=None)


def _report(
    training: Training, reader: InputReader, dataset: Dataset, split: Split, fitted: Fitted, calibration: Calibration
) -> TrainingReport:
    return TrainingReport(
        title=f"{training.job.name}, {training.job.job}",
        classes=dataset.classes,
        images=split.validation.images,
        root=dataset.root,
        logits=fitted.logits,
        temperature=calibration.temperature,
        calibrated=str(calibration),
        history=fitted.history,
        kept=fitted.kept,
        recipe=training.recipe.model_dump(mode="json"),
        counts={
            "training": len(split.training.images),
            "validation": len(split.validation.images),
            "skipped": len(reader.skipped),
        },
        split=split.note,
        is_refit=fitted.is_refit,
        leaks=split.leaks,
        skipped=reader.skipped,
        fingerprint=fingerprint(dataset, reader.digests),
        seconds=training.progress.seconds,
    )


def _seen(reader: InputReader, split: Split, report: TrainingReport) -> bytes:
    digests, labels = reader.digests, [info.label for info in report.classes]
    answers = zip(report.images, report.predicted.tolist(), strict=True)
    return seen_csv(
        (digests[image.path] for image in split.training.images),
        {digests[image.path]: labels[predicted] for image, predicted in answers},
    )


def _described(training: Training, report: TrainingReport) -> dict[str, Any]:
    """Return what the manifest says of the training."""
    root = Path(str(training.runtime.settings.data_root))
    return {
        "job": training.job.job,
        "recipe": report.recipe,
        "datasets": [str(root / path) for path in training.job.sources],
        "data_fingerprint": report.fingerprint,
        "images": report.counts,
        "split": report.split,
        "leaks": len({duplicate for _, duplicate in report.leaks}),
        "kept_epoch": report.kept.epoch,
        "refit": report.is_refit,
        "seconds": report.seconds,
    }


def _scores(report: TrainingReport) -> dict[str, float]:
    return {
        "val_top1": report.kept.val_top1,
        "val_top5": report.kept.val_top5,
        "val_loss": report.kept.val_loss,
        "temperature": report.temperature,
        "ece_uncalibrated": report.before.expected_error,
        "ece": report.after.expected_error,
    }


def _pictures(reader: InputReader, limits: ImageLimits, images: list[LabelledImage], count: int) -> NDArray[np.uint8]:
    """Return up to ``count`` of ``images`` as the network takes them, spread evenly and so over the classes."""
    places = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
    return np.stack([load_image(images[place].path, reader.preprocessing, limits).pixels for place in places])
