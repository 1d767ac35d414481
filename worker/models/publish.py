"""A trained or imported graph -> a version in the store, proven equal on every engine that may serve it."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from base.process import trim_memory
from jobs import ModelPin
from model_store import (
    Cascade,
    ClassEntry,
    Decisions,
    Golden,
    HeldOut,
    ManifestDraft,
    ModelStore,
    ModelVersion,
    PrecisionProof,
    StoreUnavailable,
)
from vision import EngineError
from vision.images import DEFAULT_LIMITS, ImageLimits, Preprocessing
from vision.networks import FloatEnds
from vision.serving import (
    ENGINES,
    PROBABILITIES,
    Engine,
    Images,
    MindSporeNetwork,
    ModelFiles,
    Outputs,
    export_onnx,
    graph_spec_of,
    precisions,
    quantise,
)
from vision.training import LabelledImage
from worker.models.files import FIRST, GOLDEN, INT8, OUTPUTS, SERVING, SERVING_IR, WEIGHTS
from worker.models.precision import ENGINE, GPU_F16, is_judged, judge_precisions, open_on_cpu

log = logging.getLogger("sortline.publishing")

GOLDEN_TOLERANCE = 1e-3  # largest difference of a probability that another float32 engine may show
FEATURE_TOLERANCE = 1e-2  # of a backbone's features, which reach about 6
# Part of the calibration images that an 8-bit graph must label as f32 does, or the next one leaves more in float. More
# than the gate asks for (`worker.models.precision`), which is of images that the network was not trained on.
ENOUGH_EQUAL = 0.98
COMPARED_ENGINES = tuple(name for name in ENGINES if name != "mindspore")  # MindSpore is the reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A graph to publish, and what its answers are held to.

    Attributes:
        files: as engines are given them, without an 8-bit graph.
        float_ends: what an 8-bit graph keeps in float, tried in this order; none where none is to be made.
        reference: returns the right outputs of pictures.
        reference_name: what computes them, for messages.
        tolerance: how far an engine may be from it, where it is not the usual one.
    """

    files: ModelFiles
    float_ends: Sequence[FloatEnds] = ()
    reference: Callable[[Images], Outputs]
    reference_name: str
    tolerance: float | None = None


@dataclass(frozen=True, slots=True)
class FirstGraph:
    """The first stage of a cascade, which takes the same pictures, and what the manifest says of it."""

    graph: Graph
    record: Cascade


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What the manifest says of a training, and more files of the version, by name."""

    training: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A graph, and all that a version says of it.

    Attributes:
        golden_images: uint8 (K, H, W, 3) RGB, real inputs of the network; a worker replays them before it serves.
        validation: images that a classifier was not trained on. Every precision of this host labels them beside f32;
            without them none is judged, and only f32 serves unless a worker's settings say otherwise.
        measured: gives the graph of a classifier as it was before a last training, on these images too: it is judged in
            the place of the published one, which knows them and labels them right in any precision.
        calibration: uint8 (N, H, W, 3) RGB, images that it was trained on: an 8-bit graph is made with them, which is
            kept if it passes.
        first: of a cascade; it has passed its gate.
        held_out: how it answered images that it was not trained on.
        decisions: which answers are accepted.
        f16: judge 16-bit floats too, which only GPU workers serve.
        details: is called at the end, with the proofs of the precisions.
    """

    graph: Graph
    preprocessing: Preprocessing
    golden_images: Images
    classes: list[ClassEntry] = field(default_factory=list)
    scores: Mapping[str, float] = field(default_factory=dict)
    parents: Sequence[ModelPin] = ()
    validation: Sequence[LabelledImage] = ()
    measured: Callable[[], ModelFiles] | None = None
    calibration: Images | None = None
    first: FirstGraph | None = None
    held_out: HeldOut | None = None
    decisions: Decisions | None = None
    f16: bool = False
    limits: ImageLimits = DEFAULT_LIMITS
    details: Callable[[Mapping[str, PrecisionProof]], Details] = lambda proofs: Details()

    @property
    def is_classifier(self) -> bool:
        return self.graph.files.graph.kind == PROBABILITIES


def graph_of(network: Any) -> Graph:
    """Return the graph of a MindSpore network, held to MindSpore itself."""
    # Here, since a graph that came as a file is published without MindSpore.
    from vision.networks import build_served, get_weights, run_once, spec_metadata, to_safetensors

    served = build_served(network)
    trained = MindSporeNetwork(
        spec=network.spec.to_json(), weights=to_safetensors(get_weights(network), spec_metadata(network.spec))
    )
    with tempfile.TemporaryDirectory(prefix="graph-") as folder:
        path = Path(folder) / "serving.onnx"
        export_onnx(served, path)
        files = ModelFiles(onnx=path.read_bytes(), graph=graph_spec_of(network.spec), mindspore=lambda: trained)
    return Graph(
        files=files,
        float_ends=network.spec.float_ends,
        reference=partial(run_once, served),
        reference_name="MindSpore",
    )


def publish(store: ModelStore, name: str, what: Publication) -> ModelVersion:
    """Compare every engine here with the graph's reference, and publish a version of ``name``.

    What publishers that were killed left in the store is removed first.

    Raises:
        EngineError: an engine answers differently than the reference; nothing is published.
    """
    try:
        store.sweep()
    except StoreUnavailable as error:  # such as a folder of another user
        log.warning("what a killed publisher left stays: %s", error)
    return store.publish(name, partial(_write, what))


def _write(what: Publication, folder: Path) -> ManifestDraft:
    """Run every engine and precision of this host on the golden images, a classifier on the validation images too."""
    model, images = what.graph.files, what.golden_images
    expected = what.graph.reference(images)
    tolerance = what.graph.tolerance or (GOLDEN_TOLERANCE if what.is_classifier else FEATURE_TOLERANCE)
    ends = None
    if what.calibration is not None and what.is_classifier and what.graph.float_ends:
        model, ends = with_int8(model, what.calibration, what.graph.float_ends)
    trim_memory()
    names = engine_names(model, f16=what.f16)
    judged = [name for name in names if what.is_classifier and is_judged(name)]
    # Not all at once, which would take more memory than all that went before.
    agreement, proofs = _compare(what, model, judged, expected, tolerance)
    agreement |= _compare(what, model, [name for name in names if name not in judged], expected, tolerance)[0]
    if what.measured is not None and len(judged) > 1:
        proofs = _judge_measured(what, what.measured(), judged, ends)
    agreement = {name: agreement[name] for name in names if name in agreement}
    cascade, first_files, first_golden = _first_stage(what, tolerance)
    details = what.details(proofs)
    trained = model.mindspore() if model.mindspore is not None else None
    graph = {SERVING: model.onnx} if model.ir is None else dict(zip(SERVING_IR, model.ir, strict=True))
    files = {**graph, **first_files, **details.files}
    if trained is not None:
        files[WEIGHTS] = trained.weights
    if model.int8 is not None and any(proof.passed for name, proof in proofs.items() if "int8" in name):
        files |= dict(zip(INT8, model.int8, strict=True))
    for file_name, data in files.items():
        (folder / file_name).write_bytes(data)
    np.savez_compressed(folder / GOLDEN, images=images, **{OUTPUTS[SERVING]: expected}, **first_golden)
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    return ManifestDraft(
        kind="classifier" if what.is_classifier else "backbone",
        graph=model.graph.to_json(),
        network=trained.spec if trained is not None else None,
        preprocessing=dict(what.preprocessing.to_json()),
        classes=what.classes,
        training=dict(details.training),
        scores={key: float(value) for key, value in what.scores.items()},
        golden=Golden(inputs_sha256=digest, tolerance=tolerance, agreement=agreement),
        precisions=proofs,
        cascade=cascade,
        held_out=what.held_out,
        decisions=what.decisions,
        parents=[str(pin) for pin in what.parents],
    )


def _compare(
    what: Publication, model: ModelFiles, names: Sequence[str], expected: Outputs, tolerance: float
) -> tuple[dict[str, float], dict[str, PrecisionProof]]:
    """Return how far each engine is from the ``expected`` outputs, and the proofs of those that are judged here."""
    with compared_engines(model, names) as engines:
        agreement = _agreement(engines, what.golden_images, expected, tolerance, what.graph.reference_name)
        is_wanted = what.is_classifier and what.measured is None and all(map(is_judged, engines))
        return agreement, _judge(what, engines) if is_wanted else {}


def _judge_measured(
    what: Publication, measured: ModelFiles, names: Sequence[str], ends: FloatEnds | None
) -> dict[str, PrecisionProof]:
    if what.calibration is not None and ends is not None:
        measured, _ = with_int8(measured, what.calibration, [ends])
    trim_memory()  # of the engines before, and of what making the graph took
    with compared_engines(measured, names) as engines:
        return _judge(what, engines)


def _judge(what: Publication, engines: Mapping[str, Engine]) -> dict[str, PrecisionProof]:
    return judge_precisions(engines, what.validation, what.preprocessing, what.limits)


def _first_stage(what: Publication, tolerance: float) -> tuple[Cascade | None, dict[str, bytes], dict[str, Outputs]]:
    """Return what the manifest says of the first stage, its file, and its outputs for the golden images, by name."""
    if (first := what.first) is None:
        return None, {}, {}
    expected = first.graph.reference(what.golden_images)
    with compared_engines(first.graph.files, engine_names(first.graph.files, f16=False)) as engines:
        agreement = _agreement(engines, what.golden_images, expected, tolerance, first.graph.reference_name)
    record = first.record.model_copy(update={"agreement": agreement})
    return record, {FIRST: first.graph.files.onnx}, {OUTPUTS[FIRST]: expected}


def with_int8(model: ModelFiles, images: Images, tries: Sequence[FloatEnds]) -> tuple[ModelFiles, FloatEnds | None]:
    """Return the model with an 8-bit graph and what that keeps in float, or as it is where none can be made.

    Of several ``tries`` the first counts that labels enough of the ``images``, those of calibration, as f32 does; the
    last one counts in any case, since the gate of precisions judges it.
    """
    made, kept, wanted = model, None, None
    for ends in tries:
        try:
            made, kept = replace(model, int8=quantise(model, images, *ends)), ends
            if len(tries) == 1:
                break
            wanted = _labels(model, images, "f32") if wanted is None else wanted
            equal = float((_labels(made, images, "int8") == wanted).mean())
        except EngineError as error:
            log.info("no 8-bit graph with %d and %d convolutions in float: %s", *ends, error)
            break
        log.info("8-bit graph with %d and %d convolutions in float: %.1f %% of f32's labels", *ends, 100 * equal)
        if equal >= ENOUGH_EQUAL:
            break
    return made, kept


def _labels(model: ModelFiles, images: Images, precision: str) -> Any:
    with closing(open_on_cpu(model, f"{ENGINE}/{precision}")) as engine:
        return engine.graph.parted(engine.predict(images))[0].argmax(axis=1)


def engine_names(model: ModelFiles, *, f16: bool) -> list[str]:
    """Return every "engine/precision" that may be had here, with ``f16`` also what GPUs serve."""
    names = [f"{engine}/{precision}" for engine in COMPARED_ENGINES for precision in precisions(engine, model)]
    return [*names, GPU_F16] if f16 else names


@contextmanager
def compared_engines(model: ModelFiles, names: Sequence[str]) -> Iterator[dict[str, Engine]]:
    """Give these engines, by "engine/precision", without those that are not to be had.

    All at once, since each takes its time to compile the graph.
    """
    opened: dict[str, Engine] = {}
    with ExitStack() as stack:
        for name in names:
            try:
                opened[name] = stack.enter_context(closing(open_on_cpu(model, name)))
            except EngineError as error:
                log.info("not compared engine=%s: %s", name, error)
            trim_memory()  # of what compiling took
        yield opened


def _agreement(
    engines: Mapping[str, Engine], images: Images, expected: Outputs, tolerance: float, reference: str
) -> dict[str, float]:
    """Return each engine's largest difference from ``expected``.

    Only f32 must keep to ``tolerance``; what a lower precision may do is for its gate to say.
    """
    differences: dict[str, float] = {}
    for name, engine in engines.items():
        difference = engine.graph.difference(engine.predict(images), expected)
        if engine.precision == "f32" and not difference <= tolerance:
            raise EngineError(
                f"{name} differs from {reference} by {difference:.2g} on the golden images (allowed {tolerance:g})"
            )
        differences[name] = difference
    return differences
