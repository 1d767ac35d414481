"""What the parts of this machine's state take on disk."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from configs import Settings


def sizes(settings: Settings) -> dict[str, int]:
    """Return the bytes that each part of this machine's state takes, the largest first."""
    home = settings.home
    parts = {name: size_of(home / name) for name in ("runs", "logs", "run", "checkpoints", "scratch")}
    parts["thumbnails"] = sum(map(size_of, home.glob("thumbnails.db*")))
    parts["features"] = size_of(settings.feature_cache_root)
    parts["store"] = size_of(settings.store_root)
    return dict(sorted(((name, size) for name, size in parts.items() if size), key=lambda part: -part[1]))


def size_of(path: Path) -> int:
    """Return the bytes that a file, or all below a folder, take on disk."""
    with suppress(OSError):
        if not path.is_dir() or path.is_symlink():
            return path.lstat().st_blocks * 512
        with os.scandir(path) as entries:
            return sum(size_of(Path(entry.path)) for entry in entries)
    return 0
