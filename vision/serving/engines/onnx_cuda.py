"""ONNX Runtime on an NVIDIA GPU: page-locked buffers, 16-bit floats, passes as large as the device's memory allows."""

from __future__ import annotations

import ctypes
import logging
import weakref
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from base.install import pip_install
from vision.errors import EngineError
from vision.serving.engines.batching import BatchingEngine
from vision.serving.engines.onnx_runtime import OnnxRuntimeEngine, known_precision, onnx_of, open_session
from vision.serving.engines.protocol import Images, ModelFiles

LARGEST_MICRO_BATCH: Final = 128
LANES: Final = 3  # one copies its images to the device, one computes, one fetches what is next

log = logging.getLogger("sortline.engine")


class OnnxCudaEngine(BatchingEngine):
    """One session, whose lanes overlap copying and computing. CUDA_VISIBLE_DEVICES chooses the device."""

    def __init__(self, files: ModelFiles, *, device: str = "cuda", precision: str = "auto", threads: int = 0) -> None:
        """Load the graph onto the first device that CUDA shows, in passes halved until they fit its free memory.

        Args:
            precision: "f32", with full multiplications, or "f16", which computes the convolutions in 16-bit floats and
                the head in f32; "auto" is f32.
        """
        chosen = known_precision(precision)
        self._graph = files.graph
        self._session = _open_session(onnx_of(files), chosen)
        self._input = self._session.get_inputs()[0].name
        self._buffers: SimpleQueue[NDArray[np.uint8]] = SimpleQueue()
        shape = files.graph.image_shape
        micro_batch = files.graph.batch(LARGEST_MICRO_BATCH)
        while not self._fits(micro_batch, shape):
            if micro_batch == 1:
                raise EngineError("the device's memory does not hold this network and one image; free some of it")
            micro_batch //= 2
            log.warning(
                "the device's free memory holds no passes of %d images: trying %d", micro_batch * 2, micro_batch
            )
            del self._session  # gives back what the larger pass had reserved, before the next one asks for it
            self._session = _open_session(onnx_of(files), chosen)
        for _ in range(LANES):
            self._buffers.put(page_locked((micro_batch, *shape)))
        super().__init__(
            name="onnxruntime", device=device, precision=chosen, micro_batch=micro_batch, lanes=LANES, graph=files.graph
        )

    @classmethod
    def precisions(cls, files: ModelFiles | None) -> tuple[str, ...]:
        return ("f16", "f32")

    @classmethod
    def found_here(cls) -> str:
        found = OnnxRuntimeEngine.found_here()
        if "CUDA" not in found:
            raise EngineError(f"{found} was built without CUDA; {pip_install('sortline[gpu]')}")
        return found

    def _forward(self, images: Images) -> NDArray[np.float32]:
        buffer = self._buffers.get()
        try:
            np.copyto(buffer, images)
            return self._in_parts(buffer)
        finally:
            self._buffers.put(buffer)

    def _in_parts(self, images: Images) -> NDArray[np.float32]:
        """Run one pass, or two of half the images where others have taken the device's memory meanwhile."""
        try:
            return self._run_session(images)
        except Exception as error:  # its exceptions share no base but this
            if len(images) == 1 or not _is_out_of_memory(error):
                raise
        log.warning("the device's memory is short: a pass of %d images is run in halves", len(images))
        half = len(images) // 2
        return np.concatenate([self._in_parts(images[:half]), self._in_parts(images[half:])])

    def _run_session(self, images: Images) -> NDArray[np.float32]:
        return self._graph.joined(self._session.run(None, {self._input: images}))

    def _fits(self, micro_batch: int, shape: tuple[int, int, int]) -> bool:
        """Run all lanes at once, which reserves what they will need; return False when the memory does not do."""
        images = np.zeros((micro_batch, *shape), np.uint8)
        with ThreadPoolExecutor(LANES) as pool:
            passes = [pool.submit(self._run_session, images) for _ in range(LANES)]
        errors = [error for one in passes if isinstance(error := one.exception(), Exception)]
        for error in errors:
            if not _is_out_of_memory(error):
                raise EngineError(f"ONNX Runtime can't run the graph on cuda: {error}") from error
        return not errors


def _open_session(onnx: bytes, precision: str) -> Any:
    provider = {
        "arena_extend_strategy": "kSameAsRequested",  # doubling would take memory that a second worker could use
        "cudnn_conv_algo_search": "HEURISTIC",  # the default times them: two workers would choose and round differently
        "use_tf32": "1" if precision == "f16" else "0",
    }
    return open_session(onnx, "cuda", precision, 1, provider)


def page_locked(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a buffer that the device reads by itself, at twice the rate of ordinary memory; freed with its last view.

    Where the driver refuses, it is ordinary memory, which does as well but slower.
    """
    try:
        return _page_locked(shape)
    except (OSError, AttributeError) as error:
        log.info("no page-locked memory, so images take longer to the device: %s", error)
        return np.zeros(shape, np.uint8)


def _page_locked(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Ask the driver, whose library comes with the device.

    Raises:
        OSError: there is no driver, or it has no memory to lock.
        AttributeError: the driver is too old to have what this calls.
    """
    driver = ctypes.CDLL("libcuda.so.1")
    device, context, address = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
    size = int(np.prod(shape))

    def call(function: str, *arguments: object) -> None:
        if code := getattr(driver, function)(*arguments):
            raise OSError(f"{function} returned CUDA error {code}")

    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)  # the one that ONNX Runtime uses
    call("cuCtxPushCurrent_v2", context)
    try:
        call("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), 1)  # 1: for every context
    finally:
        call("cuCtxPopCurrent_v2", ctypes.byref(context))
    memory = (ctypes.c_uint8 * size).from_address(address.value or 0)
    weakref.finalize(memory, driver.cuMemFreeHost, address).atexit = False  # the process's end frees it anyway
    return np.ctypeslib.as_array(memory).reshape(shape)


def _is_out_of_memory(error: Exception) -> bool:
    # ONNX Runtime has no exception of its own for it; its arena says the first, CUDA the second, cuDNN the third.
    text = str(error)
    return any(part in text for part in ("Failed to allocate memory", "out of memory", "CUDNN_STATUS_ALLOC_FAILED"))
