"""A foreign OpenVINO graph (.xml and .bin): what it takes and gives, what is refused, and its served form.

No converter makes ONNX of it, so OpenVINO alone serves it. The rest is as for ONNX graphs (`vision.imported.graph`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from vision.errors import EngineError
from vision.imported.description import LOGITS, Description, ImportRefused
from vision.imported.graph import INPUT, MAX_BYTES, MAX_NODES, OUTPUT, layout_of
from vision.imported.outliers import FLOOR, OUTLIER, POWER, OutlierScore
from vision.imported.sources import MODEL_INFO
from vision.serving import import_openvino

MAX_XML_BYTES: Final = 100_000_000  # half a kilobyte a node
CONTROL_FLOW: Final = ("If", "Loop", "TensorIterator")
PASSING: Final = ("Convert", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Result")
DTYPES: Final = {"f32": "float32", "f16": "float16", "u8": "uint8"}
NO_GRAPH: Final = "is not an OpenVINO graph, or a damaged one"


class IrSession:
    """A graph compiled in float32 on the CPU, with the one method of an ONNX Runtime session that is needed."""

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        options = {"INFERENCE_PRECISION_HINT": "f32", "CACHE_DIR": ""}
        self._names = names
        try:
            self._compiled = import_openvino().Core().compile_model(model, "CPU", options)
        except (RuntimeError, EngineError) as error:
            raise ImportRefused(f"OpenVINO refuses the graph: {sentence(error)}") from error

    def run(self, wanted: list[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """Return the named outputs, all where none is named."""
        found = self._compiled(list(feeds.values()))
        return [np.array(found[self._names.index(name)]) for name in wanted or self._names]


@dataclass(frozen=True, slots=True, kw_only=True)
class IrGraph:
    """A graph that passed the checks; its attributes are those of `ForeignGraph`."""

    model: Any
    input: str
    outputs: tuple[str, ...]
    dtype: str
    layout: str | None
    size: tuple[int, int] | None
    properties: dict[str, str]
    last: dict[str, str]

    def open(self) -> IrSession:
        """Return the graph as it came, ready to run."""
        return IrSession(self.model, self.outputs)

    def open_served(self, served: tuple[bytes, bytes]) -> IrSession:
        """Return a served form, ready to run."""
        return IrSession(import_openvino().Core().read_model(*served), (OUTPUT,))

    def wrap(
        self, facts: Description, output: str, dimensions: int, batch: int = 0, score: OutlierScore | None = None
    ) -> tuple[bytes, bytes]:
        """Return the served form as .xml and .bin; see `ForeignGraph.wrap`.

        Raises:
            RuntimeError: the graph has another batch built in.
        """
        return _wrapped(self, facts, self.outputs.index(output), dimensions, batch or -1, score)


def read_ir(path: Path) -> IrGraph:
    """Return the graph of an .xml file and the .bin beside it.

    Raises:
        ImportRefused: they are no OpenVINO graph, or hold what can't be served.
    """
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise ImportRefused(f"{path.name} has no {weights.name} beside it, which holds its weights")
    xml_bytes, bin_bytes = path.stat().st_size, weights.stat().st_size
    if xml_bytes > MAX_XML_BYTES or bin_bytes > MAX_BYTES:
        raise ImportRefused(
            f"{path.name} has {xml_bytes:,} bytes and {weights.name} {bin_bytes:,}; at most {MAX_XML_BYTES:,} and "
            f"{MAX_BYTES:,} are read"
        )
    xml = path.read_bytes()
    if b"<!DOCTYPE" in xml or b"<!ENTITY" in xml:
        raise ImportRefused(f"{path.name} defines entities of XML, which OpenVINO never writes")
    if b"<net" not in xml[:2000]:
        raise ImportRefused(f"{path.name} {NO_GRAPH}")
    openvino = import_openvino()
    try:
        model = openvino.Core().read_model(xml, weights.read_bytes())  # from bytes: no path in it is ever followed
    except Exception as error:  # of C++
        raise ImportRefused(f"{path.name} {NO_GRAPH}: {sentence(error)}") from error
    nodes = model.get_ordered_ops()
    if len(nodes) > MAX_NODES:
        raise ImportRefused(f"{path.name} has more than {MAX_NODES:,} nodes")
    if flow := sorted({node.get_type_name() for node in nodes}.intersection(CONTROL_FLOW)):
        raise ImportRefused(
            f"{path.name} uses control flow ({', '.join(flow)}), which can't be proven equal; convert the network in "
            "inference mode, for a fixed size"
        )
    if len(model.inputs) != 1 or not model.outputs:
        raise ImportRefused(f"{path.name} has {len(model.inputs)} inputs; a classifier of images takes one")
    kind = model.input(0).get_element_type().get_type_name()
    if kind not in DTYPES:
        raise ImportRefused(f"{path.name} takes {kind}; images are f32, f16 or u8")
    shape = model.input(0).get_partial_shape()
    sides = [0 if side.is_dynamic else side.get_length() for side in shape] if shape.rank.is_static else []
    layout, size = layout_of(sides, path.name)
    names = tuple(next(iter(sorted(out.get_names())), f"output {place}") for place, out in enumerate(model.outputs))
    return IrGraph(
        model=model,
        input="images",
        outputs=names,
        dtype=DTYPES[kind],
        layout=layout,
        size=size,
        properties=dict(_facts_in(model)),
        last={name: _last_operator(model.output(place).get_node()) for place, name in enumerate(names)},
    )


def _facts_in(model: Any) -> Iterator[tuple[str, str]]:
    """Yield the entries of rt_info's model_info, as text."""
    if model.has_rt_info(["model_info"]):
        for name, value in model.get_rt_info(["model_info"]).value.items():
            yield f"{MODEL_INFO}{name}", str(getattr(value, "value", value))


def _last_operator(node: Any) -> str:
    while node.get_type_name() in PASSING:
        node = node.input_value(0).get_node()
    kind = str(node.get_type_name())
    if kind == "Add" and any(value.get_node().get_type_name() == "MatMul" for value in node.input_values()):
        return "MatMul"
    return "Softmax" if kind in ("SoftMax", "Softmax") else kind


def _wrapped(
    graph: IrGraph, facts: Description, place: int, dimensions: int, batch: int, score: OutlierScore | None
) -> tuple[bytes, bytes]:
    openvino = import_openvino()
    from openvino import opset13 as ops

    model = graph.model.clone()
    height, width = facts.get("size")
    images = ops.parameter([batch, height, width, 3], openvino.Type.u8, INPUT)
    images.output(0).set_names({INPUT})
    last = images.output(0)
    if graph.dtype != "uint8":
        scale, mean, std = facts.get("scale", 1.0), np.array(facts.get("mean", 0.0)), np.array(facts.get("std", 1.0))
        factor = np.broadcast_to(scale / std, 3).astype(np.float32).reshape(1, 1, 1, 3)
        offset = np.broadcast_to(mean / std, 3).astype(np.float32).reshape(1, 1, 1, 3)
        scaled = ops.multiply(ops.convert(last, "f32"), ops.constant(factor))
        last = ops.subtract(scaled, ops.constant(offset)).output(0)
    if facts.get("colours", "RGB") == "BGR":
        last = ops.gather(last, ops.constant(np.array([2, 1, 0], np.int64)), ops.constant(np.int64(3))).output(0)
    if graph.layout == "NCHW":
        last = ops.transpose(last, ops.constant(np.array([0, 3, 1, 2], np.int64))).output(0)
    if graph.dtype == "float16":
        last = ops.convert(last, "f16").output(0)
    result = model.output(place).get_node().input_value(0)
    for user in model.input(0).get_node().output(0).get_target_inputs():
        user.replace_source_output(last)
    if dimensions != 2:
        result = ops.reshape(result, ops.constant(np.array([0, -1], np.int64)), special_zero=True).output(0)
    result = ops.convert(result, "f32").output(0)
    if facts.get("outputs") == LOGITS:
        result = ops.softmax(result, 1).output(0)
    result.set_names({OUTPUT})
    results = [ops.result(result, name=OUTPUT)]
    if score is not None:
        outlier = _scored(result, score)
        outlier.set_names({OUTLIER})
        results.append(ops.result(outlier, name=OUTLIER))
    made = openvino.Model(results, [images], "sortline")
    with tempfile.TemporaryDirectory(prefix="openvino-") as folder:
        path = Path(folder) / "served.xml"
        openvino.save_model(made, path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def _scored(probabilities: Any, score: OutlierScore) -> Any:
    """Return the outlier scores (N, 1) of probabilities."""
    from openvino import opset13 as ops

    def constant(value: float) -> Any:
        return ops.constant(np.float32(value))

    bounded = ops.clamp(probabilities, FLOOR, 1 - FLOOR)
    powers = ops.power(ops.multiply(bounded, ops.subtract(constant(1), bounded)), constant(POWER))
    entropy = ops.reduce_sum(powers, ops.constant(np.array([1], np.int64)), keep_dims=True)
    scaled = ops.multiply(ops.subtract(entropy, constant(score.lowest)), constant(1 / score.width))
    return ops.relu(scaled).output(0)


def sentence(error: Exception) -> str:
    """Return what OpenVINO says, without its source files."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join(said or lines)[:300]
