"""File names as text that fits JSON, UTF-8 and one CSV line, and back without loss.

A POSIX name is any bytes but NUL and '/'. Names that are plain UTF-8 stay as they are. In others each byte that is not
UTF-8, each control character and each '%' becomes '%XX', as in a URL. A name that holds '%' is always written that way,
so the text of two different names never agrees.
"""

from __future__ import annotations

import os
import re
import unicodedata

from base.urls import decoded, is_url

_SPECIAL = re.compile("[%\x00-\x1f\x7f-\x9f\u2028\u2029\udc80-\udcff]")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_ESCAPE = re.compile(rb"%([0-9A-F]{2})")


def path_to_text(path: str) -> str:
    """Return the printable text of ``path`` (as ``os.fsdecode`` gives it)."""
    if _SPECIAL.search(path) is None:
        return path
    return _SPECIAL.sub(lambda match: "".join(f"%{byte:02X}" for byte in os.fsencode(match.group())), path)


def text_to_path(text: str) -> str:
    """Return the path that ``path_to_text`` turned into ``text``."""
    if "%" not in text:
        return text
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match.group(1), 16)]), text.encode()))


def as_on_disk(path: str, base: str) -> str:
    """Return ``path`` as the names on disk below ``base`` are written; unchanged where there is no such file.

    A name that is not there as written is looked for in its composed and decomposed form (NFC, NFD: a Mac writes the
    other one than most editors), and one that is not UTF-8 as Windows-1252 too.
    """
    if path.isascii() or os.path.lexists(os.path.join(base, path)):  # noqa: PTH118
        return path
    found = ""
    for part in path.split("/"):
        text = part if is_utf8(part) else os.fsencode(part).decode("cp1252", "replace")
        names = (part, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))
        there = (name for name in names if os.path.lexists(os.path.join(base, found + name)))  # noqa: PTH118
        name = next(there, None)
        if name is None:
            return path
        found += name + "/"
    return found[:-1]


def is_utf8(path: str) -> bool:
    """Return whether the bytes of ``path`` (as ``os.fsdecode`` gives it) are UTF-8."""
    return _NOT_UTF8.search(path) is None


def below_root(path: str, base: str, root: str) -> str:
    """Return the path below ``root`` that ``path`` has, taken from ``base`` on: what messages carry.

    Textual, so a link stays a link; the worker resolves it and refuses what leaves its root. Where ``root`` is a URL,
    what is not below it is a ValueError.
    """
    if not is_url(root):
        return os.path.relpath(os.path.join(base, path), root)  # noqa: PTH118
    whole, start = "/".join(filter(None, (decoded(base), path))), decoded(root) + "/"
    if not f"{whole}/".startswith(start):
        raise ValueError(f"{whole} is not below {root}")
    return whole[len(start) :]
