"""ONNX Runtime in float32 on the CPU, for graphs as they came."""

from __future__ import annotations

import re
from typing import Any, Final

from base.install import pip_install
from vision.imported.description import ImportRefused

RE_EXPORT: Final = "export it again with opset 17"


def open_reference(data: bytes) -> Any:
    """Return a session of ONNX Runtime on the CPU; ImportRefused where it is missing or refuses the graph."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportRefused(f"ONNX files need ONNX Runtime here: {pip_install('sortline[import]')}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base
        raise ImportRefused(f"ONNX Runtime refuses the graph: {sentence(error)}; {RE_EXPORT}") from error


def sentence(error: Exception) -> str:
    """Return what ONNX Runtime says, without its codes and source files."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    text = re.sub(r"\S*onnxruntime/\S*:\d+ ", "", text)
    return " ".join(text.split())[:300]
