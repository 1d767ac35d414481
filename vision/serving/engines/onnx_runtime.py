"""ONNX Runtime on a CPU: an engine that shares no code with OpenVINO, and finding the package for any device."""

from __future__ import annotations

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
PRECISIONS: Final = ("auto", "f32", "f16")
PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeEngine(BatchingEngine):
    """One session, whose own threads share each pass."""

    def __init__(self, files: ModelFiles, *, device: str = "cpu", precision: str = "auto", threads: int = 0) -> None:
        """Load the graph.

        Args:
            precision: "auto" or "f32", the graph's own; "f16" rounds as a GPU does, to tell what one would answer: it
                is slower than f32.
            threads: of one pass; 0 = all cores that this process may use.

        Raises:
            EngineError: ONNX Runtime is missing or refuses the graph, or another precision is asked.
        """
        check_onnx(files.onnx)
        if precision not in PRECISIONS:
            raise EngineError(f"the onnxruntime engine computes in f32 or f16, not in {precision}")
        chosen = "f32" if precision == "auto" else precision
        runtime = import_onnx_runtime("cpu")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or available_cpus()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        # Its workers would spin between passes and take the cores from decoding.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            graph = convolutions_in_f16(files.onnx) if chosen == "f16" else files.onnx
            self._session = runtime.InferenceSession(graph, options, providers=[PROVIDERS["cpu"]])
        except EngineError:
            raise
        except Exception as error:  # its exceptions share no base but this
            raise EngineError(f"ONNX Runtime refuses the ONNX graph on cpu: {error}") from error
        self._input = self._session.get_inputs()[0].name
        super().__init__(
            name="onnxruntime", device=device, precision=chosen, micro_batch=MICRO_BATCH, lanes=1, graph=files.graph
        )

    @classmethod
    def found_here(cls) -> str:
        return onnx_runtime_here()

    def _forward(self, images: Images) -> NDArray[np.float32]:
        outputs: NDArray[np.float32] = self._session.run(None, {self._input: images})[0]
        return outputs


def onnx_runtime_here() -> str:
    """Return the version of ONNX Runtime and the devices that it was built for.

    Raises:
        EngineError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        needed = pip_install("sortline[onnx]")
        raise EngineError(f"not installed; {needed}, or [gpu] for NVIDIA GPUs") from error
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
    return f"{onnxruntime.__version__} with {providers}"


def import_onnx_runtime(device: str) -> Any:
    """Import ONNX Runtime and make sure that it was built for ``device``.

    Raises:
        EngineError: it is not installed, or lacks the device's provider.
    """
    package = "onnxruntime-gpu" if device == "cuda" else "onnxruntime"
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(f"ONNX Runtime is not installed; run: pip install {package}") from error
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise EngineError(
            f"this ONNX Runtime has no {PROVIDERS[device]}; run: pip uninstall -y onnxruntime && pip install {package}"
        )
    return onnxruntime
