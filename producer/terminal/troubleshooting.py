"""What docs/guide/troubleshooting.md says about a message: each heading of its entries is a piece of one."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/guide/troubleshooting.md"  # a wheel has it at the same place
_ENTRY = re.compile(r"^### (.+)\n\n((?:(?!#).*\n)+)", re.MULTILINE)
_LINK = re.compile(r"\[([^]]+)\]\([^)]+\)")


def advice_on(message: str) -> str | None:
    """Return what to do about ``message`` in one line, if there is an entry; the longest heading decides."""
    try:
        entries = dict(_ENTRY.findall(PAGE.read_text(encoding="utf-8")))
    except OSError:
        return None
    found = max((heading for heading in entries if heading in message), key=len, default=None)
    return " ".join(_LINK.sub(r"\1", entries[found]).split()) if found else None
