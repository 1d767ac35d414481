"""The frozen part of a network as a graph: of a backbone of ours, of an imported one, or of several joined."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from configs import Backbone
from jobs import ModelPin
from model_store import ModelStore, ModelVersion
from vision import VisionError
from vision.imported import Joined, Part
from vision.networks import (
    USUAL_FLOAT_ENDS,
    NetworkSpec,
    ServedHead,
    backbone_only,
    build_network,
    network_kind,
    own_options,
    read_safetensors,
    run_once,
    set_weights,
    spec_from_json,
)
from vision.serving import (
    FEATURES,
    OUTLIER,
    PROBABILITIES,
    GraphSpec,
    Images,
    ModelFiles,
    Outputs,
    export_head,
    export_onnx,
    open_engine,
)
from vision.training import build_frozen, cut_of
from worker.errors import JobRefused
from worker.models.files import SERVING, WEIGHTS
from worker.models.joining import add_head_apart, join_apart
from worker.models.publish import Graph
from worker.train.training import Training

OWN = {"pooling", "intermediate_layers", "scales"}  # keys of a recipe that a backbone may have of its own
PLAIN = Backbone(name="plain", pooling="mean", intermediate_layers=(), scales=(1.0,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Several backbones as one graph, or an imported one.

    Attributes:
        files: pictures -> features.
        described: what the features depend on beside the image, for the cache.
        measured: the first of the backbones that tells near-duplicates, and where its features begin.
    """

    files: ModelFiles
    described: list[Any]
    measured: tuple[int, NetworkSpec] | None

    @property
    def width(self) -> int:
        """Length of the vector of features."""
        return self.files.graph.outputs

    @property
    def likeness(self) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
        """`NetworkSpec.last_map_features` for the features of all; None where no backbone tells near-duplicates."""
        if self.measured is None:
            return None
        start, spec = self.measured
        return lambda features: spec.last_map_features(features[:, start : start + spec.features])


def is_own(training: Training) -> bool:
    """Return whether the one backbone of the job, if any, is a network of ours, which may be trained itself."""
    pins = training.job.backbones
    if len(pins) != len(training.recipe.backbones):
        raise JobRefused(f"the recipe names {len(training.recipe.backbones)} backbones, and the job {len(pins)}")
    return not pins or (len(pins) == 1 and version_of(training.runtime.store, pins[0]).manifest.network is not None)


def version_of(store: ModelStore, pin: ModelPin) -> ModelVersion:
    """Return the version that the producer saw.

    Raises:
        JobRefused: the store has another one.
    """
    version = store.resolve(str(pin))
    if version.manifest.digest != pin.digest:
        raise JobRefused(f"the worker's store holds another {pin} than the producer saw; use one store for both")
    return version


def pretrained(training: Training, backbone: Backbone, pin: ModelPin, **shape: Any) -> Any:
    """Return a network of ours of this shape, its backbone with the weights of the version.

    Raises:
        VisionError: the network has no such options.
    """
    if backbone.features_at:
        raise JobRefused(f"{pin} is a network of Sortline's, whose features are pooled maps; leave features_at out")
    store, recipe = training.runtime.store, training.recipe
    spec = spec_from_json(version_of(store, pin).manifest.network)
    if len(recipe.backbones) == 1 and spec.name != recipe.network:
        raise JobRefused(f"the backbone {pin} is a {spec.name}, the recipe wants {recipe.network}")
    arrays, _ = read_safetensors(store.open_file(pin.name, pin.version, WEIGHTS))
    try:
        own = own_options(network_kind(spec.name), {**shape, **backbone.model_dump(include=OWN)})
        network = build_network(replace(spec, temperature=1.0, outlier_distance=0.0, **own))
        cut_of(network.spec, recipe.freeze)
    except VisionError as error:
        raise VisionError(f"backbone {pin}: {error}") from error
    set_weights(network, backbone_only(arrays, spec), allow_missing_head=True)
    return network


def frozen_onnx(store: ModelStore, pin: ModelPin | None, network: Any, freeze: str, spec: NetworkSpec) -> bytes:
    """Return the frozen part, of this spec, as ONNX: the version's own graph where that is it, else an export."""
    if pin is not None and spec_from_json(store.resolve(str(pin)).manifest.network) == spec:
        return store.open_file(pin.name, pin.version, SERVING)
    with tempfile.TemporaryDirectory(prefix="sortline-") as folder:
        path = Path(folder) / "graph.onnx"
        export_onnx(build_frozen(network, freeze), path)
        return path.read_bytes()


def join_backbones(training: Training) -> Body:
    """Return the features of the job's backbones as one graph, in the order of the recipe.

    Raises:
        JobRefused: an imported one is to be trained itself, or has no such options.
        VisionError: they can't be joined.
    """
    recipe = training.recipe
    specs: list[NetworkSpec | None] = []
    parts: list[Part] = []
    for backbone, pin in zip(recipe.backbones, training.job.backbones, strict=True):
        if recipe.freeze != "backbone":
            raise JobRefused(
                f"{pin} came as a graph, whose layers can't be trained, only a head on it; set freeze = backbone"
            )
        if version_of(training.runtime.store, pin).manifest.network is None:
            specs.append(None)
            parts.append(_imported(training, backbone, pin))
        else:
            part, spec = _of_ours(training, backbone, pin)
            specs.append(spec)
            parts.append(part)
    joined = join_apart(parts, recipe.height_px, recipe.width_px)
    for remark in joined.remarks:
        training.progress.report(remark)
    graph = GraphSpec(
        height_px=recipe.height_px,
        width_px=recipe.width_px,
        outputs=sum(joined.widths),
        kind=FEATURES,
        output_name="features",
        max_batch=joined.max_batch,
    )
    return Body(
        files=ModelFiles(onnx=joined.onnx, graph=graph),
        described=[
            [pin.digest, backbone.model_dump(mode="json"), recipe.flip_averaging, recipe.hellinger]
            for backbone, pin in zip(recipe.backbones, training.job.backbones, strict=True)
        ],
        measured=_measured(joined, specs),
    )


def _imported(training: Training, backbone: Backbone, pin: ModelPin) -> Part:
    odd = [key for key in ("pooling", "intermediate_layers") if getattr(backbone, key) != getattr(PLAIN, key)]
    if own := [key for key in odd if getattr(backbone, key) != getattr(training.recipe, key)]:
        raise JobRefused(f"{pin} came as a graph, which has no {' and no '.join(own)}; leave that out")
    if odd:  # as in the recipe that everybody starts from
        training.progress.report(f"{pin} came as a graph: the recipe's {' and '.join(odd)} left out")
    if SERVING not in version_of(training.runtime.store, pin).manifest.files:
        raise JobRefused(
            f"{pin} came in OpenVINO's format. A head is joined to an ONNX graph, and nothing makes ONNX of that "
            "format; import the ONNX file that it was made of"
        )
    return Part(
        name=str(pin),
        onnx=training.runtime.store.open_file(pin.name, pin.version, SERVING),
        features_at=backbone.features_at,
        scales=backbone.scales or (1.0,),
        flip_averaging=training.recipe.flip_averaging,
        hellinger=training.recipe.hellinger,
    )


def _of_ours(training: Training, backbone: Backbone, pin: ModelPin) -> tuple[Part, NetworkSpec]:
    shape = training.recipe.model_dump(include={"height_px", "width_px", "flip_averaging", "hellinger"})
    network = pretrained(training, backbone, pin, classes=0, rbf_centers=0, head_bias=True, **shape)
    onnx = frozen_onnx(training.runtime.store, pin, network, "backbone", network.spec)
    return Part(name=str(pin), onnx=onnx, gives_features=True), network.spec


def _measured(joined: Joined, specs: list[NetworkSpec | None]) -> tuple[int, NetworkSpec] | None:
    start = 0
    for width, spec in zip(joined.widths, specs, strict=True):
        if spec is not None and spec.tells_near_duplicates:
            return start, spec
        start += width
    return None


def graph_on(body: Body, network: Any) -> Graph:
    """Return the graph of pictures and probabilities: the body and a trained head, held to MindSpore's own head."""
    head = ServedHead(network)
    graph = replace(
        body.files.graph,
        outputs=network.spec.classes,
        kind=PROBABILITIES,
        output_name="outputs",
        outlier_name=OUTLIER if network.spec.gives_outlier else "",
    )
    return Graph(
        files=ModelFiles(onnx=add_head_apart(body.files.onnx, export_head(head)), graph=graph),
        float_ends=USUAL_FLOAT_ENDS,
        reference=partial(_answers, body, head),
        reference_name="MindSpore's head on ONNX Runtime's features",
    )


def _answers(body: Body, head: Any, images: Images) -> Outputs:
    engine = open_engine(body.files, engine="onnxruntime", device="cpu", precision="f32")
    try:
        return run_once(head, engine.predict(images))
    finally:
        engine.close()
