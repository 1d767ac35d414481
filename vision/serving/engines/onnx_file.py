"""A look into an ONNX file's bytes before a runtime gets them, without the onnx package.

A graph may keep tensors in other files and name them by path. Loaded from bytes there is no folder to find them in: a
runtime would look in its working directory, at a file that no checksum covers.
"""

from __future__ import annotations

from typing import Final

from vision.errors import EngineError
from vision.protobuf import fields

# Field numbers of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) that lead to a tensor.
_INSIDE: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_TENSOR_EXTERNAL_DATA: Final = 13
_TENSOR_DATA_LOCATION: Final = 14
_MAX_DEPTH: Final = 64  # of graphs within graphs; ours have none


def check_onnx(data: bytes) -> None:
    """Refuse bytes that are not an ONNX graph, or one that keeps tensors in other files.

    Raises:
        EngineError: not ONNX, cut off, or with external data.
    """
    try:
        graphs = [field for field, _, _ in fields(memoryview(data)) if field == 7]
        external = _has_external_data("model", memoryview(data), 0)
    except (ValueError, RecursionError) as error:
        raise EngineError(f"not an ONNX file, or a damaged one: {error}; export or publish the model again") from error
    if not graphs:
        raise EngineError("not an ONNX file: it holds no graph; export or publish the model again")
    if external:
        raise EngineError(
            "the ONNX graph keeps tensors in other files (external data), which is refused: they can't be checked; "
            "export it as one file"
        )


def _has_external_data(kind: str, message: memoryview, depth: int) -> bool:
    if depth > _MAX_DEPTH:
        raise ValueError("graphs nested too deeply")
    for field, _, value in fields(message):
        if kind == "tensor":
            if field == _TENSOR_EXTERNAL_DATA or (field == _TENSOR_DATA_LOCATION and value != 0):
                return True
        elif field in _INSIDE[kind]:
            if isinstance(value, int):
                raise ValueError(f"field {field} of a {kind} is a number")
            if _has_external_data(_INSIDE[kind][field], value, depth + 1):
                return True
    return False
