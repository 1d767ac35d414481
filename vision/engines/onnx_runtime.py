"""ONNX Runtime: NVIDIA GPUs through its CUDA provider, and a CPU engine that shares no code with OpenVINO."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vision.engines.batching import BatchingEngine, available_cpus
from vision.engines.onnx_file import check_onnx
from vision.engines.protocol import Images, ModelFiles
from vision.errors import EngineError

CPU_MICRO_BATCH: Final = 4
CUDA_MICRO_BATCH: Final = 32
_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeEngine(BatchingEngine):
    """One session; on a CPU its own threads share each pass, on a GPU two lanes overlap copying and computing."""

    def __init__(self, files: ModelFiles, *, device: str = "cpu", precision: str = "auto", threads: int = 0) -> None:
        """Load the graph on ``device`` ("cpu" or "cuda").

        Args:
            precision: "auto" or "f32"; the graph's own.
            threads: of one pass on a CPU; 0 = all cores that this process may use.

        Raises:
            EngineError: ONNX Runtime or its provider is missing or refuses the graph, or another precision is asked.
        """
        check_onnx(files.onnx)
        if precision not in ("auto", "f32"):
            raise EngineError(f"the onnxruntime engine computes in f32, not in {precision}; use precision auto or f32")
        runtime = import_onnx_runtime(device)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or available_cpus()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; it warns about every missing device library on stderr
        # Its workers would spin between passes and take the cores from decoding.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = runtime.InferenceSession(files.onnx, options, providers=[_PROVIDERS[device]])
        except Exception as error:  # its exceptions share no base but this
            raise EngineError(f"ONNX Runtime refuses the ONNX graph on {device}: {error}") from error
        if self._session.get_providers()[0] != _PROVIDERS[device]:
            # It falls back to the CPU without a word when the driver or cuDNN is missing.
            raise EngineError(
                f"ONNX Runtime could not use {device}: its driver, CUDA 12 or cuDNN 9 is missing; check nvidia-smi, "
                "or run: pip install 'onnxruntime-gpu[cuda,cudnn]'"
            )
        self._input = self._session.get_inputs()[0].name
        super().__init__(
            name="onnxruntime",
            device=device,
            precision="f32",
            micro_batch=CPU_MICRO_BATCH if device == "cpu" else CUDA_MICRO_BATCH,
            lanes=1 if device == "cpu" else 2,
            spec=files.spec,
        )

    def _forward(self, images: Images) -> NDArray[np.float32]:
        outputs: NDArray[np.float32] = self._session.run(None, {self._input: images})[0]
        return outputs


def import_onnx_runtime(device: str) -> Any:
    """Import ONNX Runtime and make sure that it was built for ``device``.

    Raises:
        EngineError: it is not installed, or lacks the device's provider.
    """
    package = "onnxruntime-gpu" if device == "cuda" else "onnxruntime"
    if device not in _PROVIDERS:
        raise EngineError(f"the onnxruntime engine has no device {device!r}; use cpu or cuda")
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(f"ONNX Runtime is not installed; run: pip install {package}") from error
    if _PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise EngineError(
            f"this ONNX Runtime has no {_PROVIDERS[device]}; run: pip uninstall -y onnxruntime && pip install {package}"
        )
    return onnxruntime
