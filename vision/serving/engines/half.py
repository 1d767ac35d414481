"""A served graph with its convolutions in 16-bit floats: what GPUs compute fastest.

The graph is edited as the protocol buffer that it is, by the field numbers of onnx.proto
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from vision.errors import EngineError
from vision.protobuf import encoded, fields

JOINING: Final = (b"Clip", b"Add", b"Relu")  # what stands between convolutions
OPSET: Final = 12  # in older ones ONNX Runtime clips 16-bit floats on the CPU, without a word

MODEL_GRAPH, MODEL_OPSET = 7, 8
OPSET_DOMAIN, OPSET_VERSION = 1, 2
GRAPH_NODE, GRAPH_TENSOR, GRAPH_OUTPUT, GRAPH_VALUE_INFO = 1, 5, 12, 13
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_KIND, NODE_ATTRIBUTE = 1, 2, 3, 4, 5
ATTRIBUTE_NAME, ATTRIBUTE_INT, ATTRIBUTE_TYPE = 1, 3, 20
TENSOR_DIMENSION, TENSOR_TYPE, TENSOR_FLOATS, TENSOR_NAME, TENSOR_RAW = 1, 2, 4, 8, 9
FLOAT, FLOAT16, TYPE_INT = 1, 10, 2

Field = tuple[int, "int | bytes"]


def can_halve() -> bool:
    """Return whether the package that the conversion needs is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


def convolutions_in_f16(onnx: bytes) -> bytes:
    """Return an ONNX graph with its convolutions, and what joins them, in 16-bit floats.

    What scales the pixels and the head stay in float32: a head in fewer bits changes answers and saves nothing. Batch
    norm goes into the convolutions first, in float32, since its small variances don't survive 16 bits. (ONNX Runtime's
    own conversion rounds what goes from one float32 node to the next, and makes no valid graph where two read it.)

    Raises:
        EngineError: ONNX Runtime is not installed, or the graph can't be converted.
    """
    try:
        return encoded((field, _changed(field, value)) for field, value in parsed(_folded(onnx)))
    except Exception as error:  # ONNX Runtime's exceptions share no base but this
        raise EngineError(f"the graph can't be converted to f16: {error}") from error


def _folded(onnx: bytes) -> bytes:
    """Return the graph with all that is constant computed, and batch norm in the convolutions."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3  # errors
    with tempfile.TemporaryDirectory(prefix="f16-") as folder:
        path = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        return path.read_bytes()


def _changed(field: int, value: int | bytes) -> int | bytes:
    """Return what a field of the model becomes."""
    if field == MODEL_GRAPH and isinstance(value, bytes):
        return encoded(_halved(parsed(value)))
    if field == MODEL_OPSET and isinstance(value, bytes):
        opset = dict(parsed(value))
        if not opset.get(OPSET_DOMAIN):
            return encoded([(OPSET_VERSION, max(OPSET, int(opset[OPSET_VERSION])))])
    return value


def _halved(graph: list[Field]) -> list[Field]:
    """Return the fields of the graph, changed. Nodes come after those that they read, as ONNX demands."""
    weights = {dict(tensor)[TENSOR_NAME]: tensor for tensor in map(parsed, _of(graph, GRAPH_TENSOR))}
    halves: set[bytes] = set()  # what the convolutions and those that join them make
    other_width: dict[bytes, bytes] = {}  # what is there in the other width as well, and its name there
    nodes: list[list[Field]] = []

    def in_width(name: bytes, kind: int) -> bytes:
        if name not in other_width:
            other_width[name] = other = name + (b"/f16" if kind == FLOAT16 else b"/f32")
            if name in weights:
                weights[other] = _tensor_in_f16(weights[name], other)
            else:
                nodes.append(_cast(name, other, kind))
        return other_width[name]

    for before in map(parsed, _of(graph, GRAPH_NODE)):
        kind = dict(before)[NODE_KIND]
        in_f16 = kind == b"Conv" or (kind in JOINING and not halves.isdisjoint(_of(before, NODE_INPUT)))
        node: list[Field] = [
            (field, in_width(value, FLOAT16 if in_f16 else FLOAT))
            if field == NODE_INPUT and isinstance(value, bytes) and value and in_f16 != (value in halves)
            else (field, value)
            for field, value in before
        ]
        if in_f16:
            halves.update(_of(node, NODE_OUTPUT))
        nodes.append(node)
    outputs = {dict(parsed(value))[1] for value in _of(graph, GRAPH_OUTPUT)}
    if not halves or halves.intersection(outputs):
        raise ValueError("it has no convolutions, or nothing after them")
    read = {name for node in nodes for name in _of(node, NODE_INPUT)}
    return [
        *((GRAPH_NODE, encoded(node)) for node in nodes),
        *((GRAPH_TENSOR, encoded(tensor)) for name, tensor in weights.items() if name in read),
        # Value infos state the types of before; ONNX Runtime infers them anew.
        *(one for one in graph if one[0] not in (GRAPH_NODE, GRAPH_TENSOR, GRAPH_VALUE_INFO)),
    ]


def _tensor_in_f16(tensor: list[Field], name: bytes) -> list[Field]:
    values = b"".join(_of(tensor, TENSOR_RAW) or _of(tensor, TENSOR_FLOATS))
    if dict(tensor)[TENSOR_TYPE] != FLOAT or not values:
        raise ValueError(f"{name!r} is not of 32-bit floats")
    half = np.frombuffer(values, "<f4").astype("<f2").tobytes()
    dimensions = [one for one in tensor if one[0] == TENSOR_DIMENSION]
    return [*dimensions, (TENSOR_TYPE, FLOAT16), (TENSOR_NAME, name), (TENSOR_RAW, half)]


def _cast(source: bytes, target: bytes, kind: int) -> list[Field]:
    to = encoded([(ATTRIBUTE_NAME, b"to"), (ATTRIBUTE_INT, kind), (ATTRIBUTE_TYPE, TYPE_INT)])
    names: list[Field] = [(NODE_INPUT, source), (NODE_OUTPUT, target), (NODE_NAME, target), (NODE_KIND, b"Cast")]
    return [*names, (NODE_ATTRIBUTE, to)]


def parsed(message: bytes) -> list[Field]:
    """Return field numbers and values: whole numbers, or bytes for everything else."""
    return [
        (field, value if isinstance(value, int) else bytes(value)) for field, _, value in fields(memoryview(message))
    ]


def _of(message: list[Field], wanted: int) -> list[bytes]:
    return [value for field, value in message if field == wanted and isinstance(value, bytes)]
