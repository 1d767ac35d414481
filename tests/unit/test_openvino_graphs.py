"""Classifiers in OpenVINO's format: what model_info says, the proof, what serves them, hostile files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model_store import ModelStore
from tests.conftest import sortline
from tests.foreign_graphs import LABELS, MEAN, SIDE, STD, TensorProto, network, photos, weights
from tests.unit.test_imported import import_, samples
from vision.errors import EngineError
from vision.images.resize import Resize, resized_as
from vision.imported import ImportRefused, read_ir
from vision.imported.sources import openvino as model_info
from vision.serving import import_openvino, open_engine
from worker.models.exporting import ExportRefused, export_version
from worker.models.files import read_files

INFO = {
    "model_type": "Classification",
    "labels": " ".join(LABELS),
    "resize_type": "standard",
    "mean_values": " ".join(str(255 * value) for value in MEAN),
    "scale_values": " ".join(str(255 * value) for value in STD),
    "reverse_input_channels": "True",
}
# sha256 of the images as they are resized here; OpenVINO 2026.4 on an AMD EPYC differs in 23 of 537,600 values, by 1.
SAME_EVERYWHERE = "b4ca6211f58040da511589a78b2c82f4e2b78059aad2ee7ca428059147ed6b36"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    monkeypatch.setenv("SORTLINE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)  # of the process of all tests
    return ModelStore(tmp_path / "store")


def ir(folder: Path, info: dict[str, str] | None = None, **options: Any) -> Path:
    """Write the network of the other tests as OpenVINO's .xml and .bin."""
    openvino = import_openvino()
    model = openvino.convert_model(network(folder / "m.onnx", **options))
    for name, value in (info or {}).items():
        model.set_rt_info(value, ["model_info", name])
    openvino.save_model(model, folder / "m.xml", compress_to_fp16=False)
    return folder / "m.xml"


def interpolated(pixels: np.ndarray[Any, Any], height: int, width: int) -> np.ndarray[Any, Any]:
    """Return the image as Model API's graph resizes it."""
    openvino = import_openvino()
    from openvino import opset10 as ops

    images = ops.parameter([1, *pixels.shape], np.uint8)
    sizes = {"axes": [1, 2], "mode": "linear", "shape_calculation_mode": "sizes"}
    resized = ops.interpolate(images, [height, width], scales=np.zeros(2, np.float32), **sizes)
    model = openvino.Model([ops.result(resized)], [images], "resize")
    return np.array(
        openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(pixels[None])[0][0]
    )


def test_an_image_is_resized_as_openvino_does_it() -> None:
    random, differing, all_pixels, digest = np.random.default_rng(0), 0, 0, hashlib.sha256()
    for height, width in ((480, 640), (31, 50), (224, 900), (700, 120)):
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        expected = interpolated(pixels, 224, 200).astype(int)
        found = resized_as(pixels, Resize(filter="openvino-linear", height_px=224, width_px=200), 224, 200)
        digest.update(found.tobytes())
        differing += int((found != expected).sum())
        all_pixels += expected.size
        assert np.abs(found - expected).max() <= 1
    assert differing <= all_pixels / 10_000  # some CPUs add in another order
    assert digest.hexdigest() == SAME_EVERYWHERE


def answers(paths: list[Path], *, is_inside: bool = False) -> np.ndarray[Any, Any]:
    """Return what Model API would give: OpenVINO's resize, mean and scale of model_info, softmax.

    Args:
        is_inside: the graph scales its values itself, by 1/255, and is given the BGR of OpenCV.
    """
    rows = []
    for path in paths:
        with Image.open(path) as opened:
            values = interpolated(np.asarray(opened.convert("RGB")), SIDE, SIDE).astype(np.float64)
        values = values[..., ::-1] / 255 if is_inside else (values - 255 * np.array(MEAN)) / (255 * np.array(STD))
        row = weights() @ values.reshape(4, 8, 4, 8, 3).mean(axis=(1, 3)).transpose(2, 0, 1).reshape(-1)
        rows.append(np.exp(row - row.max()) / np.exp(row - row.max()).sum())
    return np.array(rows)


@pytest.mark.parametrize("options", [{}, {"layout": "NHWC"}, {"batch": 1}, {"ending": "Softmax"}])
def test_a_graph_with_model_info_labels_as_model_api_does(
    options: dict[str, Any], tmp_path: Path, store: ModelStore, capsys: Any
) -> None:
    paths = photos(tmp_path / "photos")
    expected = answers(paths)
    check = samples(tmp_path / "samples.csv", paths, expected)

    assert import_(ir(tmp_path, INFO, **options), "--check", check) == 0

    said = capsys.readouterr().out
    assert "labels: 4, glass, metal, paper, ... (model_info in the graph)" in said
    assert "colours: RGB (model_info in the graph)" in said
    assert "check: 12 of 12 labels equal" in said
    files = read_files(store, store.resolve("foreign"))
    assert files.onnx == b""
    with pytest.raises(EngineError, match="a graph in OpenVINO's format; use engine openvino"):
        open_engine(files, engine="onnxruntime", device="cpu")
    engine = open_engine(files, device="cpu", precision="f32")
    assert engine.name == "openvino"
    engine.close()


def test_it_is_exported_as_it_is_served_and_not_as_onnx(tmp_path: Path, store: ModelStore) -> None:
    assert import_(ir(tmp_path, INFO)) == 0
    (tmp_path / "out").mkdir()

    with pytest.raises(ExportRefused, match="came in OpenVINO's format, of which no ONNX is made; pass --format"):
        export_version(store, "foreign", "onnx", tmp_path / "out")
    assert "proven with OpenVINO" in export_version(store, "foreign", "openvino", tmp_path / "out")
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".bin", ".json", ".xml"]


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"model_type": "SSD"}, "its model_type is 'SSD'; only Classification"),
        ({"multilabel": "True"}, r"several labels an image \(multilabel\)"),
        ({"hierarchical": "True"}, r"several labels an image \(hierarchical\)"),
        ({"multilabel": "YES"}, r"several labels an image \(multilabel\)"),  # as Model API saves it
        ({"intensity_mode": "window"}, "its intensity_mode is 'window', which scales values in a way of its own"),
        ({"intensity_mode": "percentile", "embedded_processing": "YES"}, "its intensity_mode is 'percentile'"),
        ({"input_dtype": "u16"}, "input_dtype is 'u16'; images have 8 bits"),
        ({"mean_values": "a b c"}, "mean is 'a,b,c'"),
    ],
)
def test_what_model_info_says_against_labelling_is_refused(info: dict[str, str], message: str) -> None:
    with pytest.raises(ImportRefused, match=message):
        model_info({f"model_info {name}": value for name, value in (INFO | info).items()}, (SIDE, SIDE), "float32")


@pytest.mark.parametrize(
    ("info", "missing"),
    [
        ({"reverse_input_channels": "False"}, "colours: order of the colour channels"),
        ({"resize_type": "other"}, "resize: what an image is resized to"),
        ({"interpolation_mode": "CUBIC"}, "filter: how it is resized"),
        ({"labels": ""}, "labels: the name of each output"),
    ],
)
def test_what_model_info_leaves_open_is_asked_for(
    info: dict[str, str], missing: str, tmp_path: Path, store: ModelStore, capsys: Any
) -> None:
    assert import_(ir(tmp_path, INFO | info)) == 1
    assert missing in capsys.readouterr().err


@pytest.mark.parametrize(
    ("info", "fit", "padding"),
    [
        ({"resize_type": "standard", "pad_value": "7"}, "stretch", 0),
        ({"resize_type": "crop"}, "crop", 0),
        ({"resize_type": "fit_to_window"}, "pad-corner", 0),
        ({"resize_type": "fit_to_window_letterbox", "pad_value": "114"}, "pad", 114),
    ],
)
def test_each_resize_type_is_read(info: dict[str, str], fit: str, padding: int) -> None:
    said = {f"model_info {name}": value for name, value in (INFO | info).items()}
    found = model_info(said, (SIDE, SIDE), "float32").resize()
    assert (found.fit, found.padding, found.height_px) == (fit, padding, SIDE)
    assert model_info(said, None, "float32").get("resize") is None
    wide = model_info(said, (SIDE, 2 * SIDE), "float32")  # Model API skews what it crops for it
    assert wide.get("resize") == (None if fit == "crop" else (SIDE, 2 * SIDE))


def test_a_graph_with_embedded_processing_says_the_size_where_its_own_is_open() -> None:
    said = {"embedded_processing": "YES", "orig_height": "40", "orig_width": "48", "resize_type": "standard"}
    named = {f"model_info {name}": value for name, value in said.items()}

    facts = model_info(named, None, "uint8")
    assert facts.get("size") == facts.get("resize") == (40, 48)
    facts = model_info(named, (SIDE, SIDE), "uint8")
    assert (facts.get("size"), facts.get("resize")) == (None, (SIDE, SIDE))


@pytest.mark.parametrize(
    ("info", "dtype", "scaled", "colours"),
    [
        ({}, "float32", True, "RGB"),
        ({}, "uint8", True, "RGB"),  # refused later: such a graph can't take them
        ({"embedded_processing": "NO", "reverse_input_channels": "NO"}, "float32", True, None),
        ({"embedded_processing": "YES"}, "uint8", False, "BGR"),
        ({"embedded_processing": "YES"}, "float32", False, "BGR"),
        ({"embedded_processing": "YES", "reverse_input_channels": "NO"}, "uint8", False, None),
    ],
)
def test_embedded_processing_scales_and_turns_colours_itself(
    info: dict[str, str], dtype: str, scaled: bool, colours: str | None
) -> None:
    facts = model_info({f"model_info {name}": value for name, value in (INFO | info).items()}, (SIDE, SIDE), dtype)
    mean, std = (tuple(255 * value for value in values) for values in (MEAN, STD))
    plain = (None, None) if dtype == "uint8" else ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert (facts.get("mean"), facts.get("std")) == ((mean, std) if scaled else plain)
    assert facts.get("colours") == colours


def test_a_graph_with_embedded_processing_is_given_pixels_as_they_are(tmp_path: Path, store: ModelStore) -> None:
    paths = photos(tmp_path / "photos")
    check = samples(tmp_path / "samples.csv", paths, answers(paths, is_inside=True))
    info = INFO | {"embedded_processing": "YES"}
    assert import_(ir(tmp_path, info, dtype=TensorProto.UINT8), "--check", check) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda xml: b"<!DOCTYPE net [<!ENTITY a 'aaaa'>]>" + xml, "defines entities of XML"),
        (lambda xml: xml[: len(xml) // 2], "is not an OpenVINO graph, or a damaged one"),
        (lambda xml: b"<svg/>", "is not an OpenVINO graph"),
        (lambda xml: xml.replace(b'type="AvgPool"', b'type="Stranger"'), "is not an OpenVINO graph, or a damaged one"),
        (lambda xml: xml.replace(b'offset="0"', b'offset="99999999999"'), "is not an OpenVINO graph, or a damaged one"),
        (lambda xml: xml.replace(b'size="768"', b'size="99999999999"'), "is not an OpenVINO graph, or a damaged one"),
    ],
)
def test_hostile_xml_is_refused_with_a_sentence(change: Any, message: str, tmp_path: Path) -> None:
    path = ir(tmp_path, INFO)
    before = path.read_bytes()
    path.write_bytes(change(before))
    assert path.read_bytes() != before

    with pytest.raises(ImportRefused, match=message) as refused:
        read_ir(path)
    assert "\n" not in str(refused.value)


def ending_in(path: Path, last: Callable[[Any, Any], Any]) -> Path:
    """Put more behind the output of the network in this file."""
    openvino = import_openvino()
    from openvino import opset10 as ops

    model = openvino.Core().read_model(path.read_bytes(), path.with_suffix(".bin").read_bytes())
    result = model.get_results()[0]
    result.input(0).replace_source_output(last(ops, result.input_value(0)))
    openvino.serialize(model, path)
    return path


def test_control_flow_is_refused(tmp_path: Path) -> None:
    def branches(ops: Any, last: Any) -> Any:
        openvino = import_openvino()
        inputs = [ops.parameter([1, 4], np.float32) for _ in range(2)]
        bodies = [openvino.Model([ops.result(one)], [one], "branch") for one in inputs]
        node = ops.if_op(ops.constant(np.array([True])).output(0))
        node.set_then_body(bodies[0])
        node.set_else_body(bodies[1])
        node.set_input(last, *inputs)
        return node.set_output(*(body.get_results()[0] for body in bodies))

    with pytest.raises(ImportRefused, match=r"m.xml uses control flow \(If\)"):
        read_ir(ending_in(ir(tmp_path, INFO), branches))


def test_too_many_nodes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision.imported.ir.MAX_NODES", 2)
    with pytest.raises(ImportRefused, match="more than 2 nodes"):
        read_ir(ir(tmp_path, INFO))


@pytest.mark.slow
def test_a_constant_of_a_terabyte_is_refused_within_bounded_memory(tmp_path: Path) -> None:
    def huge(ops: Any, last: Any) -> Any:
        ones = ops.broadcast(ops.constant(np.float32(1)), ops.constant(np.array([1 << 40], np.int64)))
        return ops.add(last, ops.reduce_sum(ones, ops.constant(np.array([0], np.int64)))).output(0)

    path = ending_in(ir(tmp_path, INFO), huge)
    done = sortline("models", "import", str(path), "--name", "huge", home=tmp_path, code=1)
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("sortline: ")
    assert done.stderr.count("\n") == 1


def test_weights_that_are_missing_cut_or_huge_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ir(tmp_path, INFO)
    with monkeypatch.context() as patch:
        patch.setattr("vision.imported.ir.MAX_BYTES", 10)
        with pytest.raises(ImportRefused, match=r"m.bin .*; at most 100,000,000 and 10 are read"):
            read_ir(path)
    path.with_suffix(".bin").write_bytes(b"x")
    with pytest.raises(ImportRefused, match="is not an OpenVINO graph, or a damaged one"):
        read_ir(path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(ImportRefused, match=r"m.xml has no m.bin beside it"):
        read_ir(path)
