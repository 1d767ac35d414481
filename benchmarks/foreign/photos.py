"""Photos of mixed sizes, proportions and formats, made of a folder of photos: what folders of people hold."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image

FORMATS = (".jpg", ".png", ".webp", ".bmp")
SHORTEST_PX, LONGEST_PX = 120, 900


def write_mixed(source: Path, target: Path, count: int) -> None:
    """Write ``count`` photos below ``target``, a folder a class, in sizes and formats drawn with a seed."""
    draw = random.Random(0)  # noqa: S311  not for secrets
    photos = sorted(source.rglob("*.jpg"))
    draw.shuffle(photos)
    for number, photo in enumerate(photos[:count]):
        folder = target / photo.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        size = (draw.randint(SHORTEST_PX, LONGEST_PX), draw.randint(SHORTEST_PX, LONGEST_PX))
        with Image.open(photo) as image:
            resized = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        resized.save(folder / f"{number:04}{FORMATS[number % len(FORMATS)]}")
