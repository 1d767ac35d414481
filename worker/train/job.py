"""A training job: labelled folder -> published model version."""

from __future__ import annotations

import errno
import gc
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
from numpy.typing import NDArray

from base.errors import UnavailableError
from base.install import pip_install
from base.paths import text_to_path
from configs import Recipe
from jobs import JobEvent, ModelPin, TrainModel
from model_store import ClassEntry, ModelVersion, PrecisionProof, StoreError
from vision.errors import VisionError
from vision.images.preprocess import Preprocessing, load_image
from vision.networks import network_kind, own_options, spec_from_json
from vision.networks.heads import build_dense
from vision.networks.network import build_network
from vision.networks.weights import backbone_only, get_weights, read_safetensors, set_weights
from vision.serving.engines.half import can_halve
from vision.serving.quantise import CALIBRATION_IMAGES, can_quantise
from vision.training.augment import Augmentation
from vision.training.calibration import expected_calibration_error, fit_temperature
from vision.training.dataset import Dataset, LabelledImage, file_digests, fingerprint, read_dataset
from vision.training.features import Digests
from vision.training.fit import TrainingStopped, fit, predict_logits
from vision.training.options import Epoch, FitOptions
from vision.training.parts import build_trained, cut_of
from vision.training.rbf import RbfCenters, choose_rbf_centers, set_rbf_head
from vision.training.samples import Samples
from worker.errors import JobCancelled, JobRefused
from worker.models.files import WEIGHTS
from worker.models.publish import Publication, graph_of, publish
from worker.runtime import Runtime
from worker.train.data import Seen, Split, TrainingData
from worker.train.drawing import Drawing
from worker.train.gate import Verdict, judge
from worker.train.report import TrainingReport, plotted
from worker.train.report_files import report_files

GOLDEN_IMAGES = 16
SAID_EVERY_S = 5.0  # within an epoch
LONG_S = 20.0  # a training that takes longer says so after the first step that could be timed
REFUSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # and a quota, and a limit of the file system

# What of a recipe is the network's: fields of its spec.
SHAPE = set({
    "height_px", "width_px", "pooling", "intermediate_layers", "scales", "flip_averaging", "hellinger", "rbf_centers",
    "head_bias",
})  # fmt: skip

Report = Callable[[JobEvent], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a job leaves: a published version, or scores alone; and a sentence that says so."""

    text: str
    pin: ModelPin | None = None
    scores: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class _Fitted:
    history: list[Epoch]
    best: Epoch
    logits: NDArray[np.float64]  # of the validation images, by the best epoch's weights


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
    if (earlier := _already_published(job, runtime)) is not None:
        return Trained(f"published {earlier} before its worker died; promote it by hand", earlier)
    training = _Training(job, recipe, runtime, report, cancelled)
    gc.freeze()  # MindSpore collects garbage at each of six compilations: a tenth of a second among what it imported
    try:
        return training.run()
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
    finally:
        gc.unfreeze()
        training.close()


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
        self, job: TrainModel, recipe: Recipe, runtime: Runtime, report: Report, cancelled: Callable[[], bool]
    ) -> None:
        self.job, self.recipe, self.runtime, self.cancelled = job, recipe, runtime, cancelled
        self._report = report
        self.checkpoints = runtime.settings.home / "checkpoints" / job.job
        self.scratch = runtime.settings.home / "scratch" / job.job
        self.seconds: dict[str, float] = {}
        self._ends = ExitStack()

    def close(self) -> None:
        """Remove what only this attempt needed."""
        self._ends.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def run(self) -> Trained:
        if self.recipe.int8 and network_kind(self.recipe.network).float_ends is None:
            raise JobRefused(f"int8 = true: no 8-bit graph is made of {self.recipe.network}; set int8 = false")
        if self.recipe.int8 and not can_quantise():
            raise JobRefused(
                "int8 = true makes an 8-bit graph; that takes a CPU with VNNI, and on the training worker: "
                f"{pip_install('sortline[int8]')}; or set int8 = false"
            )
        if self.recipe.f16 and not can_halve():
            raise JobRefused(
                "f16 = true needs ONNX Runtime on the training worker: "
                f"{pip_install('sortline[train]')}; or set f16 = false"
            )
        mindspore.set_context(mode=mindspore.GRAPH_MODE)
        mindspore.set_seed(self.recipe.seed)
        self.scratch.mkdir(parents=True, exist_ok=True)
        dataset, digests = self._timed("read", self._read)
        network = self._timed("build", self._build, len(dataset.classes))
        data = TrainingData(
            self.runtime, self.recipe, network, self.job.backbone, dataset, digests, self.scratch, self.say
        )
        if self.job.purpose == "folds":
            return self._cross_validate(data, network)
        with closing(data):
            split: Split = self._timed("features", data.split, fail_on_leak=self.job.fail_on_leak)
        skipped = f", {len(data.skipped)} unreadable skipped" if data.skipped else ""
        self.say(
            f"training on {_counted(split.training)}, validating with {_counted(split.validation)}{skipped}; "
            f"{split.note}"
        )
        network = self._with_head_for(network, split.training)
        fitted: _Fitted = self._timed("train", self._fit, network, split.training, split.validation)
        if self.job.purpose == "score":
            shutil.rmtree(self.checkpoints, ignore_errors=True)
            best = fitted.best
            scores = {"val_top1": best.val_top1, "val_top5": best.val_top5, "val_loss": best.val_loss}
            return Trained(f"val {best.val_top1:.1%} in epoch {best.epoch}", scores=scores)
        version = self._publish(data, split, network, fitted)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        return Trained(
            f"published {version.manifest.reference}; {self._promote(version, dataset, split)}", _pin(version)
        )

    def say(self, text: str, epoch: Epoch | None = None) -> None:
        if self.cancelled():
            raise JobCancelled(text)
        figures = {name: float(value) for name, value in asdict(epoch).items()} if epoch else None
        self._report(JobEvent(job=self.job.job, state="progress", text=text, epoch=figures))

    def _timed(self, phase: str, step: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return step(*arguments, **options)
        finally:
            self.seconds[phase] = round(time.perf_counter() - started, 3)

    def _read(self) -> tuple[Dataset, Digests]:
        root = self.runtime.data_root
        if not isinstance(root, Path):
            raise JobRefused(f"training reads a folder, and the data root of this worker is {root.url}; copy it first")
        if not root.is_dir():
            raise UnavailableError(f"the data root {root} is not there; is the share mounted?")
        folder = (root / text_to_path(self.job.dataset)).resolve()
        if not folder.is_relative_to(root.resolve()):
            raise JobRefused(f"the dataset {self.job.dataset} is not below the worker's data root")
        dataset = read_dataset(folder)
        images = [*dataset.train, *(dataset.validation or ())]
        self.say(f"{len(images)} images in {len(dataset.classes)} classes: {folder}")
        return dataset, file_digests(image.path for image in images)

    def _build(self, classes: int) -> Any:
        recipe = self.recipe
        shape = {"classes": classes, **recipe.model_dump(include=SHAPE)}
        kind = network_kind(recipe.network)
        if self.job.backbone is None:
            return build_network(kind(**own_options(kind, shape)))
        pin, store = self.job.backbone, self.runtime.store
        version = store.resolve(str(pin))
        if version.manifest.digest != pin.digest:
            raise JobRefused(f"the worker's store holds another {pin} than the producer saw; use one store for both")
        if version.manifest.network is None:
            raise JobRefused(f"{pin} came as a graph without a network, so nothing can be trained on it")
        spec = spec_from_json(version.manifest.network)
        if spec.name != recipe.network:
            raise JobRefused(f"the backbone {pin} is a {spec.name}, the recipe wants {recipe.network}")
        arrays, _ = read_safetensors(store.open_file(pin.name, pin.version, WEIGHTS))
        network = build_network(replace(spec, temperature=1.0, **own_options(kind, shape)))
        cut_of(network.spec, recipe.freeze)
        set_weights(network, backbone_only(arrays, spec), allow_missing_head=True)
        return network

    def _with_head_for(self, network: Any, training: Seen) -> Any:
        """Return a copy of ``network`` with a new head, of as many RBF centers as there are images for, at most."""
        count = min(network.spec.rbf_centers, len(training.images))
        fresh = build_network(replace(network.spec, rbf_centers=count))
        if self.job.backbone is not None:
            set_weights(fresh, backbone_only(get_weights(network), network.spec), allow_missing_head=True)
        return fresh

    def _fit(self, network: Any, training: Seen, validation: Seen, prefix: str = "") -> _Fitted:
        """Train the network's part that is not frozen; its weights in ``network`` are then those of the best epoch."""
        recipe = self.recipe
        freeze = recipe.freeze if self.job.backbone is not None else "none"
        train, held_out = training.samples(), validation.samples()
        centers = None
        if network.spec.rbf_centers:
            plain = training.only(np.arange(len(training.images)), 1)
            centers = choose_rbf_centers(plain.rows, network.spec.rbf_centers, recipe.seed)
            model = build_dense(network.spec)
            train, held_out = self._transformed(centers, train), self._transformed(centers, held_out)
        else:
            frozen_statistics = recipe.batch_norm == "frozen" and self.job.backbone is not None
            model = build_trained(network, freeze, batch_norm_frozen=frozen_statistics)
        augment = Augmentation(**recipe.augmentation.model_dump(exclude={"repeat"})) if freeze == "none" else None
        pace = _Pace(self.say, prefix)
        history, best = fit(
            model,
            train,
            held_out,
            network.spec.classes,
            fit_options(recipe),
            augment=augment or None,
            checkpoints=self.checkpoints,
            on_epoch=partial(self._say_epoch, pace, prefix),
            on_step=pace,
            cancelled=self.cancelled,
        )
        logits = predict_logits(model, held_out.inputs, recipe.batch_size)
        if centers is not None:
            set_rbf_head(network, centers, model)
        return _Fitted(history, best, logits)

    def _transformed(self, centers: RbfCenters, samples: Samples) -> Samples:
        with tempfile.NamedTemporaryFile(dir=self.scratch, prefix="likeness-", delete=False) as file:
            path = Path(file.name)
        return replace(samples, inputs=centers.transform(samples.inputs, path))

    def _say_epoch(self, pace: _Pace, prefix: str, epoch: Epoch) -> None:
        epochs = self.recipe.epochs
        left_s = pace.epoch_s(epoch.epoch) * (epochs - epoch.epoch)
        self.say(
            f"{prefix}epoch {epoch.epoch}/{epochs}, loss {epoch.train_loss:.3f}, val {epoch.val_top1:.1%}, "
            f"eta {left_s:.0f} s",
            epoch,
        )

    def _cross_validate(self, data: TrainingData, network: Any) -> Trained:
        """Train on all folds but one, in turn, and measure on that one; the last epoch counts, so nothing is chosen."""
        with closing(data):
            folds = self._timed("features", data.folds, self.job.folds)
        right = seen = 0.0
        for number, (training, validation) in enumerate(folds, start=1):
            mindspore.set_seed(self.recipe.seed)
            fresh = self._with_head_for(network, training)
            fitted = self._fit(fresh, training, validation, f"fold {number}/{len(folds)}, ")
            shutil.rmtree(self.checkpoints, ignore_errors=True)
            last = fitted.history[-1]
            right += last.val_top1 * len(validation.images)
            seen += len(validation.images)
            self.say(f"fold {number}/{len(folds)}: {last.val_top1:.2%} of {len(validation.images)} images, last epoch")
        accuracy = right / seen
        error = (accuracy * (1 - accuracy) / seen) ** 0.5
        return Trained(
            f"{accuracy:.2%} of {seen:.0f} images in {len(folds)} folds by family, standard error {error:.2%}",
            scores={"top1": accuracy, "standard_error": error, "images": seen},
        )

    def _publish(self, data: TrainingData, split: Split, network: Any, fitted: _Fitted) -> ModelVersion:
        made = " and an 8-bit graph, which takes half a minute," if self.recipe.int8 else ""
        self.say(f"publishing: export{made} and comparison of engines and precisions")
        started = time.perf_counter()
        targets = split.validation.samples().targets
        temperature = fit_temperature(fitted.logits, targets)
        network.spec = replace(network.spec, temperature=temperature)
        dataset, best = data.dataset, fitted.best
        counts = {
            "training": len(split.training.images),
            "validation": len(split.validation.images),
            "skipped": len(data.skipped),
        }
        seen = fingerprint(dataset, data.digests)
        training = {
            "job": self.job.job,
            "recipe": self.recipe.model_dump(mode="json"),
            "data_fingerprint": seen,
            "images": counts,
            "split": split.note,
            "leaks": len({copy for _, copy in split.leaks}),
            "best_epoch": best.epoch,
            "seconds": self.seconds,
        }
        report = TrainingReport(
            title=f"{self.job.name}, {self.job.job}",
            classes=dataset.classes,
            images=split.validation.images,
            root=dataset.root,
            logits=fitted.logits,
            temperature=temperature,
            history=fitted.history,
            best=best,
            recipe=self.recipe.model_dump(mode="json"),
            counts=counts,
            split=split.note,
            leaks=split.leaks,
            skipped=data.skipped,
            fingerprint=seen,
            seconds=self.seconds,
        )
        drawing = self._ends.enter_context(Drawing(plotted(report), self.scratch))

        def files(proofs: Mapping[str, PrecisionProof]) -> dict[str, bytes]:
            self.seconds["publish"] = round(time.perf_counter() - started, 3)
            return report_files(replace(report, precisions=proofs), drawing.plots(), self.runtime.limits)

        publication = Publication(
            graph=graph_of(network),
            preprocessing=data.preprocessing,
            golden_images=_pictures(_spread(split.validation.images, GOLDEN_IMAGES), data.preprocessing, self.runtime),
            classes=[
                ClassEntry(label=info.label, names=dict(info.names), group=info.group, folder=info.folder)
                for info in dataset.classes
            ],
            training=training,
            scores={
                "val_top1": best.val_top1,
                "val_top5": best.val_top5,
                "val_loss": best.val_loss,
                "temperature": temperature,
                "ece_uncalibrated": expected_calibration_error(fitted.logits, targets, 1.0),
                "ece": expected_calibration_error(fitted.logits, targets, temperature),
            },
            parent=self.job.backbone,
            validation=split.validation.images,
            calibration=_pictures(_spread(split.training.images, CALIBRATION_IMAGES), data.preprocessing, self.runtime)
            if self.recipe.int8
            else None,
            f16=self.recipe.f16,
            limits=self.runtime.limits,
            more_files=files,
        )
        return publish(self.runtime.store, self.job.name, publication)

    def _promote(self, version: ModelVersion, dataset: Dataset, split: Split) -> str:
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


class _Pace:
    """Says how long a training will take once a step has been timed, and how far a long epoch is."""

    def __init__(self, say: Callable[[str], None], prefix: str) -> None:
        self._say, self._prefix = say, prefix
        self._steps: list[float] = []
        self._started = self._said = time.monotonic()
        self._first: int | None = None
        self._is_estimated = False

    def epoch_s(self, epoch: int) -> float:
        """Return the seconds of an epoch so far; called after each. A checkpoint may have spared the first ones."""
        self._first = epoch if self._first is None else self._first
        self._said = time.monotonic()
        return (self._said - self._started) / (epoch - self._first + 1)

    def __call__(self, step: int, steps: int, step_s: float) -> None:
        self._steps.append(step_s)
        is_long = not self._is_estimated and (steps - step) * step_s > LONG_S
        self._is_estimated = True
        if not is_long and time.monotonic() - self._said < SAID_EVERY_S:
            return
        self._said = time.monotonic()
        recent = sorted(self._steps)[len(self._steps) // 2]
        self._steps.clear()
        self._say(
            f"{self._prefix}step {step}/{steps}, {recent * 1000:.0f} ms each, eta {(steps - step) * recent:.0f} s"
        )


def fit_options(recipe: Recipe) -> FitOptions:
    """Return the part of a recipe that ``fit`` follows."""
    names = {field.name for field in fields(FitOptions)}
    return FitOptions(**{key: value for key, value in recipe.model_dump().items() if key in names})


def _counted(seen: Seen) -> str:
    views = f" in {seen.views} views each" if seen.views > 1 else ""
    return f"{len(seen.images)} images{views}"


def _spread(images: list[LabelledImage], count: int) -> list[Path]:
    """Return up to ``count`` paths spread evenly over ``images``, and so over the classes."""
    places = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
    return [images[place].path for place in places]


def _pictures(paths: list[Path], preprocessing: Preprocessing, runtime: Runtime) -> NDArray[np.uint8]:
    return np.stack([load_image(path, preprocessing, runtime.limits).pixels for path in paths])
