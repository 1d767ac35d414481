"""8-bit graphs: what stays in float, how near they come, and that only proven ones are published."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import mindspore
import numpy as np
import pytest
from numpy.typing import NDArray

import vision.serving.engines.openvino
import worker.models.precision
import worker.models.publish as publishing
from configs.settings import Settings
from jobs.messages import ModelPin
from model_store.manifest import ClassEntry
from model_store.store import ModelStore
from tests.unit.seeded import seeded_network
from vision.errors import EngineError
from vision.images.preprocess import Preprocessing
from vision.networks.lenet5 import LeNet5Spec
from vision.networks.mobilenet_v2 import MobileNetV2Spec
from vision.networks.network import build_served
from vision.networks.spec import USUAL_FLOAT_ENDS, FloatEnds
from vision.serving.engines import ModelFiles, open_engine, precisions
from vision.serving.engines.openvino import import_openvino
from vision.serving.export import export_onnx, graph_spec_of
from vision.serving.quantisation import kept_in_float, quantise
from vision.training.dataset import LabelledImage
from worker.errors import JobRefused
from worker.models.files import read_files
from worker.models.publish import Publication, graph_of, publish
from worker.runtime import Runtime

mindspore.set_context(mode=mindspore.GRAPH_MODE)

# Intermediate maps are pooled before the last convolutions in some orders of the graph, and must not take those along.
SPEC = MobileNetV2Spec(
    convention="tf", classes=5, height_px=48, width_px=64, intermediate_layers=(15,), temperature=0.2
)


FLOAT_FIRST, FLOAT_LAST = ENDS = MobileNetV2Spec.float_ends[0]


@pytest.fixture(autouse=True)
def with_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have 8-bit graphs made and run on every CPU: without VNNI they only answer a little less like f32."""
    monkeypatch.setattr(vision.serving.engines.openvino, "has_vnni", lambda: True)


@pytest.fixture(scope="module")
def network() -> Any:
    return seeded_network(SPEC)


@pytest.fixture(scope="module")
def proven(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with ``noise:1``, whose 8-bit graph has passed."""
    return publish_noise(network, tmp_path_factory.mktemp("proven"), least_equal=0.0)


@pytest.fixture(scope="module")
def files(proven: Path) -> ModelFiles:
    store = ModelStore(proven)
    return read_files(store, store.resolve("noise:1"))


@pytest.mark.slow
def test_all_convolutions_but_the_first_and_last_ones_are_in_8_bits_and_the_head_is_not(files: ModelFiles) -> None:
    assert files.int8 is not None
    nodes = import_openvino().Core().read_model(*files.int8).get_ordered_ops()

    convolutions = [bits_of(node) for node in nodes if "Convolution" in node.get_type_name()]
    dense = [bits_of(node) for node in nodes if node.get_type_name() == "MatMul"]

    assert sorted(convolutions) == [8] * (52 - FLOAT_FIRST - FLOAT_LAST) + [32] * (FLOAT_FIRST + FLOAT_LAST)
    assert convolutions[:FLOAT_FIRST] == [32] * FLOAT_FIRST
    assert dense == [32]


@pytest.mark.long
def test_each_scale_and_its_mirror_image_have_their_own_first_and_last_convolutions(tmp_path: Path) -> None:
    exported(seeded_network(replace(SPEC, scales=(1.0, 0.75), flip_averaging=True)), tmp_path)
    model = import_openvino().convert_model(tmp_path / "n.onnx")
    convolutions = {node.get_friendly_name() for node in model.get_ops() if "Convolution" in node.get_type_name()}

    kept = kept_in_float(model, *ENDS)

    assert len(convolutions) == 4 * 52  # two scales, each mirrored, too
    assert len(convolutions & set(kept)) == 4 * (FLOAT_FIRST + FLOAT_LAST)


@pytest.mark.slow
def test_an_8_bit_graph_answers_nearly_as_f32(files: ModelFiles) -> None:
    images = pictures(9)
    outputs = {}
    for precision in precisions("openvino", files):
        engine = open_engine(files, engine="openvino", precision=precision)
        assert engine.precision == precision
        outputs[precision] = engine.predict(images)
        engine.close()

    for name in {*outputs} - {"f32"}:
        differences = np.abs(outputs[name] - outputs["f32"])
        assert differences.max() > 0
        assert differences.mean() < outputs["f32"].std() / 5
        np.testing.assert_allclose(outputs[name].sum(1), 1, atol=1e-5)


@pytest.mark.slow
def test_an_8_bit_graph_that_passed_is_published_and_served(proven: Path) -> None:
    version = ModelStore(proven).resolve("noise:1")

    proof = version.manifest.precisions["openvino/int8"]
    assert (proof.images, proof.passed) == (6, True)
    assert {name for name in version.manifest.files if "int8" in name} == {"serving.int8.xml", "serving.int8.bin"}
    fastest = "int8+bf16" if "bf16" in precisions("openvino") else "int8"
    served = [precision_of(proven, asked) for asked in ("auto", fastest, "int8", "f32")]
    assert served == [fastest, fastest, "int8", "f32"]


@pytest.mark.long
def test_an_8_bit_graph_that_failed_is_neither_published_nor_served(network: Any, tmp_path: Path) -> None:
    store = publish_noise(network, tmp_path, least_equal=1.1)

    version = ModelStore(store).resolve("noise:1")
    proof = version.manifest.precisions["openvino/int8"]
    assert (proof.images, proof.passed) == (6, False)
    assert not [name for name in version.manifest.files if "int8" in name]
    assert precision_of(store, "auto") == "f32"
    with pytest.raises(JobRefused, match="no 8-bit graph"):
        precision_of(store, "int8")


def test_a_network_of_few_convolutions_is_left_in_float(tmp_path: Path) -> None:
    spec = LeNet5Spec(classes=4, height_px=48, width_px=64)
    onnx = exported(seeded_network(spec), tmp_path)

    with pytest.raises(EngineError, match="too few convolutions for 8 bits: 2"):
        quantise(ModelFiles(onnx=onnx, graph=graph_spec_of(SPEC)), pictures(2), *ENDS)
    with pytest.raises(EngineError, match="no 8-bit graph for int8; use precision auto"):
        open_engine(ModelFiles(onnx=onnx, graph=graph_spec_of(spec)), engine="openvino", precision="int8")


@pytest.mark.slow
def test_a_damaged_8_bit_graph_is_refused(files: ModelFiles) -> None:
    assert files.int8 is not None
    xml, weights = files.int8
    for damaged in ((xml[:-100], weights), (xml, weights[:-100]), (b"", weights), (b"<net/>", b"")):
        with pytest.raises(EngineError, match="refuses"):
            open_engine(replace(files, int8=damaged), engine="openvino", precision="int8")


def test_int8_comes_first_where_there_is_a_graph(tmp_path: Path) -> None:
    without = ModelFiles(onnx=b"", graph=graph_spec_of(SPEC))

    assert precisions("openvino", replace(without, int8=(b"", b""))) in (
        ("int8+bf16", "bf16", "int8", "f32"),
        ("int8", "f32"),
    )
    assert precisions("openvino", without) == precisions("openvino")
    assert precisions("onnxruntime", replace(without, int8=(b"", b""))) == ("f32",)


def test_int8_is_refused_where_the_cpu_lacks_vnni(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = LeNet5Spec(classes=4, height_px=48, width_px=64)
    with_graph = ModelFiles(onnx=exported(seeded_network(spec), tmp_path), graph=graph_spec_of(spec), int8=(b"", b""))
    monkeypatch.setattr(vision.serving.engines.openvino, "has_vnni", lambda: False)

    assert precisions("openvino", with_graph) == precisions("openvino")
    with pytest.raises(EngineError, match="no VNNI, which int8 needs; use precision auto"):
        open_engine(with_graph, engine="openvino", precision="int8")


def exported(network: Any, folder: Path) -> bytes:
    export_onnx(build_served(network), folder / "n.onnx")
    return (folder / "n.onnx").read_bytes()


def pictures(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, SPEC.height_px, SPEC.width_px, 3), np.uint8)


def bits_of(node: Any) -> int:
    """Return in how many bits a node's weights are stored."""
    found, nodes = 32, [node.input_value(1).get_node()]
    while nodes:
        node = nodes.pop()
        if node.get_type_name() == "Constant" and node.get_element_type().size == 1:
            found = 8
        nodes += [source.get_node() for source in node.input_values()]
    return found


def publish_noise(network: Any, folder: Path, least_equal: float) -> Path:
    """Publish ``noise:1``, whose 8-bit graph passes if so many of its answers are the first; return the store."""
    images = []
    for number, pixels in enumerate(pictures(6)):
        cv2.imwrite(str(folder / f"{number}.png"), pixels)
        images.append(LabelledImage(folder / f"{number}.png", number % SPEC.classes))
    publication = Publication(
        graph=graph_of(network),
        preprocessing=Preprocessing(height_px=SPEC.height_px, width_px=SPEC.width_px),
        golden_images=pictures(4),
        classes=[ClassEntry(label=label, folder=label) for label in "abcde"],
        validation=images,
        calibration=pictures(8),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker.models.precision, "LEAST_EQUAL", least_equal)
        patch.setattr(worker.models.precision, "MOST_LOST", 1.0)
        patch.setattr(vision.serving.engines.openvino, "has_vnni", lambda: True)
        publish(ModelStore(folder / "store"), "noise", publication)
    return folder / "store"


def precision_of(store: Path, asked: str) -> str:
    settings = Settings.model_validate({"store": store, "device": "cpu", "precision": asked})
    manifest = ModelStore(store).resolve("noise:1").manifest
    classifier = Runtime(settings).classifier(ModelPin(name="noise", version=1, digest=manifest.digest))
    classifier.close()
    return classifier.engine.precision


@pytest.mark.parametrize(
    ("equal", "kept"),
    [({2: 0.9, 4: 0.99, 9: 1.0}, 4), ({2: 0.99, 4: 0.9, 9: 0.9}, 2), ({2: 0.5, 4: 0.5, 9: 0.5}, 9)],
    ids=["more is left in float", "enough at once", "the last one, for the gate"],
)
def test_as_much_is_left_in_float_as_f32s_labels_take(
    equal: dict[int, float], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.zeros((100, 1, 1, 3), np.uint8)

    def answering(model: ModelFiles, name: str) -> Any:
        same = 100 if model.int8 is None or name.endswith("f32") else round(100 * equal[len(model.int8[0])])
        labels = np.eye(2, dtype=np.float32)[[0] * same + [1] * (100 - same)]
        return SimpleNamespace(predict=lambda _: labels, graph=model.graph, close=lambda: None)

    monkeypatch.setattr(publishing, "quantise", lambda model, _, first, last: (b"x" * last, b""))
    monkeypatch.setattr(publishing, "open_on_cpu", answering)
    plain = ModelFiles(onnx=b"", graph=graph_spec_of(SPEC))

    found, _ = publishing.with_int8(plain, images, [FloatEnds(1, 2), FloatEnds(1, 4), FloatEnds(3, 9)])

    assert found.int8 is not None
    assert len(found.int8[0]) == kept


def test_a_graph_that_can_not_be_quantised_stays_as_it_is(tmp_path: Path) -> None:
    spec = LeNet5Spec(classes=4, height_px=48, width_px=64)
    plain = ModelFiles(onnx=exported(seeded_network(spec), tmp_path), graph=graph_spec_of(spec))

    assert publishing.with_int8(plain, pictures(2), USUAL_FLOAT_ENDS) == (plain, None)
