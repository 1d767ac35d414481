"""OpenVINO on a CPU: the fastest of the engines there, and the one that a label worker uses by default."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from base.install import pip_install
from base.process import available_cpus
from vision.errors import EngineError
from vision.serving.engines.batching import BatchingEngine
from vision.serving.engines.onnx_file import check_onnx
from vision.serving.engines.protocol import PROBABILITIES, GraphSpec, Images, ModelFiles

# MobileNetV2 at 224, two streams. f32 on two AVX2 cores: 160-175 images a second with 1, 2 or 4, 155 with 8 and about a
# third less with 16, whose activations leave the cache; on two AVX-512 cores 2 is a tenth faster than 4. Below f32
# activations are smaller: in bf16 399 images a second with 4, 357 with 2 and 375 with 16.
MICRO_BATCH: Final = 4
F32_MICRO_BATCH: Final = 2
PRECISIONS: Final = ("auto", "f32", "bf16", "int8", "int8+bf16")
POOLINGS: Final = ("ReduceMean", "ReduceMax")
CONVOLUTIONS: Final = ("Convolution", "GroupConvolution")


class OpenVinoEngine(BatchingEngine):
    """One stream a core: small batches side by side use the caches better than one split over all cores."""

    def __init__(self, files: ModelFiles, *, device: str = "cpu", precision: str = "auto", threads: int = 0) -> None:
        """Compile the graph.

        Args:
            precision: of what comes before the head; "auto" is the fastest. "int8" runs the 8-bit graph, whose first
                and last convolutions are in f32, or in bf16 with "int8+bf16".
            threads: cores to use; 0 = all that this process may use.
        """
        if files.ir is None:
            check_onnx(files.onnx)
        openvino = import_openvino()
        core = openvino.Core()
        streams = threads or available_cpus()
        chosen = _precision(precision, _abilities(core, files), files)
        micro_batch = files.graph.batch(F32_MICRO_BATCH if chosen == "f32" else MICRO_BATCH)
        shape = [micro_batch, *files.graph.image_shape]
        options = {
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams,
            "ENABLE_CPU_PINNING": False,  # decoding threads share these cores
            "CACHE_DIR": "",  # compiling takes a second; a cache would be a second, unchecked copy of the weights
        }
        lanes = streams + 1  # one copies its images while the others compute: 3 % more
        self._passes: SimpleQueue[_Pass] = SimpleQueue()
        try:
            quantised = files.int8 if chosen.startswith("int8") else None
            ir = quantised or files.ir
            model = core.read_model(*ir) if ir else core.read_model(files.onnx)
            model.reshape(shape)
            body_precision = "bf16" if chosen.endswith("bf16") else "f32"
            parts = [(model, body_precision)]
            if body_precision != "f32" and files.graph.kind == PROBABILITIES:
                parts = list(zip(pooled_parts(model), (body_precision, "f32"), strict=False))
            self._compiled = [
                core.compile_model(part, "CPU", {**options, "INFERENCE_PRECISION_HINT": hint}) for part, hint in parts
            ]
            # All requests are made and run once here, in one thread. Made while another one infers for the first time,
            # OpenVINO 2026.4 may leave both waiting for ever, each for what the other holds (8 of 330 fresh processes).
            for _ in range(lanes):
                one = _Pass(self._compiled, files.graph)
                one.infer(np.zeros(shape, np.uint8))
                self._passes.put(one)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO refuses the ONNX graph for input {shape}: {error}") from error
        super().__init__(
            name="openvino", device=device, precision=chosen, micro_batch=micro_batch, lanes=lanes, graph=files.graph
        )

    @classmethod
    def precisions(cls, files: ModelFiles | None) -> tuple[str, ...]:
        if importlib.util.find_spec("openvino") is None:
            return ("f32",)
        return _abilities(import_openvino().Core(), files)

    @classmethod
    def found_here(cls) -> str:
        try:
            core = import_openvino().Core()
            abilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        except RuntimeError as error:
            raise EngineError(f"not usable: {error}") from error
        precisions = ", ".join(name for name, ability in (("f32", "FP32"), ("bf16", "BF16")) if ability in abilities)
        return f"{version('openvino')} on {', '.join(core.available_devices)}; CPU does {precisions}"

    def _forward(self, images: Images) -> NDArray[np.float32]:
        one = self._passes.get()
        try:
            return one.infer(images)
        finally:
            self._passes.put(one)


class _Pass:
    """The requests of one forward pass, a part of the graph each, which write where the next one reads."""

    def __init__(self, compiled: list[Any], graph: GraphSpec) -> None:
        self._graph = graph
        self._requests = [part.create_infer_request() for part in compiled]
        for before, after in pairwise(self._requests):
            for index in range(len(after.input_tensors)):
                after.set_input_tensor(index, before.get_output_tensor(index))

    def infer(self, images: Images) -> NDArray[np.float32]:
        first, *later = self._requests
        first.infer({0: images}, share_inputs=True)  # read where they lie: nobody else has them
        for request in later:
            request.infer()
        # Joined is copied: the request's own memory is overwritten by its next pass.
        return self._graph.joined([tensor.data for tensor in self._requests[-1].output_tensors])


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
        raise EngineError(f"OpenVINO is not installed; run: {pip_install('openvino>=2026.4,<2027')}") from error
    finally:
        if hides:
            sys.modules.pop("openvino_telemetry", None)
    return openvino


def pooled_parts(model: Any) -> list[Any]:
    """Return the graph up to its last pooled feature maps, and what follows; the whole one if it pools none.

    A head in bf16 changes 3 to 5 % of the answers of RBF units and saves nothing: the time goes into the convolutions.
    Heads are trained on pooled features in float32, since OpenVINO leaves what follows the last convolution as it is.
    """
    openvino = import_openvino()
    pooled: list[Any] = []
    behind: set[str] = set()  # names of nodes whose values reach a convolution, as those of squeeze and excitation do
    for node in reversed(model.get_ordered_ops()):
        reaches = node.get_friendly_name() in behind
        if reaches or node.get_type_name() in CONVOLUTIONS:
            behind |= {value.get_node().get_friendly_name() for value in node.input_values()}
        elif node.get_type_name() in POOLINGS and len(node.get_input_partial_shape(0)) == 4:
            pooled.insert(0, node.output(0))
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


def has_vnni() -> bool:
    """Return whether this CPU multiplies 8-bit numbers exactly.

    Without VNNI sums of two products saturate at 16 bits: a graph would label otherwise than where it was judged.
    """
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_vnni" in flags or "avx_vnni" in flags


def _abilities(core: Any, files: ModelFiles | None) -> tuple[str, ...]:
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if files is None or files.int8 is None or not has_vnni():
        return ("bf16", "f32") if has_bf16 else ("f32",)
    return ("int8+bf16", "bf16", "int8", "f32") if has_bf16 else ("int8", "f32")


def _precision(asked: str, abilities: tuple[str, ...], files: ModelFiles) -> str:
    if asked not in PRECISIONS:
        raise EngineError(f"precision {asked!r} is unknown to the openvino engine; use one of {', '.join(PRECISIONS)}")
    if asked == "auto":
        return abilities[0]
    if asked.startswith("int8") and files.int8 is None:
        raise EngineError(f"this model version has no 8-bit graph for {asked}; use precision auto, bf16 or f32")
    if asked.startswith("int8") and not has_vnni():
        raise EngineError(f"this CPU has no VNNI, which {asked} needs; use precision auto, bf16 or f32")
    if asked not in abilities:
        raise EngineError(
            f"this CPU does not compute in bf16 (AVX-512 BF16 or AMX); {asked} needs it: use precision f32 or auto"
        )
    return asked
