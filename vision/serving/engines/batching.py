"""The part that all engines share: checking, filling up, threads and order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from vision.errors import EngineError, ShapeError
from vision.serving.engines.protocol import GraphSpec, Images, ModelFiles, Outputs


@dataclass(kw_only=True, eq=False)
class BatchingEngine(ABC):
    """An ``Engine`` of blocking forward passes, run by ``lanes`` threads; runtimes release Python's lock meanwhile."""

    name: str
    device: str
    precision: str
    micro_batch: int
    lanes: int
    graph: GraphSpec

    def __post_init__(self) -> None:
        self._executor = ThreadPoolExecutor(self.lanes, thread_name_prefix=f"engine-{self.name}")
        # One batch waits for each that runs: a lane never idles, and a fast reader can't pile pictures up in memory.
        self._window = 2 * self.lanes
        self._free: SimpleQueue[None] = SimpleQueue()  # a semaphore in C; Python's own costs 10 us a pass
        for _ in range(self._window):
            self._free.put(None)

    @classmethod
    def precisions(cls, files: ModelFiles | None) -> tuple[str, ...]:
        """Return what the engine computes in here; see `EngineKind`."""
        return ("f32",)

    @abstractmethod
    def _forward(self, images: Images) -> NDArray[np.float32]:
        """Return the outputs of exactly ``micro_batch`` images; called from the lanes' threads."""

    def describe(self) -> str:
        lanes = f"{self.lanes} lane{'s' if self.lanes > 1 else ''}"
        return f"{self.name} on {self.device}, {self.precision}, micro-batch {self.micro_batch}, {lanes}"

    def submit(self, images: Images) -> Future[Outputs]:
        self._check(images)
        if len(images) > self.micro_batch:
            raise ShapeError(f"{len(images)} images in one micro-batch; {self.name} takes at most {self.micro_batch}")
        if not len(images):
            done: Future[Outputs] = Future()
            done.set_result(np.empty((0, self.graph.columns), np.float32))
            return done
        self._free.get()
        try:
            future = self._executor.submit(self._run, images)
        except RuntimeError as error:
            self._free.put(None)
            raise EngineError(f"the {self.name} engine is closed") from error
        future.add_done_callback(lambda _: self._free.put(None))
        return future

    def predict(self, images: Images) -> Outputs:
        self._check(images)
        outputs = np.empty((len(images), self.graph.columns), np.float32)
        running: deque[tuple[int, Future[Outputs]]] = deque()
        try:
            for start in range(0, len(images), self.micro_batch):
                running.append((start, self.submit(images[start : start + self.micro_batch])))
                if len(running) == self._window:
                    _collect(running, outputs)
            while running:
                _collect(running, outputs)
        finally:
            for _, future in running:  # left over by an error: no use in starting them
                future.cancel()
        return outputs

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _run(self, images: Images) -> Outputs:
        count = len(images)
        if count < self.micro_batch:  # the last image again: an empty one would do as well, but may hit slow denormals
            images = np.concatenate([images, np.repeat(images[-1:], self.micro_batch - count, axis=0)])
        try:
            outputs = self._forward(np.ascontiguousarray(images))
        except Exception as error:
            # Runtimes raise their own and often plain RuntimeErrors; what they all mean is that this pass failed.
            raise EngineError(f"{self.describe()}: a forward pass failed: {error}") from error
        if outputs.shape != (self.micro_batch, self.graph.columns):
            raise EngineError(
                f"{self.describe()}: the graph returned {outputs.shape}, expected "
                f"{(self.micro_batch, self.graph.columns)}; its files belong to different networks"
            )
        return outputs[:count]

    def _check(self, images: Images) -> None:
        expected = self.graph.image_shape
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
            takes = f"uint8 (N, {', '.join(map(str, expected))})"
            raise ShapeError(f"images are {images.dtype} {images.shape}; the network takes {takes}")


def _collect(running: deque[tuple[int, Future[Outputs]]], outputs: Outputs) -> None:
    start, future = running.popleft()
    part = future.result()
    outputs[start : start + len(part)] = part
