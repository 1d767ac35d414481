"""OpenVINO on a CPU: the fastest of the engines there, and the one that a label worker uses by default."""

from __future__ import annotations

import sys
from queue import SimpleQueue
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vision.engines.batching import BatchingEngine, available_cpus
from vision.engines.onnx_file import check_onnx
from vision.engines.protocol import Images, ModelFiles
from vision.errors import EngineError

# MobileNetV2 at 224 on two AVX2 cores, f32, two streams: 160-175 images a second with 1, 2 or 4, 155 with 8 and about a
# third less with 16, whose activations leave the cache. 4 halves the Python work of 2.
MICRO_BATCH: Final = 4
PRECISIONS: Final = ("auto", "f32", "bf16")


class OpenVinoEngine(BatchingEngine):
    """One stream a core: small batches side by side use the caches better than one split over all cores."""

    def __init__(self, files: ModelFiles, *, precision: str = "auto", threads: int = 0) -> None:
        """Compile the graph.

        Args:
            precision: "auto" is bf16 where the CPU computes with it, else f32.
            threads: cores to use; 0 = all that this process may use.

        Raises:
            EngineError: OpenVINO is not installed or refuses the graph, or the CPU lacks bf16.
        """
        check_onnx(files.onnx)
        openvino = import_openvino()
        core = openvino.Core()
        streams = threads or available_cpus()
        chosen = _precision(precision, _abilities(core))
        shape = [MICRO_BATCH, files.spec.height_px, files.spec.width_px, 3]
        options = {
            "INFERENCE_PRECISION_HINT": chosen,
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams,
            "ENABLE_CPU_PINNING": False,  # decoding threads share these cores
            "CACHE_DIR": "",  # compiling takes a second; a cache would be a second, unchecked copy of the weights
        }
        lanes = streams + 1  # one copies its images while the others compute: 3 % more
        self._requests: SimpleQueue[Any] = SimpleQueue()
        try:
            model = core.read_model(files.onnx)
            model.reshape(shape)
            self._compiled = core.compile_model(model, "CPU", options)
            # All requests are made and run once here, in one thread. Made while another one infers for the first time,
            # OpenVINO 2026.4 may leave both waiting for ever, each for what the other holds (8 of 330 fresh processes).
            for _ in range(lanes):
                request = self._compiled.create_infer_request()
                request.infer({0: np.zeros(shape, np.uint8)})
                self._requests.put(request)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO refuses the ONNX graph for input {shape}: {error}") from error
        super().__init__(
            name="openvino",
            device="cpu",
            precision=chosen,
            micro_batch=MICRO_BATCH,
            lanes=lanes,
            spec=files.spec,
        )

    def _forward(self, images: Images) -> NDArray[np.float32]:
        request = self._requests.get()
        try:
            request.infer({0: images})
            # A copy: the request's own memory is overwritten by its next pass.
            return np.array(request.get_output_tensor(0).data, dtype=np.float32)
        finally:
            self._requests.put(request)


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would report every import to Intel and to Google Analytics.

    Raises:
        EngineError: OpenVINO is not installed.
    """
    # OpenVINO falls back to a stub that sends nothing when this module can't be imported; None makes that so.
    hides = "openvino" not in sys.modules and "openvino_telemetry" not in sys.modules
    if hides:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise EngineError("OpenVINO is not installed; run: pip install 'openvino>=2026.4,<2027'") from error
    finally:
        if hides:
            sys.modules.pop("openvino_telemetry", None)
    return openvino


def cpu_precisions() -> tuple[str, ...]:
    """Return what this CPU computes in, the fastest first; the last is f32.

    Raises:
        EngineError: OpenVINO is not installed.
    """
    return _abilities(import_openvino().Core())


def _abilities(core: Any) -> tuple[str, ...]:
    return ("bf16", "f32") if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else ("f32",)


def _precision(asked: str, abilities: tuple[str, ...]) -> str:
    if asked not in PRECISIONS:
        raise EngineError(f"precision {asked!r} is unknown to the openvino engine; use one of {', '.join(PRECISIONS)}")
    if asked == "auto":
        return abilities[0]
    if asked not in abilities:
        raise EngineError(f"this CPU does not compute in {asked} (AVX-512 BF16 or AMX); use precision f32 or auto")
    return asked
