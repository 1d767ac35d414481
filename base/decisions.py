"""What becomes of an answer: a run takes it, a person looks at it, or the image is of none of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

Decision = Literal["accept", "review", "unknown"]
DECISIONS: Final[tuple[Decision, ...]] = get_args(Decision)  # those behind the first are for a person

# Parts of the accepted answers that are to be right. A training finds the thresholds of each.
TARGETS: Final = (0.8, 0.9, 0.95, 0.98)
DEFAULT_TARGET: Final = 0.95
FARTHEST: Final = 1.0  # outlier score: an image beyond it is unknown

# The lowest confidence that is accepted, a class each; None accepts no answer of it. By target: "0.95".
Thresholds = Mapping[str, Sequence["float | None"]]


def target_name(target: float) -> str:
    """Return what a target is called where thresholds are kept."""
    return f"{target:g}"


def decide(confidence: float, threshold: float | None, outlier: float | None) -> Decision:
    """Return what becomes of the answer whose class has this threshold; images without an outlier score are known."""
    if outlier is not None and outlier > FARTHEST:
        return "unknown"
    return "accept" if threshold is not None and confidence >= threshold else "review"
