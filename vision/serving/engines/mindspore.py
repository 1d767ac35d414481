"""MindSpore itself: slow on a CPU, the reference that the other engines are compared with, and the way to Ascend."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from base.install import pip_install
from vision.errors import EngineError
from vision.serving.engines.batching import BatchingEngine
from vision.serving.engines.protocol import Images, MindSporeNetwork, ModelFiles

MICRO_BATCH: Final = 16
_TARGETS: Final = {"cpu": "CPU", "cuda": "GPU", "ascend": "Ascend"}
_INSTALL: Final = {
    "cpu": "pip install mindspore==2.8.0",
    "cuda": "a MindSpore built for CUDA 11.6 (see mindspore.cn/install); or use the onnxruntime engine",
    "ascend": "Ascend CANN and its driver (see mindspore.cn/install), then pip install mindspore==2.8.0",
}


class MindSporeEngine(BatchingEngine):
    """Runs the served cell in graph mode and in one thread, because MindSpore's modes are a thread's own."""

    def __init__(self, files: ModelFiles, *, device: str = "cpu", precision: str = "auto", threads: int = 0) -> None:
        """Build the network from its weights on ``device`` ("cpu", "cuda" or "ascend").

        Raises:
            WeightsError: the weights do not fit the spec.
        """
        if precision not in ("auto", "f32"):
            raise EngineError(f"the mindspore engine computes in f32, not in {precision}; use precision auto or f32")
        if files.mindspore is None:
            raise EngineError(
                "this model version is a graph without a MindSpore network, so the mindspore engine can't run it; "
                "use engine openvino or onnxruntime"
            )
        super().__init__(
            name="mindspore", device=device, precision="f32", micro_batch=MICRO_BATCH, lanes=1, graph=files.graph
        )
        try:
            self._cell = self._executor.submit(_load, files.mindspore, device).result()
        except BaseException:
            self.close()
            raise

    @classmethod
    def found_here(cls) -> str:
        try:
            return f"{version('mindspore')}; trains on this machine"
        except PackageNotFoundError as error:
            needed = pip_install("sortline[train]")
            raise EngineError(f"not installed: this machine labels but does not train; {needed}") from error

    def _forward(self, images: Images) -> NDArray[np.float32]:
        from mindspore import Tensor

        from vision.networks import as_array

        return as_array(self._cell(Tensor(images)))


def _load(read: Callable[[], MindSporeNetwork], device: str) -> Any:
    try:
        import mindspore
    except ImportError as error:
        raise EngineError(f"MindSpore is not installed; run: {_INSTALL['cpu']}") from error
    from vision.networks import build_network, build_served, read_safetensors, set_weights, spec_from_json

    try:
        mindspore.set_context(mode=mindspore.GRAPH_MODE)
        # Once a cell has run in this process (training, say), even setting the same device again is refused.
        if mindspore.get_context("device_target") != _TARGETS[device]:
            mindspore.set_device(_TARGETS[device])
    except Exception as error:  # it raises whatever its C++ side raised
        first_line = str(error).partition("\n")[0]  # a page of C++ call stack follows
        raise EngineError(f"MindSpore can't use {device}: {first_line}; it needs {_INSTALL[device]}") from error
    files = read()
    network = build_network(spec_from_json(files.spec))
    arrays, _ = read_safetensors(files.weights)
    set_weights(network, arrays)
    return build_served(network)
