"""Lengths of time in words."""

from __future__ import annotations


def duration(seconds: int) -> str:
    """Return ``seconds`` as a person says them: 42 s, 3 min 10 s, 2 h 5 min, 3 days."""
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    if seconds < 48 * 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86_400} days"
