"""Text of strangers (labels, file names, error messages) made fit for where it is shown."""

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
