"""Secrets of the tests, made to be found: no log, output, report or run file of the suite may hold one.

Each holds ``MARK``, which stands nowhere else. ``tests/conftest.py`` looks for it in what processes write, in what
pytest captures of each test, in each home when its test is over, and in all of pytest's folder at the end.
"""

from __future__ import annotations

import errno
import os
import stat
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

MARK = "canary77c0ffee"  # letters and digits: the same in a URL, in JSON and on a command line
# Files that are there to hold a secret, and only for their owner: any other mode, and they are searched as well.
HOLDERS = {
    ".netrc": "credentials of web servers, where the store's tools look for them",
    "flower-password": "Flower's own, kept by `sortline monitor`",
    "users.acl": "users of a Redis that a test starts",
}
BLOCK = 1 << 22


def _in_base64(text: bytes) -> list[bytes]:
    """What base64 makes of ``text`` wherever it begins in a longer one, as in the header of basic auth."""
    return [b64encode(b"\0" * before + text)[-(-before * 4 // 3) :].rstrip(b"=")[:-1] for before in range(3)]


FORMS = (MARK.encode(), *_in_base64(MARK.encode()))
LONGEST = max(map(len, FORMS))


def secret(of: str) -> str:
    """Return the secret of this name."""
    return f"{MARK}-of-{of}"


def masked(text: str) -> str:
    """Return ``text`` with a star for each mark, to show it."""
    for form in FORMS:
        text = text.replace(form.decode(), "*")
    return text


def as_id(value: object) -> str:
    """Return a parameter as part of a test's name, which is also that of a folder."""
    return masked(str(value))


def leak(name: object, text: str | bytes) -> str | None:
    """Return "NAME:LINE: TEXT", masked, of the first line with a secret."""
    data = text.encode(errors="surrogateescape") if isinstance(text, str) else text
    found = [place for place in (data.find(form) for form in FORMS) if place >= 0]
    if not found:
        return None
    line = data.count(b"\n", 0, min(found)) + 1
    shown = data.split(b"\n")[line - 1].decode(errors="backslashreplace")
    return f"{name}:{line}: {masked(shown)[:200]}"


def leaks_below(root: Path) -> list[str]:
    """Return one such line for each regular file below ``root`` with a secret in it, or in its name."""
    return sorted(filter(None, map(_leak_of, _files_below(root))))


def _files_below(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            try:
                found = path.lstat()
            except FileNotFoundError:
                continue  # a socket or draft whose process has just ended
            is_private = stat.S_IMODE(found.st_mode) & 0o077 == 0
            if stat.S_ISREG(found.st_mode) and not (name in HOLDERS and is_private):
                yield path


def _leak_of(path: Path) -> str | None:
    if MARK in path.name:
        return f"{masked(str(path))}: its name"
    lines, kept, place = 0, b"", 0
    with path.open("rb", buffering=0) as file:
        while (start := _data_after(file.fileno(), place)) is not None:
            kept = kept if start == place else b""
            file.seek(start)
            block = file.read(BLOCK)
            text = kept + block
            if any(form in text for form in FORMS):
                _, line, shown = str(leak("", text)).split(":", 2)
                return f"{path}:{lines + int(line)}:{shown}"
            kept, place = text[-LONGEST:], start + len(block)
            lines += text.count(b"\n", 0, len(text) - len(kept))
    return None


def _data_after(file: int, place: int) -> int | None:
    """Return where data goes on, past holes: one of the images is a terabyte of nothing."""
    try:
        return os.lseek(file, place, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # the file ends here
            return None
        raise
