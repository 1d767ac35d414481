"""Checks of values that come from JSON: each raises VisionError with a sentence that names the record and the key."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from vision.errors import VisionError


def checked_keys(what: str, value: object, names: Iterable[str]) -> dict[str, Any]:
    """Return a decoded JSON object that has exactly the keys ``names``."""
    if not isinstance(value, dict):
        raise VisionError(f"{what}: expected a JSON object, got {type(value).__name__}")
    missing, unknown = sorted(set(names) - value.keys()), sorted(map(str, value.keys() - set(names)))
    if missing or unknown:
        raise VisionError(
            f"{what}: missing keys: {', '.join(missing) or 'none'}; unknown keys: {', '.join(unknown) or 'none'}"
        )
    return value


def one_of(what: str, key: str, value: object, allowed: Iterable[str]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise VisionError(f"{what}: {key} is {value!r}; it must be one of {', '.join(allowed)}")


def integer(what: str, key: str, value: object, low: int, high: int) -> None:
    # bool is an int to Python, never to a person who wrote `"classes": true`.
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise VisionError(f"{what}: {key} is {value!r}; it must be an integer from {low} to {high}")


def boolean(what: str, key: str, value: object) -> None:
    if not isinstance(value, bool):
        raise VisionError(f"{what}: {key} is {value!r}; it must be true or false")


def number(what: str, key: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise VisionError(f"{what}: {key} is {value!r}; it must be a finite number")
    return float(value)


def positive(what: str, key: str, value: object, most: float) -> float:
    if not 0 < (found := number(what, key, value)) <= most:
        raise VisionError(f"{what}: {key} is {value!r}; it must be above 0 and at most {most:g}")
    return found
