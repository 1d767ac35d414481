"""A trained or imported network -> a version in the store, proven equal on every engine that may serve it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.messages import ModelPin
from model_store.manifest import ClassEntry, Golden, ManifestDraft, PrecisionProof
from model_store.store import ModelStore, ModelVersion
from vision.errors import EngineError
from vision.images.decode import DEFAULT_LIMITS, ImageLimits
from vision.images.preprocess import Preprocessing
from vision.networks.foreign_spec import spec_metadata
from vision.networks.served import build_served, run_once
from vision.networks.weights import get_weights, write_safetensors
from vision.serving.engines import Engine, ModelFiles, precisions
from vision.serving.export import export_onnx
from vision.serving.quantise import quantise
from vision.training.dataset import LabelledImage
from worker.models.precision import GPU_F16, INT8_FILES, judge_precisions, open_on_cpu

log = logging.getLogger("sortline.publishing")

GOLDEN_TOLERANCE = 1e-3  # largest difference of a probability that another float32 engine may show
FEATURE_TOLERANCE = 1e-2  # of a backbone's features, which reach about 6
COMPARED_ENGINES = ("openvino", "onnxruntime")

Files = Callable[[Mapping[str, PrecisionProof]], Mapping[str, bytes]]


def publish_network(
    store: ModelStore,
    name: str,
    network: Any,
    preprocessing: Preprocessing,
    *,
    golden_images: NDArray[np.uint8],
    classes: list[ClassEntry],
    training: Mapping[str, Any],
    scores: Mapping[str, float],
    parent: ModelPin | None = None,
    validation: Sequence[LabelledImage] = (),
    calibration: NDArray[np.uint8] | None = None,
    f16: bool = False,
    limits: ImageLimits = DEFAULT_LIMITS,
    files: Files = lambda proofs: {},
) -> ModelVersion:
    """Export ``network``, compare every engine here with MindSpore on ``golden_images``, and publish the version.

    Args:
        golden_images: uint8 (K, H, W, 3) RGB, real inputs of the network; a worker replays them before it serves.
        validation: images that a classifier was not trained on. Every precision of this host labels them beside f32;
            without them none is judged, and only f32 serves unless a worker is told otherwise.
        calibration: uint8 (N, H, W, 3) RGB, images that it was trained on: an 8-bit graph is made with them, which is
            kept if it passes.
        f16: judge 16-bit floats too, which only GPU workers serve.
        files: makes more files of the version, by name, from the proofs of the precisions.

    Raises:
        EngineError: an engine answers differently than MindSpore; nothing is published.
    """
    spec = network.spec
    served = build_served(network)

    def write(folder: Path) -> ManifestDraft:
        weights, onnx = folder / "weights.safetensors", folder / "serving.onnx"
        write_safetensors(weights, get_weights(network), spec_metadata(spec))
        export_onnx(served, onnx, height_px=spec.height_px, width_px=spec.width_px)
        expected = run_once(served, golden_images)
        np.savez_compressed(folder / "golden.npz", images=golden_images, outputs=expected)
        model = ModelFiles(onnx=onnx.read_bytes(), weights=weights.read_bytes(), spec=spec)
        tolerance = GOLDEN_TOLERANCE if spec.classes else FEATURE_TOLERANCE
        if calibration is not None and spec.classes:
            model = _with_int8(model, calibration)
        with compared_engines(model, f16=f16) as engines:
            agreement = _agreement(engines, golden_images, expected, tolerance)
            proofs = judge_precisions(engines, validation, preprocessing, limits) if spec.classes else {}
        if model.int8 is not None and any(proofs[name].passed for name in proofs if "int8" in name):
            for file_name, data in zip(INT8_FILES, model.int8, strict=True):
                (folder / file_name).write_bytes(data)
        for file_name, data in files(proofs).items():
            (folder / file_name).write_bytes(data)
        return ManifestDraft(
            kind="classifier" if spec.classes else "backbone",
            network=spec.to_json(),
            preprocessing=dict(preprocessing.to_json()),
            classes=classes,
            training=dict(training),
            scores={key: float(value) for key, value in scores.items()},
            golden=Golden(
                inputs_sha256=hashlib.sha256(golden_images.tobytes()).hexdigest(),
                tolerance=tolerance,
                agreement=agreement,
            ),
            precisions=proofs,
            parent=str(parent) if parent else None,
        )

    return store.publish(name, write)


def _with_int8(model: ModelFiles, images: NDArray[np.uint8]) -> ModelFiles:
    """Return the model with an 8-bit graph, or as it is where none can be made."""
    try:
        return replace(model, int8=quantise(model.onnx, images))
    except EngineError as error:
        log.info("no 8-bit graph: %s", error)
        return model


@contextmanager
def compared_engines(model: ModelFiles, *, f16: bool) -> Iterator[dict[str, Engine]]:
    """Give every engine and precision that is to be had here, by "engine/precision", with ``f16`` also what GPUs serve.

    All at once, since each takes its time to compile the graph.
    """
    names = [f"{engine}/{precision}" for engine in COMPARED_ENGINES for precision in precisions(engine, model)]
    opened: dict[str, Engine] = {}
    with ExitStack() as stack:
        for name in [*names, GPU_F16] if f16 else names:
            try:
                opened[name] = stack.enter_context(closing(open_on_cpu(model, name)))
            except EngineError as error:
                log.info("not compared engine=%s: %s", name, error)
        yield opened


def _agreement(
    engines: Mapping[str, Engine], images: NDArray[np.uint8], expected: NDArray[np.float32], tolerance: float
) -> dict[str, float]:
    """Return each engine's largest difference from ``expected``.

    Only f32 must keep to ``tolerance``; what a lower precision may do is for its gate to say.
    """
    differences: dict[str, float] = {}
    for name, engine in engines.items():
        difference = float(np.abs(engine.predict(images) - expected).max(initial=0.0))
        if engine.precision == "f32" and not difference <= tolerance:
            raise EngineError(
                f"{name} differs from MindSpore by {difference:.2g} on the golden images (allowed {tolerance:g})"
            )
        differences[name] = difference
    return differences
