"""A training job: labelled folder -> published model version."""

from __future__ import annotations

import csv
import io
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
from numpy.typing import NDArray

from configs.settings import TrainingSettings
from jobs.errors import UnavailableError
from jobs.messages import JobEvent, ModelPin, TrainModel
from jobs.paths import text_to_path
from model_store.errors import StoreError
from model_store.manifest import ClassEntry
from model_store.store import ModelVersion
from vision.augment import Augmentation
from vision.calibration import expected_calibration_error, fit_temperature
from vision.dataset import Dataset, LabelledImage, fingerprint, read_dataset
from vision.engines import ModelFiles, open_engine
from vision.errors import VisionError
from vision.export import export_onnx
from vision.families import find_leaks, split_by_family
from vision.features import extract, load_all
from vision.networks.served import build_network, build_served
from vision.networks.spec import NetworkSpec
from vision.preprocess import Preprocessing
from vision.train import Epoch, FitOptions, Samples, TrainingStopped, WholeNetwork, fit, predict_logits
from vision.weights import backbone_only, get_weights, read_safetensors, set_weights
from worker.errors import JobCancelled, JobRefused
from worker.gate import Verdict, judge
from worker.publishing import publish_network
from worker.runtime import Runtime

log = logging.getLogger("sortline.training")

GOLDEN_IMAGES = 16
READ_AT_ONCE = 256  # images between two looks at progress and cancelling

Report = Callable[[JobEvent], None]
Reader = Callable[[Sequence[Path]], tuple[NDArray[Any], list[int], list[str]]]  # as features_of in vision/features.py


@dataclass(frozen=True, slots=True)
class Trained:
    """The version that a job published, and what was decided about production."""

    pin: ModelPin
    decision: str


@dataclass(frozen=True, slots=True)
class _Loaded:
    """Images that could be read, and what the trained part of the network sees of them: pixels or features."""

    images: list[LabelledImage]
    inputs: NDArray[Any]

    def only(self, wanted: Sequence[LabelledImage]) -> _Loaded:
        place = {image: position for position, image in enumerate(self.images)}
        return _Loaded(list(wanted), self.inputs[[place[image] for image in wanted]])

    def samples(self) -> Samples:
        return Samples(inputs=self.inputs, targets=np.array([image.class_index for image in self.images], np.int64))


@dataclass(frozen=True, slots=True)
class _Split:
    training: _Loaded
    validation: _Loaded
    note: str


def train_model(
    job: TrainModel,
    recipe: TrainingSettings,
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
    if (earlier := _already_published(job, runtime)) is not None:
        return Trained(earlier, "published before its worker died; promote it by hand")
    try:
        return _Training(job, recipe, runtime, report, cancelled).run()
    except TrainingStopped as error:
        if cancelled():
            raise JobCancelled(str(error)) from error
        raise JobRefused(str(error)) from error
    except VisionError as error:
        raise JobRefused(str(error)) from error


def _already_published(job: TrainModel, runtime: Runtime) -> ModelPin | None:
    """Return the version that this job published before its worker died, if it did."""
    try:
        versions = runtime.store.versions(job.name)
    except StoreError:
        return None
    for number in reversed(versions):
        version = runtime.store.resolve(f"{job.name}:{number}")
        if version.manifest.training.get("job") == job.job:
            return _pin(version)
    return None


def _pin(version: ModelVersion) -> ModelPin:
    return ModelPin(name=version.name, version=version.version, digest=version.manifest.digest)


class _Training:
    """The steps of one job, and what they hand on to each other."""

    def __init__(
        self, job: TrainModel, recipe: TrainingSettings, runtime: Runtime, report: Report, cancelled: Callable[[], bool]
    ) -> None:
        self.job, self.recipe, self.runtime, self.cancelled = job, recipe, runtime, cancelled
        self._report = report
        self.checkpoints = runtime.settings.home / "checkpoints" / job.job
        self.seconds: dict[str, float] = {}
        self.skipped: list[str] = []
        self.preprocessing = Preprocessing(height_px=recipe.height_px, width_px=recipe.width_px, fit=recipe.fit)

    def run(self) -> Trained:
        mindspore.set_context(mode=mindspore.GRAPH_MODE)
        mindspore.set_seed(self.recipe.seed)
        dataset = self._timed("read", self._read)
        network = self._timed("build", self._build, len(dataset.classes))
        split = self._timed("load", self._load, dataset, network)
        history, best = self._timed("train", self._fit, network, split)
        network, scores = self._calibrated(network, split)
        version = self._publish(dataset, split, network, history, best, scores)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        return Trained(_pin(version), self._promote(version, dataset, split))

    def say(self, text: str, epoch: Epoch | None = None) -> None:
        if self.cancelled():
            raise JobCancelled(text)
        figures = {name: float(value) for name, value in asdict(epoch).items()} if epoch else None
        self._report(JobEvent(job=self.job.job, state="progress", text=text, epoch=figures))

    def _timed(self, phase: str, step: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return step(*arguments)
        finally:
            self.seconds[phase] = round(time.perf_counter() - started, 3)

    def _read(self) -> Dataset:
        root = self.runtime.data_root
        if not root.is_dir():
            raise UnavailableError(f"the data root {root} is not there; is the share mounted?")
        folder = (root / text_to_path(self.job.dataset)).resolve()
        if not folder.is_relative_to(root.resolve()):
            raise JobRefused(f"the dataset {self.job.dataset} is not below the worker's data root")
        dataset = read_dataset(folder)
        found = len(dataset.train) + len(dataset.validation or ())
        self.say(f"{found} images in {len(dataset.classes)} classes: {folder}")
        return dataset

    def _build(self, classes: int) -> Any:
        recipe = self.recipe
        if self.job.backbone is None:
            self.frozen = False
            return build_network(
                NetworkSpec(
                    name=recipe.network,
                    classes=classes,
                    height_px=recipe.height_px,
                    width_px=recipe.width_px,
                    pooling=recipe.pooling,
                    dropout=recipe.dropout,
                    convention="torch",
                )
            )
        self.frozen = True
        pin, store = self.job.backbone, self.runtime.store
        version = store.resolve(str(pin))
        if version.manifest.digest != pin.digest:
            raise JobRefused(f"the worker's store holds another {pin} than the producer saw; use one store for both")
        spec = NetworkSpec.from_json(version.manifest.network)
        if spec.name != recipe.network:
            raise JobRefused(f"the backbone {pin} is a {spec.name}, the recipe wants {recipe.network}")
        arrays, _ = read_safetensors(store.open_file(pin.name, pin.version, "weights.safetensors"))
        spec = replace(
            spec,
            classes=classes,
            height_px=recipe.height_px,
            width_px=recipe.width_px,
            pooling=recipe.pooling,
            dropout=recipe.dropout,
            temperature=1.0,
        )
        network = build_network(spec)
        set_weights(network, backbone_only(arrays), allow_missing_head=True)
        return network

    def _load(self, dataset: Dataset, network: Any) -> _Split:
        """Read all images once, then split them: with features at hand, near copies are found far better."""
        with self._reader(network) as read:
            loaded = self._read_all(read, dataset.train, "training")
            given = None if dataset.validation is None else self._read_all(read, dataset.validation, "validation")
        features = (lambda part: part.inputs) if self.frozen else (lambda part: None)
        if given is not None:
            leaks = find_leaks(
                loaded.images, given.images, train_features=features(loaded), validation_features=features(given)
            )
            copied = len({validation for _, validation in leaks})
            split = _Split(
                loaded, given, f"val/ as given; {copied} of its {len(given.images)} images have a copy in train/"
            )
        else:
            found = split_by_family(
                loaded.images,
                fraction=self.recipe.validation_fraction,
                seed=self.recipe.seed,
                features=features(loaded),
            )
            note = f"{found.families} families, none on both sides"
            split = _Split(loaded.only(found.train), loaded.only(found.validation), note)
        present = {image.class_index for image in split.training.images}
        absent = [info.label for index, info in enumerate(dataset.classes) if index not in present]
        if absent or not split.validation.images:
            raise JobRefused(
                f"no readable image to train on in {', '.join(absent)}"
                if absent
                else "no readable image to validate with"
            )
        skipped = f", {len(self.skipped)} unreadable skipped" if self.skipped else ""
        self.say(
            f"training on {len(split.training.images)} images, validating with {len(split.validation.images)}"
            f"{skipped}; {split.note}"
        )
        return split

    @contextmanager
    def _reader(self, network: Any) -> Iterator[Reader]:
        """Give the function from paths to what the trained part sees; the frozen part runs on the fast engine."""
        if not self.frozen:
            yield partial(load_all, preprocessing=self.preprocessing, limits=self.runtime.limits)
            return
        spec = replace(network.spec, classes=0)
        extractor = build_network(spec)
        set_weights(extractor, backbone_only(get_weights(network)))
        model = ModelFiles(onnx=self._exported(build_served(extractor)), weights=None, spec=spec)
        # The precision that will serve: a head should meet the features that it will be given.
        engine = open_engine(model, precision=self.runtime.settings.precision)
        with extract(engine, self.preprocessing, self.runtime.limits) as features_of:
            yield features_of

    def _read_all(self, read: Reader, images: Sequence[LabelledImage], what: str) -> _Loaded:
        kept: list[LabelledImage] = []
        parts: list[NDArray[Any]] = []
        started = time.perf_counter()
        for start in range(0, len(images), READ_AT_ONCE):
            some = images[start : start + READ_AT_ONCE]
            inputs, positions, errors = read([image.path for image in some])
            if positions:
                parts.append(inputs)
                kept += [some[position] for position in positions]
            self._skip(errors)
            done = min(start + READ_AT_ONCE, len(images))
            rate = done / (time.perf_counter() - started)
            self.say(
                f"reading {what} images {done}/{len(images)}, {rate:.0f} img/s, eta {(len(images) - done) / rate:.0f} s"
            )
        if not kept:
            raise JobRefused(f"none of the {len(images)} {what} images can be read; the first: {self.skipped[0]}")
        return _Loaded(kept, np.concatenate(parts))

    def _fit(self, network: Any, split: _Split) -> tuple[list[Epoch], Epoch]:
        recipe = self.recipe
        if self.frozen:
            model, augment = network.head, None
        else:
            model, augment = WholeNetwork(network), Augmentation(**recipe.augmentation.model_dump())
        names = {field.name for field in fields(FitOptions)}
        options = FitOptions(**{key: value for key, value in recipe.model_dump().items() if key in names})
        started = time.perf_counter()

        def on_epoch(epoch: Epoch) -> None:
            left_s = (time.perf_counter() - started) / epoch.epoch * (recipe.epochs - epoch.epoch)
            self.say(
                f"epoch {epoch.epoch}/{recipe.epochs}, loss {epoch.train_loss:.3f}, val {epoch.val_top1:.1%}, "
                f"eta {left_s:.0f} s",
                epoch,
            )

        return fit(
            model,
            split.training.samples(),
            split.validation.samples(),
            network.spec.classes,
            options,
            augment=augment or None,
            checkpoints=self.checkpoints,
            on_epoch=on_epoch,
            cancelled=self.cancelled,
        )

    def _calibrated(self, network: Any, split: _Split) -> tuple[Any, dict[str, float]]:
        """Return the network with the temperature that makes its confidences true on the validation images."""
        samples = split.validation.samples()
        model = network.head if self.frozen else WholeNetwork(network)
        logits = predict_logits(model, samples.inputs, self.recipe.batch_size)
        temperature = fit_temperature(logits, samples.targets)
        calibrated = build_network(replace(network.spec, temperature=temperature))
        set_weights(calibrated, get_weights(network))
        return calibrated, {
            "temperature": temperature,
            "ece_uncalibrated": expected_calibration_error(logits, samples.targets, 1.0),
            "ece": expected_calibration_error(logits, samples.targets, temperature),
        }

    def _skip(self, errors: list[str]) -> None:
        self.skipped += errors
        for error in errors:
            log.warning("training image skipped: %s", error)

    def _exported(self, cell: Any) -> bytes:
        with tempfile.TemporaryDirectory(prefix="sortline-") as folder:
            path = Path(folder) / "graph.onnx"
            export_onnx(cell, path, height_px=self.recipe.height_px, width_px=self.recipe.width_px)
            return path.read_bytes()

    def _publish(
        self,
        dataset: Dataset,
        split: _Split,
        network: Any,
        history: list[Epoch],
        best: Epoch,
        scores: Mapping[str, float],
    ) -> ModelVersion:
        self.say("publishing: export, and comparison of the engines")
        golden, _, _ = load_all(
            _spread(split.validation.images, GOLDEN_IMAGES), self.preprocessing, self.runtime.limits
        )
        training = {
            "job": self.job.job,
            "recipe": self.recipe.model_dump(),
            "data_fingerprint": fingerprint(dataset),
            "images": {
                "training": len(split.training.images),
                "validation": len(split.validation.images),
                "skipped": len(self.skipped),
            },
            "split": split.note,
            "best_epoch": best.epoch,
            "seconds": self.seconds,
        }
        return publish_network(
            self.runtime.store,
            self.job.name,
            network,
            self.preprocessing,
            golden_images=golden,
            classes=[
                ClassEntry(label=info.label, names=dict(info.names), group=info.group, folder=info.folder)
                for info in dataset.classes
            ],
            training=training,
            scores={"val_top1": best.val_top1, "val_top5": best.val_top5, "val_loss": best.val_loss, **scores},
            parent=self.job.backbone,
            files={"results.csv": _history_csv(history)},
        )

    def _promote(self, version: ModelVersion, dataset: Dataset, split: _Split) -> str:
        """Make the version the candidate and, by the job's rule, the one in production; return what was decided."""
        store, name, who = self.runtime.store, self.job.name, f"job {self.job.job}"
        store.set_alias(name, "candidate", version.version, who=who, why="trained")
        verdict = Verdict(self.job.promote == "always", f"--promote {self.job.promote}")
        current = store.aliases(name).get("production")
        if self.job.promote == "gate" and current is None:
            verdict = Verdict(True, "nothing was in production")
        elif self.job.promote == "gate":
            images = [(image.path, dataset.classes[image.class_index].label) for image in split.validation.images]
            verdict = judge(
                self.runtime,
                version,
                store.resolve(f"{name}:{current}"),
                images,
                accuracy_margin=self.recipe.gate_accuracy_margin,
                recall_margin=self.recipe.gate_recall_margin,
            )
        if verdict.passed:
            store.set_alias(name, "production", version.version, who=who, why=verdict.text)
            return f"in production ({verdict.text})"
        return f"production stays {current or 'empty'} ({verdict.text})"


def _spread(images: list[LabelledImage], count: int) -> list[Path]:
    """Return up to ``count`` paths spread evenly over ``images``, and so over the classes."""
    places = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
    return [images[place].path for place in places]


def _history_csv(history: list[Epoch]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", "train_loss", "val_loss", "val_top1", "val_top5", "lr"])
    for epoch in history:
        figures = (epoch.train_loss, epoch.val_loss, epoch.val_top1, epoch.val_top5, epoch.lr)
        writer.writerow([epoch.epoch, *(f"{figure:.6g}" for figure in figures)])
    return text.getvalue().encode()
