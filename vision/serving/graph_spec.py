"""What serving must know of a graph, whoever trained or wrote it. Labels and preprocessing stand in the manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from vision.checks import checked_keys, integer, one_of
from vision.errors import VisionError

PROBABILITIES: Final = "probabilities"
FEATURES: Final = "features"
MAX_SIZE_PX: Final = 4096
MAX_OUTPUTS: Final = 10_000_000  # columns; a frozen part gives whole feature maps


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSpec:
    """The one input and the one output of a graph.

    Attributes:
        height_px, width_px: of its pictures.
        outputs: columns of its output, float32 (N, outputs).
        kind: "probabilities", each row adding up to 1, or "features".
        input_name, output_name: in the ONNX graph.
        dtype, layout, colours: of its pictures; scaling is part of the graph. The engines know these values alone.

    Raises:
        VisionError: a value is of another type or out of range.
    """

    height_px: int
    width_px: int
    outputs: int
    kind: str
    input_name: str = "images"
    output_name: str = "outputs"
    dtype: str = "uint8"
    layout: str = "NHWC"
    colours: str = "RGB"

    def __post_init__(self) -> None:
        what = "graph spec"
        integer(what, "height_px", self.height_px, 1, MAX_SIZE_PX)
        integer(what, "width_px", self.width_px, 1, MAX_SIZE_PX)
        integer(what, "outputs", self.outputs, 1, MAX_OUTPUTS)
        one_of(what, "kind", self.kind, (PROBABILITIES, FEATURES))
        one_of(what, "dtype", self.dtype, ("uint8",))
        one_of(what, "layout", self.layout, ("NHWC",))
        one_of(what, "colours", self.colours, ("RGB",))
        for key in ("input_name", "output_name"):
            if not isinstance(name := getattr(self, key), str) or not name:
                raise VisionError(f"{what}: {key} is {name!r}; it must be a name")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one picture."""
        return self.height_px, self.width_px, 3

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that ``from_json`` turns back into an equal spec."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> GraphSpec:
        """Return the spec of a decoded JSON object.

        Raises:
            VisionError: a key is missing or unknown, or a value of another type or out of range.
        """
        return cls(**checked_keys("graph spec", value, [field.name for field in fields(cls)]))
