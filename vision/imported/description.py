"""What must be known of a graph that was trained elsewhere, and where each fact came from.

Facts are gathered from the graph, from files beside it, from a preset and from what the user says; the last one wins.
Nothing is guessed: what is missing at the end is asked for by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from base.text import distinct
from vision.errors import VisionError
from vision.images import MAX_SIDE_PX, CutAt, Filter, Resize, ResizeFit

LOGITS: Final = "logits"
PROBABILITIES: Final = "probabilities"
MAX_CLASSES: Final = 100_000
MAX_LABEL: Final = 500  # characters


class ImportRefused(VisionError):
    """A foreign graph can't be brought in; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A value and where it came from, such as "preprocessor_config.json"."""

    value: Any
    source: str


def _number(text: str) -> float:
    """Return "0.5" or "1/255" as a number."""
    above, _, below = text.partition("/")
    try:
        number = float(above) / (float(below) if below else 1)
    except (ValueError, ZeroDivisionError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("it must be a number, such as 0.5 or 1/255")
    return number


def _three(value: object) -> tuple[float, float, float]:
    numbers = [_number(part) for part in value.split(",")] if isinstance(value, str) else value
    if isinstance(numbers, int | float):
        numbers = [numbers]
    if not isinstance(numbers, Sequence) or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise ValueError("it must be one number, or three for red, green and blue")
    if len(numbers) == 1:
        numbers = [*numbers] * 3
    if len(numbers) != 3:
        raise ValueError("it must be one number, or three for red, green and blue")
    red, green, blue = map(float, numbers)
    return red, green, blue


def _divisors(value: object) -> tuple[float, float, float]:
    numbers = _three(value)
    if 0 in numbers:
        raise ValueError("nothing can be divided by 0")
    return numbers


def _scale(value: object) -> float:
    number = _number(value) if isinstance(value, str) else value
    if not isinstance(number, int | float) or not math.isfinite(number) or number == 0:
        raise ValueError("it must be a number such as 1/255")
    return float(number)


def _sides(value: object) -> int | tuple[int, int]:
    """Return a side in pixels, or (height, width)."""
    parts = value.lower().split("x") if isinstance(value, str) else value
    if isinstance(parts, int):
        parts = [parts]
    try:
        sides = [int(part) for part in parts] if isinstance(parts, Sequence) else []
    except (ValueError, TypeError):
        sides = []
    if len(sides) not in (1, 2):
        raise ValueError("it must be a side in pixels, such as 256, or HEIGHTxWIDTH, such as 224x224")
    if not all(1 <= side <= MAX_SIDE_PX for side in sides):
        raise ValueError(f"sides are from 1 to {MAX_SIDE_PX} pixels")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _size(value: object) -> tuple[int, int]:
    sides = _sides(value)
    return (sides, sides) if isinstance(sides, int) else sides


def _grey(value: object) -> int:
    try:
        number = float(value) if isinstance(value, str | float | int) else math.nan
    except ValueError:
        number = math.nan
    if not 0 <= number <= 255 or number != int(number):
        raise ValueError("it must be a whole number from 0 to 255")
    return int(number)


def _one_of(*allowed: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if value not in allowed:
            raise ValueError(f"it must be one of {', '.join(allowed)}")
        return str(value)

    return check


def _name(value: object) -> str:
    if not isinstance(value, str) or not value or len(value) > MAX_LABEL:
        raise ValueError("it must be a name")
    return value


def _labels(value: object) -> list[str]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(one, str) for one in value):
        raise ValueError("they must be a list of texts")
    if not 2 <= len(value) <= MAX_CLASSES:
        raise ValueError(f"there are {len(value)}; a classifier has 2 to {MAX_CLASSES:,}")
    labels = distinct([" ".join(label.split()) for label in value])  # a line break would break rows and pages
    if wrong := [label for label in labels if not label or len(label) > MAX_LABEL]:
        raise ValueError(f"{wrong[0][:60]!r} is empty or longer than {MAX_LABEL} characters")
    return labels


# What each fact is, in the order they are shown, and the check that its value passes.
FACTS: Final[Mapping[str, tuple[str, Callable[[object], Any]]]] = {
    "labels": ("the name of each output", _labels),
    "size": ("height and width in pixels that the network takes: 224 or HEIGHTxWIDTH", _size),
    "resize": ("what an image is resized to before its centre is cut out: 256 is the short side, 256x256 both", _sides),
    "filter": (f"how it is resized: {', '.join(get_args(Filter))}", _one_of(*get_args(Filter))),
    "cut_at": ("how the corner of the cut is rounded: round or floor", _one_of(*get_args(CutAt))),
    "fit": (
        "how an image comes to resize=HEIGHTxWIDTH: stretch; crop, its largest centred part; pad, the whole image in a "
        "letterbox; pad-corner, the same at the upper left corner",
        _one_of(*get_args(ResizeFit)),
    ),
    "padding": ("the grey around a whole image, from 0 to 255", _grey),
    "scale": ("what values 0 to 255 are multiplied by first, such as 1/255", _scale),
    "mean": ("what is then subtracted: one number, or three for red, green and blue", _three),
    "std": ("what is then divided by: one number, or three for red, green and blue", _divisors),
    "colours": ("order of the colour channels: RGB or BGR", _one_of("RGB", "BGR")),
    "layout": ("order of the sides of what the graph takes: NCHW (colours first) or NHWC", _one_of("NCHW", "NHWC")),
    "outputs": ("logits or probabilities", _one_of(LOGITS, PROBABILITIES)),
    "output": ("the output that holds them, where there are several", _name),
}
# What a user must say where no file does; all others are read off the graph or have one meaning.
NEEDED: Final = ("labels", "size", "resize", "filter", "scale", "mean", "std")


@dataclass(slots=True)
class Description:
    """The facts known so far, by name, and remarks for the person who imports."""

    facts: dict[str, Fact] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def state(self, source: str, **values: object) -> Description:
        """Set facts, those that are not None, over what was known.

        Raises:
            ImportRefused: a fact is unknown, or its value can't be right.
        """
        for name, value in values.items():
            if value is None:
                continue
            if name not in FACTS:
                raise ImportRefused(f"{source}: {name!r} is unknown; there are {', '.join(FACTS)}")
            try:
                self.facts[name] = Fact(FACTS[name][1](value), source)
            except (ValueError, TypeError, ZeroDivisionError) as error:
                shown = repr(value) if len(repr(value)) < 80 else repr(value)[:77] + "..."
                raise ImportRefused(f"{source}: {name} is {shown}: {error}") from error
        return self

    def add(self, other: Description) -> Description:
        """Take over the facts and remarks of ``other``, over what was known."""
        self.facts |= other.facts
        self.remarks += other.remarks
        return self

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a fact, or ``default``."""
        return self.facts[name].value if name in self.facts else default

    def check_complete(self, more: Sequence[str] = ()) -> None:
        """Raise ImportRefused with every needed fact that is missing, what it means, and how to say it."""
        missing = [name for name in (*NEEDED, *more) if name not in self.facts]
        if missing:
            lines = [f"  {name}: {FACTS[name][0]}" for name in missing]
            how = "--labels FILE for labels, --preprocess NAME=VALUE for others, or --preset for a usual pipeline"
            raise ImportRefused("\n".join(["no file here says:", *lines, f"say it with {how}"]))
        if self.get("fit", "stretch") != "stretch" and isinstance(self.get("resize"), int):
            raise ImportRefused(f"fit={self.get('fit')} needs two sides; say resize=HEIGHTxWIDTH too, or fit=stretch")

    def resize(self) -> Resize:
        """Return the resizing that the facts add up to."""
        sides, filter_, cut_at = self.get("resize"), self.get("filter"), self.get("cut_at", "round")
        if isinstance(sides, int):
            return Resize(filter=filter_, short_px=sides, cut_at=cut_at)
        height, width = sides
        more = {"fit": self.get("fit", "stretch"), "padding": self.get("padding", 0)}
        return Resize(filter=filter_, height_px=height, width_px=width, cut_at=cut_at, **more)

    def lines(self) -> list[str]:
        """Return a line for each fact, with where it came from, and the remarks."""
        known = ((name, self.facts[name]) for name in FACTS if name in self.facts)
        lines = [f"{name}: {_shown(name, fact.value)} ({fact.source})" for name, fact in known]
        return lines + self.remarks


def _shown(name: str, value: Any) -> str:
    if name == "labels":
        return f"{len(value)}, {', '.join(value[:3])}{', ...' if len(value) > 3 else ''}"
    if name in ("size", "resize"):
        return f"short side {value}" if isinstance(value, int) else f"{value[0]} x {value[1]}"
    if name == "scale":
        return f"1/{1 / value:g}" if 0 < value < 1 else f"{value:g}"
    if isinstance(value, tuple):
        return ", ".join(f"{number:g}" for number in value)
    return str(value)
