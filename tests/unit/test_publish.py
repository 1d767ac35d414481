"""Publishing: what a version that is a graph and no more can do, what engines are held to, and what is cleared away."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import cv2
import mindspore
import numpy as np
import pytest

from configs.settings import Settings
from jobs.label import LabelChunk
from jobs.messages import ModelPin
from model_store.manifest import ClassEntry
from model_store.store import ModelStore
from tests.unit.seeded import seeded_network
from vision.errors import EngineError, VisionError
from vision.images.preprocess import Preprocessing
from vision.networks.lenet5 import LeNet5Spec
from vision.serving.engines import Engine, Images, ModelFiles, Outputs, open_engine, precisions
from vision.serving.engines.protocol import FEATURES, PROBABILITIES, GraphSpec
from worker.errors import JobRefused
from worker.label.chunk import label_chunk
from worker.models.exporting import ExportRefused, export_version
from worker.models.publish import Graph, Publication, compared_engines, graph_of, publish
from worker.runtime import Runtime

mindspore.set_context(mode=mindspore.GRAPH_MODE)

SPEC = LeNet5Spec(classes=3, height_px=24, width_px=32)
LABELS = ("cat", "dog", "hen")
IMAGES: Images = np.random.default_rng(0).integers(0, 256, (4, 24, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def graph() -> Graph:
    """A graph as one that came from elsewhere: no network, no weights, and held to an engine."""
    files = replace(graph_of(seeded_network(SPEC)).files, mindspore=None)
    return Graph(files=files, reference=lambda images: answers_of(files, images), reference_name="ONNX Runtime")


def answers_of(files: ModelFiles, images: Images) -> Outputs:
    engine = open_engine(files, engine="onnxruntime", device="cpu", precision="f32")
    try:
        return engine.predict(images)
    finally:
        engine.close()


def publication(graph: Graph) -> Publication:
    return Publication(
        graph=graph,
        preprocessing=Preprocessing(height_px=24, width_px=32),
        golden_images=IMAGES,
        classes=[ClassEntry(label=label, folder=label) for label in LABELS],
    )


def test_a_version_that_is_a_graph_and_no_more_labels(graph: Graph, tmp_path: Path) -> None:
    version = publish(ModelStore(tmp_path / "store"), "foreign", publication(graph))
    for number, image in enumerate(IMAGES):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image[:, :, ::-1])
    pin = ModelPin(name="foreign", version=1, digest=version.manifest.digest)
    chunk = LabelChunk(run="inbox-1", first=0, paths=("0.png", "1.png", "2.png", "3.png"), model=pin, top_k=3)
    runtime = Runtime(Settings(store=tmp_path / "store", device="cpu"))

    rows = label_chunk(chunk, runtime.classifier(pin), tmp_path).rows
    runtime.unload()

    assert version.manifest.network is None
    assert set(version.manifest.files) == {"serving.onnx", "golden.npz"}
    for row, expected in zip(rows, answers_of(graph.files, IMAGES), strict=True):
        assert [index for index, _ in row.top] == np.argsort(-expected, kind="stable").tolist()
        np.testing.assert_allclose([part for _, part in row.top], np.sort(expected)[::-1], atol=1e-4)


def test_what_needs_a_network_says_that_a_graph_has_none(graph: Graph, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    version = publish(store, "foreign", publication(graph))
    pin = ModelPin(name="foreign", version=1, digest=version.manifest.digest)

    with pytest.raises(ExportRefused, match="foreign:1 is a graph without a MindSpore network; pass --format onnx or"):
        export_version(store, "foreign:1", "ckpt", tmp_path)
    with pytest.raises(JobRefused, match="use engine openvino or onnxruntime"):
        Runtime(Settings(store=tmp_path / "store", device="cpu", engine="mindspore")).classifier(pin)
    assert "proven with" in export_version(store, "foreign:1", "onnx", tmp_path)


def test_weights_are_read_for_the_engine_that_needs_them_alone(tmp_path: Path) -> None:
    version = publish(ModelStore(tmp_path / "store"), "own", publication(graph_of(seeded_network(SPEC))))
    pin = ModelPin(name="own", version=1, digest=version.manifest.digest)
    (version.folder / "weights.safetensors").unlink()

    Runtime(Settings(store=tmp_path / "store", device="cpu")).classifier(pin).close()
    with pytest.raises(JobRefused, match=r"weights.safetensors is missing; restore it"):
        Runtime(Settings(store=tmp_path / "store", device="cpu", engine="mindspore")).classifier(pin)


def test_an_engine_that_answers_otherwise_than_the_reference_publishes_nothing(graph: Graph, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    other = replace(graph, reference=lambda images: np.roll(answers_of(graph.files, images), 1, axis=1))

    with pytest.raises(EngineError, match=r"openvino/f32 differs from ONNX Runtime by .* on the golden images"):
        publish(store, "foreign", publication(other))

    assert store.names() == []


def test_every_engine_is_compared_and_not_all_lie_in_memory_at_once(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[list[str]] = []

    def noted(model: ModelFiles, names: list[str]) -> AbstractContextManager[dict[str, Engine]]:
        opened.append(names)
        return compared_engines(model, names)

    monkeypatch.setattr("worker.models.publish.compared_engines", noted)

    version = publish(ModelStore(tmp_path / "store"), "foreign", publication(graph))

    names = [f"openvino/{precision}" for precision in precisions("openvino")]
    assert opened == [names, ["onnxruntime/f32"]]
    assert version.manifest.golden is not None
    assert version.manifest.golden.agreement.keys() == {*names, "onnxruntime/f32"}


def test_publishing_clears_away_what_killed_publishers_left_and_nothing_of_those_at_work(
    graph: Graph, tmp_path: Path
) -> None:
    store = ModelStore(tmp_path / "store")
    dead, busy = (store.root / "other" / "staging" / name for name in ("dead", "busy"))
    for folder in (dead, busy):
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").write_bytes(b"part")
    for path in (dead / "weights.safetensors", dead, busy):  # of a publisher at work, a file is young
        os.utime(path, (time.time() - 200_000,) * 2)

    publish(store, "foreign", publication(graph))

    assert (dead.exists(), busy.exists()) == (False, True)


def test_a_graph_spec_survives_json() -> None:
    spec = GraphSpec(height_px=24, width_px=32, outputs=3, kind=PROBABILITIES)

    assert GraphSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height_px": 0}, "graph spec: height_px is 0; it must be an integer from 1"),
        ({"outputs": True}, "outputs is True; it must be an integer"),
        ({"kind": "logits"}, "kind is 'logits'; it must be one of probabilities, features"),
        ({"dtype": "float32"}, "dtype is 'float32'; it must be one of uint8"),
        ({"layout": "NCHW"}, "layout is 'NCHW'; it must be one of NHWC"),
        ({"input_name": ""}, "input_name is ''; it must be a name"),
        ({"width": 3}, "missing keys: none; unknown keys: width"),
    ],
)
def test_a_graph_spec_that_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    value = GraphSpec(height_px=24, width_px=32, outputs=3, kind=FEATURES).to_json()

    with pytest.raises(VisionError, match=message):
        GraphSpec.from_json(value | change)
    with pytest.raises(VisionError, match="missing keys: outputs"):
        GraphSpec.from_json({key: value[key] for key in value.keys() - {"outputs"}})
