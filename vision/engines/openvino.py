"""OpenVINO on a CPU: the fastest of the engines there, and the one that a label worker uses by default."""

from __future__ import annotations

import sys
from itertools import pairwise
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
POOLINGS: Final = ("ReduceMean", "ReduceMax")


class OpenVinoEngine(BatchingEngine):
    """One stream a core: small batches side by side use the caches better than one split over all cores."""

    def __init__(self, files: ModelFiles, *, precision: str = "auto", threads: int = 0) -> None:
        """Compile the graph.

        Args:
            precision: of what comes before the head; "auto" is bf16 where the CPU computes with it, else f32.
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
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams,
            "ENABLE_CPU_PINNING": False,  # decoding threads share these cores
            "CACHE_DIR": "",  # compiling takes a second; a cache would be a second, unchecked copy of the weights
        }
        lanes = streams + 1  # one copies its images while the others compute: 3 % more
        self._passes: SimpleQueue[_Pass] = SimpleQueue()
        try:
            model = core.read_model(files.onnx)
            model.reshape(shape)
            parts = [(model, chosen)]
            if chosen != "f32" and files.spec.classes:
                parts = list(zip(pooled_parts(model), (chosen, "f32"), strict=False))
            self._compiled = [
                core.compile_model(part, "CPU", {**options, "INFERENCE_PRECISION_HINT": hint}) for part, hint in parts
            ]
            # All requests are made and run once here, in one thread. Made while another one infers for the first time,
            # OpenVINO 2026.4 may leave both waiting for ever, each for what the other holds (8 of 330 fresh processes).
            for _ in range(lanes):
                one = _Pass(self._compiled)
                one.infer(np.zeros(shape, np.uint8))
                self._passes.put(one)
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
        one = self._passes.get()
        try:
            return one.infer(images)
        finally:
            self._passes.put(one)


class _Pass:
    """The requests of one forward pass, a part of the graph each, which write where the next one reads."""

    def __init__(self, compiled: list[Any]) -> None:
        self._requests = [part.create_infer_request() for part in compiled]
        for before, after in pairwise(self._requests):
            for index in range(len(after.input_tensors)):
                after.set_input_tensor(index, before.get_output_tensor(index))

    def infer(self, images: Images) -> NDArray[np.float32]:
        first, *later = self._requests
        first.infer({0: images})
        for request in later:
            request.infer()
        # A copy: the request's own memory is overwritten by its next pass.
        return np.array(self._requests[-1].get_output_tensor(0).data, dtype=np.float32)


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


def pooled_parts(model: Any) -> list[Any]:
    """Return the graph up to its pooled feature maps, and what follows; the whole one if it pools none.

    A head in bf16 changes 3 to 5 % of a radial head's answers and saves nothing: the time goes into the convolutions.
    Heads are trained on pooled features in float32, since OpenVINO leaves what follows the last convolution as it is.
    """
    openvino = import_openvino()
    pooled = [
        node.output(0)
        for node in model.get_ordered_ops()
        if node.get_type_name() in POOLINGS and len(node.get_input_partial_shape(0)) == 4
    ]
    if not pooled:
        return [model]
    body = openvino.Model(pooled, model.get_parameters(), "body").clone()
    features = []
    for output in pooled:
        users = output.get_target_inputs()
        features.append(openvino.op.Parameter(openvino.Type.f32, output.get_shape()))
        for user in users:
            user.replace_source_output(features[-1].output(0))
    return [body, openvino.Model(model.get_results(), features, "head")]


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
