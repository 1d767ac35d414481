"""ONNX Runtime on a CPU: an engine that shares no code with OpenVINO, and finding the package for any device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from base.install import pip_install
from base.process import available_cpus
from vision.errors import EngineError
from vision.serving.engines.batching import BatchingEngine
from vision.serving.engines.half import convolutions_in_f16
from vision.serving.engines.onnx_file import check_onnx
from vision.serving.engines.protocol import Images, ModelFiles

MICRO_BATCH: Final = 4
PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeEngine(BatchingEngine):
    """One session, whose own threads share each pass."""

    def __init__(self, files: ModelFiles, *, device: str = "cpu", precision: str = "auto", threads: int = 0) -> None:
        """Load the graph.

        Args:
            precision: "auto" or "f32", the graph's own; "f16" rounds as a GPU does, to tell what one would answer: it
                is slower than f32.
            threads: of one pass; 0 = all cores that this process may use.
        """
        chosen = known_precision(precision)
        self._session = open_session(onnx_of(files), "cpu", chosen, threads or available_cpus(), {})
        self._input = self._session.get_inputs()[0].name
        super().__init__(
            name="onnxruntime",
            device=device,
            precision=chosen,
            micro_batch=files.graph.batch(MICRO_BATCH),
            lanes=1,
            graph=files.graph,
        )

    @classmethod
    def found_here(cls) -> str:
        try:
            import onnxruntime
        except ImportError as error:
            needed = pip_install("sortline[onnx]")
            raise EngineError(f"not installed; {needed}, or [gpu] for NVIDIA GPUs") from error
        providers = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
        return f"{onnxruntime.__version__} with {providers}"

    def _forward(self, images: Images) -> NDArray[np.float32]:
        return self.graph.joined(self._session.run(None, {self._input: images}))


def onnx_of(files: ModelFiles) -> bytes:
    """Return the ONNX graph; EngineError for a version that came in OpenVINO's format."""
    if files.ir is not None:
        raise EngineError("this model version is a graph in OpenVINO's format; use engine openvino, or auto")
    return files.onnx


def known_precision(asked: str) -> str:
    """Return "f32" or "f16"; "auto" is f32."""
    if asked not in ("auto", "f32", "f16"):
        raise EngineError(f"the onnxruntime engine computes in f32 or f16, not in {asked}")
    return "f32" if asked == "auto" else asked


def open_session(onnx: bytes, device: str, precision: str, threads: int, provider: Mapping[str, str]) -> Any:
    """Return a session on ``device`` with the options ``provider``; "f16" for `convolutions_in_f16` of the graph.

    Raises:
        EngineError: ONNX Runtime, its provider or a driver is missing, or it refuses the graph.
    """
    check_onnx(onnx)
    runtime = _import_onnx_runtime(device)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; it warns about every missing device library on stderr
    # Its workers would spin between passes and take the cores from decoding.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        graph = convolutions_in_f16(onnx) if precision == "f16" else onnx
        session = runtime.InferenceSession(graph, options, providers=[(PROVIDERS[device], provider)])
    except EngineError:
        raise
    except Exception as error:  # its exceptions share no base but this
        raise EngineError(f"ONNX Runtime refuses the ONNX graph on {device}: {error}") from error
    if session.get_providers()[0] != PROVIDERS[device]:
        # It falls back to the CPU without a word when the driver or cuDNN is missing.
        raise EngineError(
            f"ONNX Runtime could not use {device}: the driver, CUDA or cuDNN is missing or too old for it; check "
            f"nvidia-smi and run: {pip_install('sortline[gpu]')}"
        )
    return session


def _import_onnx_runtime(device: str) -> Any:
    """Import ONNX Runtime and make sure that it was built for ``device``."""
    package = "onnxruntime-gpu" if device == "cuda" else "onnxruntime"
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(f"ONNX Runtime is not installed; run: pip install {package}") from error
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise EngineError(
            f"this ONNX Runtime has no {PROVIDERS[device]}, which is for hosts with an NVIDIA GPU alone: for those, "
            f"{pip_install('sortline[gpu]')} in an environment without onnxruntime"
        )
    if device == "cuda":
        onnxruntime.preload_dlls()  # CUDA and cuDNN as pip installs them are where no loader looks
    return onnxruntime
