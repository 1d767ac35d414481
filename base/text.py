"""Text made fit for where it is shown: that of strangers (labels, file names, error messages), and lengths of time."""

from __future__ import annotations

import re

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
# Control characters (a terminal obeys them), ends of lines, changes of the reading direction, and stray bytes.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return ``text`` in one line of valid Unicode that commands no terminal: the rest becomes backslash escapes."""
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape", "surrogatepass").decode(), text)


def safe_cell(text: str) -> str:
    """Return ``text`` so that no spreadsheet runs it as a formula: a ``'`` goes before = + - @ tab and return."""
    return "'" + text if text.startswith(FORMULA_STARTS) else text


def plain_cell(text: str) -> str:
    """Return the text that `safe_cell` wrote."""
    return text[1:] if text[:1] == "'" and safe_cell(text[1:]) == text else text


def duration(seconds: int) -> str:
    """Return ``seconds`` as a person says them: 42 s, 3 min 10 s, 2 h 5 min, 3 days."""
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    if seconds < 48 * 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86_400} days"


def distinct(labels: list[str]) -> list[str]:
    """Return the labels with a number behind each that was there before: "crane", "crane (2)"."""
    made: dict[str, None] = {}
    for label in labels:
        number, name = 1, label
        while name in made:
            number += 1
            name = f"{label} ({number})"
        made[name] = None
    return list(made)
