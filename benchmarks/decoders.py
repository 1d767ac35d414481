"""``python -m benchmarks.decoders [PHOTO]``: CPU milliseconds to decode a camera's JPEG, by library and by size.

What is left at 1/8 in grey is reading the compressed data: no decoder that reads a file to its end can do less.
``--turbojpeg FILE`` adds PyTurboJPEG with that libturbojpeg.so, where it is installed. Best of several.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image

WIDTH_PX, HEIGHT_PX = 4000, 3000
NOISE = 6
QUALITY = 92


def main() -> None:
    """Measure and print; ``--json`` prints one object instead of lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path, nargs="?", help="a JPEG; made when not given")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--turbojpeg", help="a libturbojpeg.so for PyTurboJPEG")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    data = options.photo.read_bytes() if options.photo else made_photo()
    cv2.setNumThreads(0)
    figures = {what: milliseconds(decode, options.times) for what, decode in ways(data, options.turbojpeg).items()}
    if options.json:
        print(json.dumps(figures))
        return
    print(f"{len(data) / 1e6:.1f} MB")
    for what, taken in figures.items():
        print(f"{what:36} {taken:6.1f} ms")


def made_photo() -> bytes:
    """Return smooth shapes with a camera's noise, 12 megapixels."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    pixels = cv2.resize(coarse, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    pixels += random.integers(-NOISE, NOISE + 1, pixels.shape, dtype=np.int16)
    whole = np.clip(pixels, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", whole, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def ways(data: bytes, turbojpeg: str | None) -> dict[str, Callable[[], object]]:
    """Return what is tried, by name."""
    height, width, *_ = simplejpeg.decode_jpeg_header(data)

    def simple(step: int, colours: str = "RGB", *, fast: bool = False) -> Callable[[], object]:
        least = {"min_height": -(-height // step), "min_width": -(-width // step)}
        return lambda: simplejpeg.decode_jpeg(data, colours, fastdct=fast, fastupsample=fast, **least)

    def pillow() -> None:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (width // 4, height // 4))
        image.load()

    found: dict[str, Callable[[], object]] = {f"simplejpeg, 1/{step}": simple(step) for step in (1, 2, 4, 8)}
    found |= {
        "simplejpeg, 1/4, fast": simple(4, fast=True),
        "simplejpeg, 1/8 in grey": simple(8, "GRAY"),
        "OpenCV, 1/4": lambda: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_COLOR_4),
        "Pillow, 1/4": pillow,
    }
    if turbojpeg is not None:
        from turbojpeg import TurboJPEG

        turbo = TurboJPEG(turbojpeg)
        found["PyTurboJPEG, 1/4"] = lambda: turbo.decode(data, scaling_factor=(1, 4))
        side = height // 16 * 16  # a lossless crop begins and ends at whole blocks
        found["PyTurboJPEG, crop to a square"] = lambda: turbo.crop(data, (width - side) // 32 * 16, 0, side, side)
    return found


def milliseconds(decode: Callable[[], object], times: int) -> float:
    """Return the least CPU milliseconds of several decodings: others on the machine only add to it."""
    taken = []
    for _ in range(times):
        started = time.process_time()
        decode()
        taken.append(time.process_time() - started)
    return 1000 * min(taken)


if __name__ == "__main__":
    main()
