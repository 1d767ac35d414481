"""Engines run an exported network: uint8 (N, H, W, 3) RGB -> float32 (N, outputs).

One engine a process: two thread pools ruin each other (ONNX Runtime fell from 240 to 50 images a second beside an idle
OpenVINO). Importing this package loads no runtime; opening an engine loads the one it needs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Final

from vision.errors import EngineError
from vision.serving.engines.mindspore import MindSporeEngine
from vision.serving.engines.onnx_cuda import OnnxCudaEngine
from vision.serving.engines.onnx_runtime import OnnxRuntimeEngine
from vision.serving.engines.openvino import OpenVinoEngine
from vision.serving.engines.protocol import Engine, EngineKind, Images, MindSporeNetwork, ModelFiles, Outputs

# By name and device. A class loads its runtime when it is opened, since a label worker must load one only.
ENGINES: Final[Mapping[str, Mapping[str, EngineKind]]] = {
    "openvino": {"cpu": OpenVinoEngine},
    "onnxruntime": {"cpu": OnnxRuntimeEngine, "cuda": OnnxCudaEngine},
    "mindspore": {"cpu": MindSporeEngine, "cuda": MindSporeEngine, "ascend": MindSporeEngine},
}
FASTEST: Final[Mapping[str, str]] = {"cpu": "openvino", "cuda": "onnxruntime", "ascend": "mindspore"}

log = logging.getLogger("sortline.engine")


def open_engine(
    files: ModelFiles,
    *,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    judged: Mapping[str, bool] | None = None,
    threads: int = 0,
) -> Engine:
    """Return the network loaded and ready; the choice and its reason are one log line.

    Args:
        files: the model version's bytes.
        engine: "openvino", "onnxruntime", "mindspore" or "auto", the fastest for the device.
        device: "cpu", "cuda", "ascend" or "auto": cuda if ONNX Runtime can use it, else cpu.
        precision: "f32", "bf16", "int8", "int8+bf16" or "auto": the fastest that is to be had and ``judged`` allows.
        judged: whether each "engine/precision" that was compared with f32 on these files passed; "auto" takes f32 or
            one that did. None: it takes any.
        threads: cores to use on a CPU; 0 = all that this process may use.

    Raises:
        EngineError: the engine or device can't be used; the message says what is missing and what to install.
    """
    _known("engine", engine, ENGINES)
    _known("device", device, FASTEST)
    if threads < 0:
        raise EngineError(f"threads is {threads}; it must be 0 (all cores) or more")
    if device == "auto" and engine in ("auto", "onnxruntime"):
        chosen, left_out = _chosen(files, "onnxruntime", "cuda", precision, judged)
        try:
            opened = _open(files, "onnxruntime", "cuda", chosen, threads)
        except EngineError as error:
            device, reason = "cpu", f"no cuda: {error}"
        else:
            return _logged(opened, "cuda is there" + left_out)
    else:
        device = "cpu" if device == "auto" else device
        reason = f"device {device}" if engine == "auto" else f"engine {engine} asked for"
    if engine == "auto":
        engine = FASTEST[device]
    chosen, left_out = _chosen(files, engine, device, precision, judged)
    return _logged(_open(files, engine, device, chosen, threads), reason + left_out)


def precision_here(precision: str = "auto") -> str | None:
    """Return what ``open_engine`` makes of ``precision`` without an 8-bit graph; None where only opening it tells."""
    if precision != "auto":
        return precision
    try:
        _kind("onnxruntime", "cuda").found_here()
    except EngineError:
        return precisions(FASTEST["cpu"])[0]
    return None  # a GPU may be there, and too small


def precisions(engine: str, files: ModelFiles | None = None, device: str = "cpu") -> tuple[str, ...]:
    """Return what ``engine`` computes in on this host, the fastest first; the last is f32.

    Only ``files`` that hold an 8-bit graph can be run in int8.
    """
    return _kind(engine, device).precisions(files)


def _chosen(
    files: ModelFiles, engine: str, device: str, precision: str, judged: Mapping[str, bool] | None
) -> tuple[str, str]:
    """Return the precision asked for, or the fastest that passed, or f32; and why faster ones were left out."""
    if precision != "auto" or judged is None:
        return precision, ""
    *reduced, full = precisions(engine, files, device)
    left_out = ""
    for precision in reduced:
        passed = judged.get(f"{engine}/{precision}")
        if passed:
            return precision, left_out
        why = "was never compared with f32 for this version" if passed is None else "labels too differently from f32"
        left_out += f"; {precision} {why}, SORTLINE_PRECISION={precision} takes it nevertheless"
    return full, left_out


def _open(files: ModelFiles, engine: str, device: str, precision: str, threads: int) -> Engine:
    return _kind(engine, device)(files, device=device, precision=precision, threads=threads)


def _kind(engine: str, device: str) -> EngineKind:
    kinds = ENGINES[engine]
    if device not in kinds:
        raise EngineError(
            f"the {engine} engine has no device {device!r}; use {' or '.join(kinds)}, or engine {FASTEST[device]}"
        )
    return kinds[device]


def _logged(engine: Engine, reason: str) -> Engine:
    log.info(
        "engine=%s device=%s precision=%s micro_batch=%d reason=%r",
        engine.name,
        engine.device,
        engine.precision,
        engine.micro_batch,
        reason,
    )
    return engine


def _known(what: str, value: str, known: Iterable[str]) -> None:
    if value not in ("auto", *known):
        raise EngineError(f"{what} {value!r} is unknown; use auto or one of {', '.join(known)}")
