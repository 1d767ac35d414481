"""Write the outputs of docs/development/first-ten-minutes.md: ``python -m tests.first_ten_minutes FOLDER``.

FOLDER has the home of a training of `make demo` (``home``), and its digits. What a person would type is run there, on a
folder as phones, cameras and network storage leave it; the page has the real output.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

from PIL import Image

from tests.unit.awkward_images import dng
from vision.images.colour import P3_PRIMARIES, SRGB_TRANSFER, coded_profile

PAGE = Path(__file__).parents[1] / "docs" / "development" / "first-ten-minutes.md"
SORTLINE = str(Path(sys.executable).parent / "sortline")
SHOWN = 60  # lines of one output

BEGIN, END = "<!-- begin -->\n", "<!-- end -->\n"


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    os.environ["SORTLINE_HOME"] = str(folder / "home")
    write_folder(folder)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    parts = [before, BEGIN, "\n"]
    for title, commands in STEPS:
        parts.append(f"## {title}\n\n```text\n")
        parts.append("\n\n".join(transcript(command, folder) for command in commands))
        parts.append("\n```\n\n")
    PAGE.write_text("".join(parts) + END + rest.partition(END)[2], encoding="utf-8")


STEPS = [
    ("Which version, which models", ["sortline --version", "sortline models list", "sortline models show digits"]),
    ("What lies in the folder", ["find holiday | sort"]),
    (
        "A report of all of it",
        [
            "sortline label holiday/ --bursts 60s --columns path,label,error,taken,camera_model,burst,burst_label",
            "cat report.csv",
            "cat report.errors.csv",
            "python3 -c \"import json; print(json.load(open('report.summary.json'))['skipped'])\"",
        ],
    ),
    (
        "Only what one wants to see",
        [
            "sortline label holiday/ -o short.csv --top-k 1 --min-confidence 0.99 --columns path,label,decision",
            "head -5 short.csv",
            "sortline label holiday/ -o pages.csv --pages all --columns path,page,label",
            "grep scan pages.csv",
            "sortline label holiday/ -o trap.json --format megadetector -q; head -c 300 trap.json",
        ],
    ),
    (
        "The next day",
        [
            "cp holiday/7.jpg holiday/another-7.jpg",
            "sortline label holiday/ --since report.csv --merge --bursts 60s --columns path,label",
            "wc -l report.csv",
        ],
    ),
    (
        "What goes wrong is a sentence",
        [
            "sortline label holiday/ -o report.json",
            "sortline label holiday/ -o /proc/none/report.csv",
            "sortline train digits/train --epochs 5",
            "sortline models export digits --format onnx -o spare.onnx",
            "sortline label holiday/ --max-failures 0 -q; echo code $?",
            "sortline models delete digits:1",
        ],
    ),
]


def transcript(command: str, folder: Path) -> str:
    """Return a command with what it writes, run in ``folder``."""
    env = {**os.environ, "PATH": f"{Path(SORTLINE).parent}:{os.environ['PATH']}", "COLUMNS": "100"}
    done = subprocess.run(  # noqa: S602 - a shell, as a person has one
        command,
        shell=True,
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = done.stdout.replace(str(folder), "~").rstrip("\n").splitlines()
    shown = lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"... {len(lines) - SHOWN} more lines"]
    return "\n".join([f"$ {command}", *shown])


def write_folder(folder: Path) -> None:
    """Write holiday/: photos of a phone and a camera, a burst, a scan, and what systems and storages leave there."""
    photos = folder / "holiday"
    digits = {digit: sorted((folder / "digits" / "held-out" / str(digit)).glob("*.png")) for digit in range(10)}
    pictures = {digit: [Image.open(path).convert("RGB") for path in paths[:4]] for digit, paths in digits.items()}
    for name in ("burst", "@eaDir", "#recycle", "$RECYCLE.BIN", ".thumbnails"):
        (photos / name).mkdir(parents=True, exist_ok=True)
    from pillow_heif import from_pillow

    from_pillow(pictures[3][0]).save(photos / "3-phone.heic", quality=-1, exif=exif("Apple", "iPhone 15", 0))
    p3 = coded_profile(P3_PRIMARIES, SRGB_TRANSFER)
    pictures[5][0].save(photos / "5-display-p3.png", icc_profile=p3)
    pictures[7][0].save(photos / "7.jpg", quality=95, exif=exif("Canon", "EOS R5", 60))
    jpeg = io.BytesIO()
    pictures[8][0].save(jpeg, "JPEG", quality=95)
    (photos / "8-raw.dng").write_bytes(dng(jpeg.getvalue(), 1))
    for number in range(3):
        at = exif("Browning", "BTC-8A", 600 + 20 * number)
        pictures[9][number].save(photos / "burst" / f"9-{number}.jpg", quality=95, exif=at)
    pages = [pictures[digit][1] for digit in (1, 2, 4)]
    pages[0].save(photos / "1-2-4-scan.tif", save_all=True, append_images=pages[1:])
    (photos / "half.jpg").write_bytes((photos / "7.jpg").read_bytes()[:300])
    (photos / "drawing.jxl").write_bytes(b"\xff\x0a" + bytes(60))
    for name in ("@eaDir/7.jpg", "#recycle/old.jpg", "$RECYCLE.BIN/old.jpg", ".thumbnails/7.jpg"):
        pictures[7][0].save(photos / name)
    for name in ("Thumbs.db", "IMG_0001.MOV", "notes.txt"):
        (photos / name).write_bytes(b"no picture")


def exif(make: str, model: str, after_s: int) -> bytes:
    tags = Image.Exif()
    tags[0x010F], tags[0x0110] = make, model
    at = datetime(2026, 3, 1, 12) + timedelta(seconds=after_s)  # noqa: DTZ001 - its zone stands beside it
    tags.get_ifd(0x8769).update({0x9003: at.strftime("%Y:%m:%d %H:%M:%S"), 0x9011: "+01:00"})
    return tags.tobytes()


if __name__ == "__main__":
    main()
