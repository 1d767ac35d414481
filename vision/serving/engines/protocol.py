"""What is served, and what every engine does with it, whichever runtime is behind it. This loads no runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from vision.checks import checked_keys, integer, one_of
from vision.errors import VisionError

PROBABILITIES: Final = "probabilities"
FEATURES: Final = "features"
OUTLIER_WEIGHT: Final = 0.1
MAX_SIZE_PX: Final = 4096
MAX_OUTPUTS: Final = 10_000_000  # columns; a frozen part gives whole feature maps

Images = NDArray[np.uint8]  # (N, H, W, 3), RGB, values 0 to 255
Outputs = NDArray[np.float32]  # (N, columns): probabilities, with outlier scores in a last column, or features


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSpec:
    """What serving must know of a graph, whoever trained or wrote it: its one input, and what it gives.

    Labels and preprocessing stand in the manifest.

    Attributes:
        height_px, width_px: of its pictures.
        outputs: columns of its output, float32 (N, outputs).
        kind: "probabilities", each row adding up to 1, or "features".
        input_name, output_name: in the ONNX graph.
        outlier_name: of a second output there, outlier scores (N, 1); "" for a graph without.
        dtype, layout, colours: of its pictures; scaling is part of the graph. The engines know these values alone.
        max_batch: pictures that it takes at a time; 0 is any number.

    Raises:
        VisionError: a value is of another type or out of range.
    """

    height_px: int
    width_px: int
    outputs: int
    kind: str
    input_name: str = "images"
    output_name: str = "outputs"
    outlier_name: str = ""
    dtype: str = "uint8"
    layout: str = "NHWC"
    colours: str = "RGB"
    max_batch: int = 0

    def __post_init__(self) -> None:
        what = "graph spec"
        integer(what, "height_px", self.height_px, 1, MAX_SIZE_PX)
        integer(what, "width_px", self.width_px, 1, MAX_SIZE_PX)
        integer(what, "outputs", self.outputs, 1, MAX_OUTPUTS)
        integer(what, "max_batch", self.max_batch, 0, MAX_OUTPUTS)
        one_of(what, "kind", self.kind, (PROBABILITIES, FEATURES))
        one_of(what, "dtype", self.dtype, ("uint8",))
        one_of(what, "layout", self.layout, ("NHWC",))
        one_of(what, "colours", self.colours, ("RGB",))
        for key in ("input_name", "output_name"):
            if not isinstance(name := getattr(self, key), str) or not name:
                raise VisionError(f"{what}: {key} is {name!r}; it must be a name")
        if not isinstance(self.outlier_name, str):
            raise VisionError(f"{what}: outlier_name is {self.outlier_name!r}; it must be a name, or empty")

    @property
    def output_names(self) -> list[str]:
        """The names of its outputs, in their order."""
        return [self.output_name, *([self.outlier_name] if self.outlier_name else [])]

    @property
    def columns(self) -> int:
        """Columns of what engines return: those of the output, and one for outlier scores."""
        return self.outputs + len(self.output_names) - 1

    def joined(self, outputs: Sequence[NDArray[Any]]) -> Outputs:
        """Return the outputs of a pass, in the graph's order, as engines return them; a copy."""
        return np.concatenate(outputs[: len(self.output_names)], axis=1, dtype=np.float32)

    def parted(self, outputs: Outputs) -> tuple[Outputs, NDArray[np.float32] | None]:
        """Return what an engine returned without the outlier scores, and those (N,), where there are some."""
        return outputs[:, : self.outputs], outputs[:, self.outputs] if self.outlier_name else None

    def difference(self, outputs: Outputs, expected: Outputs) -> float:
        """Return the largest difference between outputs; a tenth of that of outlier scores, in parts of those above 1.

        A score of 1 is some logits away from 0, so rounding shows in it as in logits, more than in probabilities.
        """
        differences = np.abs(outputs - expected)
        if self.outlier_name:
            differences[:, self.outputs] *= OUTLIER_WEIGHT / np.maximum(1, expected[:, self.outputs])
        return float(differences.max(initial=0.0))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one picture."""
        return self.height_px, self.width_px, 3

    def batch(self, wanted: int) -> int:
        """Return how many pictures go in at a time where ``wanted`` would be best."""
        return min(wanted, self.max_batch or wanted)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that ``from_json`` turns back into an equal spec."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> GraphSpec:
        """Return the spec of a decoded JSON object; VisionError also for a missing or unknown key."""
        return cls(**checked_keys("graph spec", value, [field.name for field in fields(cls)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class MindSporeNetwork:
    """A network that MindSpore can build again: its spec as JSON, and a safetensors file under our names."""

    spec: dict[str, Any]
    weights: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """One model version as the very bytes that its checksums were taken of; engines never open a path again.

    Attributes:
        onnx: the graph; empty for one that came in OpenVINO's format.
        ir: .xml and .bin of such a graph.
        graph: its input and output.
        int8: .xml and .bin of the graph with 8-bit convolutions, in OpenVINO's format; None where it was not made.
        mindspore: reads what the mindspore engine alone needs; None for a version that is a graph and no more.
    """

    onnx: bytes
    graph: GraphSpec
    ir: tuple[bytes, bytes] | None = None
    int8: tuple[bytes, bytes] | None = None
    mindspore: Callable[[], MindSporeNetwork] | None = None


class EngineKind(Protocol):
    """A class of engines for one device or several, as it stands in the table of engines."""

    def __call__(self, files: ModelFiles, *, device: str, precision: str, threads: int) -> Engine:
        """Open an engine. ``precision`` is "auto" or one of ``precisions``; ``threads`` 0 are all cores.

        Raises:
            EngineError: its runtime or the device is missing, or it refuses the files or the precision.
        """
        ...

    def precisions(self, files: ModelFiles | None) -> tuple[str, ...]:
        """Return what it computes in on this host, the fastest first; the last is f32, alone where it is missing."""
        ...

    def found_here(self) -> str:
        """Return which version of its runtime is here, and what for, as a line for people.

        Raises:
            EngineError: it can't be used here; the message says what to install.
        """
        ...


class Engine(Protocol):
    """A network loaded on a device. May be called from several threads; holds threads and memory until closed.

    Attributes:
        name: "openvino", "onnxruntime" or "mindspore".
        device: "cpu", "cuda" or "ascend".
        graph: what it runs.
        precision: of the convolutions: "f32", "bf16", "f16", "int8" with some in f32, or "int8+bf16" with those in
            bf16. Inputs are uint8 and outputs float32 in all.
        micro_batch: images of one forward pass. Smaller batches are filled up, so that an image's result does not
            depend on its neighbours or on how a chunk was cut.
    """

    name: str
    device: str
    precision: str
    micro_batch: int
    graph: GraphSpec

    def describe(self) -> str:
        """Return engine, device, precision and batching in one line for logs and reports."""
        ...

    def submit(self, images: Images) -> Future[Outputs]:
        """Start one forward pass of up to ``micro_batch`` images and return its outputs' future.

        Waits while enough passes are under way already. ``images`` may be changed once the future is done.

        Raises:
            ShapeError: not uint8, not (n, H, W, 3) with the network's H and W, or more than ``micro_batch`` images.
            EngineError: the engine is closed. (A failed pass raises it from the future.)
        """
        ...

    def predict(self, images: Images) -> Outputs:
        """Return the outputs of any number of images, in order; float32 (N, ``graph.columns``), also for N = 0.

        Raises:
            ShapeError: not uint8, or not (N, H, W, 3) with the network's H and W.
            EngineError: the engine is closed or a pass failed.
        """
        ...

    def close(self) -> None:
        """Finish the passes under way and free the engine; a second call does nothing."""
        ...
