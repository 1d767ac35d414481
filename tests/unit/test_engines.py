"""Engines: equal outputs from all of them, golden features, and refusals that say what to do."""

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import mindspore
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from base.process import available_cpus
from configs.settings import Settings
from tests.unit.seeded import seeded_network
from vision.errors import EngineError, ShapeError
from vision.networks.lenet5 import LeNet5Spec
from vision.networks.mobilenet_v2 import MobileNetV2Spec
from vision.networks.network import build_network, build_served
from vision.networks.spec import NetworkSpec
from vision.networks.weights import backbone_only, get_weights, read_foreign, set_weights, to_safetensors
from vision.serving.engines import (
    ENGINES,
    Engine,
    MindSporeNetwork,
    ModelFiles,
    open_engine,
    precision_here,
    precisions,
)
from vision.serving.engines.onnx_file import check_onnx
from vision.serving.engines.openvino import import_openvino, pooled_parts
from vision.serving.export import export_onnx, graph_spec_of
from worker.devices import look

mindspore.set_context(mode=mindspore.GRAPH_MODE)

SHARED = Path(__file__).resolve().parents[3] / "shared"
LENET = LeNet5Spec(classes=10, height_px=32, width_px=28, temperature=0.5)
MOBILENET = MobileNetV2Spec(convention="tf", classes=5, height_px=64, width_px=48)
NAMES = ("mindspore", "openvino", "onnxruntime")


def files_of(network: Any, folder: Path) -> ModelFiles:
    export_onnx(build_served(network), folder / "serving.onnx")
    trained = MindSporeNetwork(spec=network.spec.to_json(), weights=to_safetensors(get_weights(network), {}))
    onnx = (folder / "serving.onnx").read_bytes()
    return ModelFiles(onnx=onnx, graph=graph_spec_of(network.spec), mindspore=lambda: trained)


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return files_of(seeded_network(LENET), tmp_path_factory.mktemp("lenet"))


@pytest.fixture(scope="module", params=NAMES)
def engine(request: pytest.FixtureRequest, lenet: ModelFiles) -> Iterator[Engine]:
    opened = open_engine(lenet, engine=request.param, device="cpu", precision="f32")
    yield opened
    opened.close()


def pictures(spec: NetworkSpec, count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, spec.height_px, spec.width_px, 3), np.uint8)


def outputs_of(files: ModelFiles, name: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    opened = open_engine(files, engine=name, device="cpu", precision="f32")
    try:
        return opened.predict(images)
    finally:
        opened.close()


def test_all_engines_give_the_probabilities_of_the_cell_itself(engine: Engine) -> None:
    images = pictures(LENET, 19)
    expected = build_served(seeded_network(LENET))(mindspore.Tensor(images)).asnumpy()

    found = engine.predict(images)

    assert expected.std() > 0.01  # numbers that a mistake would change
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(MOBILENET, marks=pytest.mark.long),
        replace(MOBILENET, convention="torch", pooling="max", height_px=47),
        pytest.param(replace(MOBILENET, classes=0, height_px=33), marks=pytest.mark.long),
    ],
    ids=["tf", "torch, max, odd", "features, odd"],
)
def test_all_engines_agree_on_mobilenet(spec: NetworkSpec, tmp_path: Path) -> None:
    files = files_of(seeded_network(spec), tmp_path)
    images = pictures(spec, 6)

    reference, *others = (outputs_of(files, name, images) for name in NAMES)

    assert reference.shape == (6, spec.outputs)
    assert reference.std() > 0.01
    for found in others:
        # Random layers amplify the last digits: features, which reach 6, were seen to differ by 1.5e-4, and
        # probabilities with maxima as features by 3e-5 with AVX-512.
        np.testing.assert_allclose(found, reference, rtol=1e-4, atol=1e-4 if spec.classes else 3e-4)


def test_outputs_come_in_the_order_of_the_images(engine: Engine) -> None:
    images = pictures(LENET, 3 * engine.micro_batch + 1)

    whole = engine.predict(images)

    for index in (0, 1, engine.micro_batch, len(images) - 1):
        # Equal to the bit: an image's row must not depend on how the run was cut into chunks.
        assert np.array_equal(engine.predict(images[index : index + 1])[0], whole[index])


def test_no_images_give_no_outputs(engine: Engine) -> None:
    assert engine.predict(pictures(LENET, 0)).shape == (0, 10)
    assert engine.submit(pictures(LENET, 0)).result().shape == (0, 10)


def test_many_batches_may_be_under_way(engine: Engine) -> None:
    images = pictures(LENET, engine.micro_batch)
    expected = engine.predict(images)

    futures = [engine.submit(images[: 1 + index % len(images)]) for index in range(20)]

    assert not wait(futures, timeout=60).not_done
    for index, future in enumerate(futures):
        assert np.array_equal(future.result(), expected[: 1 + index % len(images)])


def test_arrays_that_do_not_fit_are_refused(engine: Engine) -> None:
    images = pictures(LENET, 2)

    with pytest.raises(
        ShapeError, match=r"images are float32 \(2, 32, 28, 3\); the network takes uint8 \(N, 32, 28, 3\)"
    ):
        engine.predict(images.astype(np.float32))
    with pytest.raises(ShapeError, match=r"images are uint8 \(2, 28, 32, 3\)"):
        engine.submit(images.transpose(0, 2, 1, 3))
    with pytest.raises(ShapeError, match=r"images are uint8 \(32, 28, 3\)"):
        engine.predict(images[0])
    with pytest.raises(ShapeError, match=rf"takes at most {engine.micro_batch}"):
        engine.submit(pictures(LENET, engine.micro_batch + 1))


def test_a_picture_that_is_a_view_of_another_is_fine(engine: Engine) -> None:
    images = pictures(LENET, 3)
    mirrored = images[:, :, ::-1]

    assert np.array_equal(engine.predict(mirrored), engine.predict(mirrored.copy()))


def test_an_engine_says_what_it_is(engine: Engine) -> None:
    assert engine.name in engine.describe()
    assert f"on cpu, f32, micro-batch {engine.micro_batch}" in engine.describe()


@pytest.mark.parametrize("name", NAMES)
def test_a_closed_engine_says_so(lenet: ModelFiles, name: str) -> None:
    opened = open_engine(lenet, engine=name, device="cpu")
    opened.close()
    opened.close()

    with pytest.raises(EngineError, match=f"the {name} engine is closed"):
        opened.predict(pictures(LENET, 1))


def test_the_choice_and_its_reason_are_one_log_line(lenet: ModelFiles, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sortline.engine"):
        opened = open_engine(lenet)
        opened.close()

    assert precision_here() in (opened.precision, None)
    assert precision_here("f32") == "f32"
    (line,) = caplog.messages
    assert line.startswith(f"engine={opened.name} device={opened.device} precision={opened.precision} micro_batch=")
    assert "cuda" in line


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"engine": "torch"}, "engine 'torch' is unknown; use auto or one of openvino"),
        ({"device": "tpu"}, "device 'tpu' is unknown"),
        (
            {"engine": "openvino", "device": "cuda"},
            "the openvino engine has no device 'cuda'; use cpu, or engine onnxruntime",
        ),
        ({"engine": "onnxruntime", "device": "ascend"}, "the onnxruntime engine has no device 'ascend'"),
        ({"engine": "onnxruntime", "device": "cpu", "precision": "bf16"}, "computes in f32 or f16, not in bf16"),
        ({"engine": "openvino", "precision": "int4"}, "precision 'int4' is unknown to the openvino engine"),
        ({"engine": "mindspore", "device": "ascend"}, "MindSpore can't use ascend: .* it needs Ascend CANN"),
        ({"threads": -1}, "threads is -1"),
    ],
)
def test_an_engine_that_can_not_be_had_is_refused(lenet: ModelFiles, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        open_engine(lenet, **choice)


def test_settings_name_the_engines_and_devices_of_the_table() -> None:
    engine, device = (Settings.model_fields[name].annotation for name in ("engine", "device"))

    assert get_args(engine) == ("auto", *ENGINES)
    assert set(get_args(device)) == {"auto", *(name for kinds in ENGINES.values() for name in kinds)}


def test_what_is_missing_is_a_line_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("openvino", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)

    found = look()

    assert list(found) == list(ENGINES)
    assert found["mindspore"] == {"usable": True, "text": f"{version('mindspore')}; trains on this machine"}
    for name, hint in (
        ("openvino", "OpenVINO is not installed; run: .*pip install"),
        ("onnxruntime", "not installed; "),
    ):
        assert found[name]["usable"] is False
        assert re.match(hint, str(found[name]["text"]))


def test_cuda_without_its_provider_names_the_package(lenet: ModelFiles) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(EngineError, match=r"for hosts with an NVIDIA GPU alone: .*sortline\[gpu\]") as caught:
        open_engine(lenet, device="cuda")
    assert "uninstall" not in str(caught.value)


def test_bf16_is_refused_where_the_cpu_lacks_it(lenet: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_openvino().Core, "get_property", lambda *_: ["FP32", "INT8"])
    assert precisions("openvino") == ("f32",)
    assert precision_here() in ("f32", None)
    with pytest.raises(EngineError, match=r"does not compute in bf16 .*: use precision f32"):
        open_engine(lenet, engine="openvino", precision="bf16")


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(MOBILENET, marks=pytest.mark.long),
        pytest.param(
            replace(MOBILENET, convention="torch", pooling="max", flip_averaging=True), marks=pytest.mark.long
        ),
        replace(
            MOBILENET,
            intermediate_layers=(8, 15),
            scales=(1.0, 1.43),
            hellinger=True,
            rbf_centers=6,
            outlier_distance=0.5,
        ),
    ],
    ids=["plain", "mirrored maxima, torch", "taps, scales, RBF units"],
)
def test_a_graph_in_two_parts_answers_as_the_whole(spec: NetworkSpec, tmp_path: Path) -> None:
    openvino = import_openvino()
    core, images = openvino.Core(), pictures(spec, 4)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    model = core.read_model(files_of(seeded_network(spec), tmp_path).onnx)
    model.reshape(list(images.shape))
    expected = core.compile_model(model, "CPU", exact)(images).to_tuple()

    body, head = pooled_parts(model)

    features = core.compile_model(body, "CPU", exact)(images)
    found = core.compile_model(head, "CPU", exact)(list(features.values())).to_tuple()
    assert len(found) == len(expected) == 1 + spec.gives_outlier
    for ours, whole in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, whole, atol=1e-5)
    kinds = [{node.get_type_name() for node in part.get_ops()} for part in (body, head)]
    assert ["Convolution" in each for each in kinds] == [True, False]
    assert "MatMul" in kinds[1]


@pytest.mark.slow
def test_a_head_in_bf16_would_differ_more_from_f32(tmp_path: Path) -> None:
    spec = replace(MOBILENET, hellinger=True, rbf_centers=64, temperature=0.1)
    files, images = files_of(seeded_network(spec), tmp_path), pictures(spec, 32)
    if "bf16" not in precisions("openvino"):  # such a CPU must say so, and can't show more
        with pytest.raises(EngineError, match="does not compute in bf16"):
            open_engine(files, engine="openvino", precision="bf16")
        return
    outputs = {}
    for precision in ("f32", "bf16"):
        engine = open_engine(files, engine="openvino", precision=precision)
        outputs[precision] = engine.predict(images)
        engine.close()
    core = import_openvino().Core()
    whole = core.compile_model(core.read_model(files.onnx), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})(images)[0]

    ours, theirs = (np.abs(found - outputs["f32"]).mean() for found in (outputs["bf16"], whole))

    assert 0 < ours < theirs / 2


def test_mindspore_needs_a_network(lenet: ModelFiles) -> None:
    with pytest.raises(EngineError, match="is a graph without a MindSpore network"):
        open_engine(replace(lenet, mindspore=None), engine="mindspore")


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_bytes_that_are_no_graph_are_refused(lenet: ModelFiles, name: str) -> None:
    for data in (b"", b"PK\x03\x04 zip", lenet.onnx[:-3], lenet.onnx[: len(lenet.onnx) // 2]):
        with pytest.raises(EngineError, match="not an ONNX file"):
            open_engine(replace(lenet, onnx=data), engine=name, device="cpu")


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_graph_of_another_network_is_refused(lenet: ModelFiles, name: str) -> None:
    files = replace(lenet, graph=replace(lenet.graph, outputs=7))

    with pytest.raises(EngineError, match="its files belong to different networks"):
        outputs_of(files, name, pictures(LENET, 1))


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(
    "inside",
    [
        lambda tensor: field(7, field(5, tensor)),  # model.graph.initializer
        lambda tensor: field(7, field(1, field(5, field(5, tensor)))),  # model.graph.node.attribute.t
        lambda tensor: field(7, field(1, field(5, field(6, field(5, tensor))))),  # ... .g.initializer
    ],
)
def test_tensors_in_other_files_are_refused(lenet: ModelFiles, name: str, inside: Callable[[bytes], bytes]) -> None:
    location = field(1, b"location") + field(2, b"../secret.bin")
    tensor = field(13, location) + b"\x70\x01"  # external_data, data_location = EXTERNAL

    # Protobuf merges repeated messages, so appending adds to the graph.
    with pytest.raises(EngineError, match="keeps tensors in other files"):
        open_engine(replace(lenet, onnx=lenet.onnx + inside(tensor)), engine=name, device="cpu")


def test_an_exported_graph_passes_the_check_and_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "two words" / "größe.onnx"
    target.parent.mkdir()

    export_onnx(build_served(build_network(LENET)), target)

    check_onnx(target.read_bytes())
    assert [path.name for path in tmp_path.rglob("*")] == ["two words", "größe.onnx"]


def test_importing_engines_loads_no_runtime_and_openvino_sends_no_telemetry() -> None:
    code = """
import sys
import vision.serving.engines, vision.networks.spec, vision.networks.weights
assert not {"mindspore", "openvino", "onnxruntime"} & set(sys.modules), "a runtime was loaded"
from vision.serving.engines.openvino import import_openvino
import_openvino()
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")], "telemetry was loaded"
assert "mindspore" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_the_cores_we_may_use_are_at_least_one_and_at_most_all() -> None:
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("mobilenetv2_100_imagenet_bn", "imagenet_bn"),
        pytest.param("mobilenetv2_100_imagenet", "imagenet", marks=pytest.mark.long),
    ],
)
def test_published_weights_give_the_golden_features(file: str, key: str, tmp_path: Path) -> None:
    if not SHARED.is_dir() and os.environ.get("CI") != "true":
        pytest.skip("the folder with published weights is not here")
    golden = json.loads((SHARED / "models" / "golden_features.json").read_text())
    images = np.stack([np.asarray(Image.open(SHARED / "data" / "waste" / row["file"])) for row in golden])
    imported = read_foreign(SHARED / "models" / f"{file}.safetensors")
    network = build_network(replace(imported.spec, classes=0))
    set_weights(network, backbone_only(imported.arrays, imported.spec))
    files = files_of(network, tmp_path)

    for name in ("mindspore", "openvino"):
        features = outputs_of(files, name, images)

        for found, row in zip(features, golden, strict=True):
            np.testing.assert_allclose(found[:8], row[key]["pooled_first8"], rtol=1e-3, atol=2e-3)
            assert found.sum() == pytest.approx(row[key]["pooled_sum"], rel=1e-3)
            assert np.linalg.norm(found) == pytest.approx(row[key]["pooled_l2"], rel=1e-3)


def field(number: int, data: bytes) -> bytes:
    """Return a protobuf field of bytes or a message, shorter than 128."""
    assert len(data) < 128
    tag = number << 3 | 2
    head = bytes([tag]) if tag < 128 else bytes([tag & 0x7F | 0x80, tag >> 7])
    return head + bytes([len(data)]) + data


def test_openvino_makes_all_its_requests_while_it_is_opened(lenet: ModelFiles) -> None:
    """A request made while another thread infers for the first time hung about one process in forty."""
    opened: Any = open_engine(lenet, engine="openvino", device="cpu")
    opened._compiled = None  # whoever makes another request now fails

    outputs = opened.predict(np.zeros((64, *lenet.graph.image_shape), np.uint8))

    assert outputs.shape == (64, lenet.graph.outputs)
    opened.close()
