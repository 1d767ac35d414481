"""16-bit floats for GPUs: what they round and what they leave, and how the CUDA engine shares a device's memory."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import vision.serving.engines.onnx_cuda
from tests.unit.seeded import seeded_network
from vision.errors import EngineError
from vision.networks.lenet5 import LeNet5Spec
from vision.networks.mobilenet_v2 import MobileNetV2Spec
from vision.networks.network import build_served
from vision.networks.spec import NetworkSpec
from vision.serving.engines import ModelFiles, open_engine, precisions
from vision.serving.engines.half import (
    FLOAT,
    FLOAT16,
    GRAPH_NODE,
    GRAPH_TENSOR,
    MODEL_GRAPH,
    MODEL_OPSET,
    NODE_INPUT,
    NODE_KIND,
    NODE_NAME,
    OPSET_DOMAIN,
    OPSET_VERSION,
    TENSOR_NAME,
    TENSOR_TYPE,
    Field,
    convolutions_in_f16,
    parsed,
)
from vision.serving.engines.onnx_cuda import LANES, LARGEST_MICRO_BATCH, OnnxCudaEngine, page_locked
from vision.serving.export import export_onnx, graph_spec_of

mindspore.set_context(mode=mindspore.GRAPH_MODE)

LENET = LeNet5Spec(classes=10, height_px=32, width_px=28)
MOBILENET = MobileNetV2Spec(convention="tf", classes=5, height_px=64, width_px=48)


def files_of(spec: NetworkSpec, folder: Path) -> ModelFiles:
    path = folder / "serving.onnx"
    export_onnx(build_served(seeded_network(spec)), path)
    return ModelFiles(onnx=path.read_bytes(), graph=graph_spec_of(spec))


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return files_of(LENET, tmp_path_factory.mktemp("lenet"))


def pictures(spec: NetworkSpec, count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, spec.height_px, spec.width_px, 3), np.uint8)


def outputs_of(graph: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    outputs: NDArray[np.float32] = session.run(None, {"images": images})[0]
    return outputs


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        LENET,
        pytest.param(MOBILENET, marks=pytest.mark.long),
        replace(MOBILENET, intermediate_layers=(13,), hellinger=True),
    ],
    ids=["lenet5", "plain", "intermediate_layers"],
)
def test_convolutions_are_rounded_and_answers_stay_near(spec: NetworkSpec, tmp_path: Path) -> None:
    graph = files_of(spec, tmp_path).onnx
    images = pictures(spec, 6)

    half = convolutions_in_f16(graph)

    exact, rounded = outputs_of(graph, images), outputs_of(half, images)
    assert rounded.dtype == np.float32
    assert exact.std() > 0.01  # numbers that a mistake would change
    # On average: random layers amplify what is rounded, where trained ones differ by 0.02 at most.
    assert 0 < np.abs(rounded - exact).mean() < 0.02
    graph_fields = graph_of(half)
    kinds = {tensor[TENSOR_NAME]: tensor[TENSOR_TYPE] for tensor in map(dict, in_all(graph_fields, GRAPH_TENSOR))}
    weights: dict[object, set[object]] = {}
    for node in in_all(graph_fields, GRAPH_NODE):
        inputs = [value for field, value in node if field == NODE_INPUT]
        weights.setdefault(dict(node)[NODE_KIND], set()).update(kinds[name] for name in inputs if name in kinds)
    assert weights[b"Conv"] == {FLOAT16}
    assert weights[b"Gemm"] == {FLOAT}  # the head
    assert len(half) < len(graph)


@pytest.mark.slow
def test_the_head_computes_in_f32_from_one_cast_on(tmp_path: Path) -> None:
    half = convolutions_in_f16(files_of(replace(MOBILENET, hellinger=True), tmp_path).onnx)

    nodes = [dict(node) for node in in_all(graph_of(half), GRAPH_NODE)]
    names = [node[NODE_NAME] for node in nodes if node[NODE_KIND] == b"Cast"]

    # The pixels to floats, those to 16 bits, and the last convolution's maps back: what several read is cast once.
    assert len(names) == len(set(names)) == 3


@pytest.mark.slow
def test_clipping_16_bit_floats_needs_an_opset_that_gpus_have_it_in(tmp_path: Path) -> None:
    half = convolutions_in_f16(files_of(MOBILENET, tmp_path).onnx)

    opset = next(dict(one) for one in in_all(parsed(half), MODEL_OPSET) if not dict(one).get(OPSET_DOMAIN))
    assert opset == {OPSET_VERSION: 12}
    assert b"Clip" in {dict(node)[NODE_KIND] for node in in_all(graph_of(half), GRAPH_NODE)}


def test_what_is_no_graph_is_refused_with_the_reason() -> None:
    with pytest.raises(EngineError, match="can't be converted to f16"):
        convolutions_in_f16(b"PK\x03\x04 zip")


def test_f16_on_a_cpu_answers_as_a_gpu_would_and_auto_does_not_take_it(lenet: ModelFiles) -> None:
    images = pictures(LENET, 5)

    engine = open_engine(lenet, engine="onnxruntime", device="cpu", precision="f16")

    assert np.array_equal(engine.predict(images[:4]), outputs_of(convolutions_in_f16(lenet.onnx), images[:4]))
    assert engine.precision == "f16"
    engine.close()
    assert precisions("onnxruntime", lenet) == ("f32",)
    assert precisions("onnxruntime", lenet, "cuda") == ("f16", "f32")


class Device:
    """A device with memory for passes of so many images, all lanes together; it computes on the CPU."""

    def __init__(self, graph: bytes, room: int) -> None:
        self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self.room = room
        self.passes: list[int] = []

    def get_inputs(self) -> Any:
        return self._session.get_inputs()

    def run(self, names: None, feed: dict[str, NDArray[np.uint8]]) -> Any:
        count = len(feed["images"])
        if count > self.room:
            raise RuntimeError(
                f"BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of {count}"
            )
        self.passes.append(count)
        return self._session.run(names, feed)


@pytest.fixture
def device(lenet: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device(lenet.onnx, LARGEST_MICRO_BATCH)
    monkeypatch.setattr(vision.serving.engines.onnx_cuda, "_open_session", lambda graph, precision: device)
    return device


def test_passes_are_as_large_as_the_memory_allows(
    lenet: ModelFiles, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    device.room = 40
    images = pictures(LENET, 70)

    with caplog.at_level(logging.WARNING, "sortline.engine"):
        engine = OnnxCudaEngine(lenet)

    assert engine.micro_batch == 32
    assert device.passes == [32] * LANES  # what all lanes need at once is reserved at the start
    assert "holds no passes of 64 images: trying 32" in caplog.text
    np.testing.assert_allclose(engine.predict(images), outputs_of(lenet.onnx, images), atol=1e-6)
    engine.close()


def test_a_device_without_room_for_one_image_is_named(lenet: ModelFiles, device: Device) -> None:
    device.room = 0

    with pytest.raises(EngineError, match="memory does not hold this network and one image; free some of it"):
        OnnxCudaEngine(lenet)


def test_memory_that_others_take_later_halves_a_pass_and_costs_no_row(
    lenet: ModelFiles, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    engine = OnnxCudaEngine(lenet)
    images = pictures(LENET, LARGEST_MICRO_BATCH)
    device.room, device.passes = LARGEST_MICRO_BATCH // 4, []

    outputs = engine.predict(images)

    assert device.passes == [LARGEST_MICRO_BATCH // 4] * 4
    assert "run in halves" in caplog.text
    np.testing.assert_allclose(outputs, outputs_of(lenet.onnx, images), atol=1e-6)
    engine.close()


def test_any_other_failure_of_a_pass_is_told(
    lenet: ModelFiles, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = OnnxCudaEngine(lenet)

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    monkeypatch.setattr(device, "run", fail)
    with pytest.raises(EngineError, match="a forward pass failed: CUDA failure 700"):
        engine.predict(pictures(LENET, 3))
    engine.close()
    with pytest.raises(EngineError, match="can't run the graph on cuda: CUDA failure 700"):
        OnnxCudaEngine(lenet)


def test_a_host_without_a_driver_passes_ordinary_memory() -> None:
    buffer = page_locked((2, 3, 4, 3))

    buffer[:] = 7
    assert buffer.shape == (2, 3, 4, 3)
    assert buffer.dtype == np.uint8
    assert int(buffer.sum()) == 2 * 3 * 4 * 3 * 7


def graph_of(model: bytes) -> list[Field]:
    return in_all(parsed(model), MODEL_GRAPH)[0]


def in_all(message: list[Field], wanted: int) -> list[list[Field]]:
    return [parsed(value) for field, value in message if field == wanted and isinstance(value, bytes)]
