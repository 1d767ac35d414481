"""The whole of Sortline on real handwritten digits: train, publish, label, report. `make demo` runs it.

It only calls the commands that a person would type, and prints each before it runs.
"""

from __future__ import annotations

import csv
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SORTLINE = str(Path(sys.executable).parent / "sortline")
HELD_OUT = 360
MODEL = "digits"


def main() -> int:
    """Run the demo in the folder given as first argument; return 0 when at least 99 % of the digits are right."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-run").absolute()
    os.environ["SORTLINE_HOME"] = str(folder / "home")
    digits, report = folder / "digits", folder / "report.csv"
    if not digits.exists():
        write_digits(digits)
    with stack_up(folder):
        sortline("train", str(digits / "train"), "--config", "digits", "--name", MODEL)
        started = time.perf_counter()
        sortline("label", str(digits / "held-out"), "-o", str(report), "--model", MODEL, "--on-existing", "overwrite")
        seconds = time.perf_counter() - started
    with report.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    right = sum(Path(row["path"]).parent.name == row["label"] for row in rows)
    well = sum(row["status"] == "ok" for row in rows)
    print(f"\n{len(rows)} rows, {well} ok, {right} right: accuracy {right / len(rows):.2%} against the folder names")
    print(f"{len(rows) / seconds:.0f} images a second, command start to report; the report: {report}")
    return 0 if well == len(rows) == HELD_OUT and right / len(rows) >= 0.99 else 1


def write_digits(folder: Path) -> None:
    """Write scikit-learn's 1,797 digits as PNG files: train/<digit>/ (1,437) and held-out/<digit>/ (360)."""
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), 0 to 16 in the source
    training, held_out = train_test_split(
        np.arange(len(pixels)), test_size=HELD_OUT, random_state=0, stratify=digits.target
    )
    beside = folder.with_name(folder.name + ".new")
    for part, chosen in (("train", training), ("held-out", held_out)):
        for index in sorted(chosen):
            file = beside / part / str(digits.target[index]) / f"{index:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), pixels[index])
    beside.rename(folder)
    print(f"wrote {len(training)} digits to train on and {len(held_out)} to label: {folder}")


@contextmanager
def stack_up(folder: Path) -> Iterator[None]:
    """Keep `sortline up` running: a private Redis, a label worker, a training worker."""
    print("$ sortline up", flush=True)
    log = folder / "up.log"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen([SORTLINE, "up"], stdout=output, stderr=subprocess.STDOUT)
    try:
        while "now, in another terminal" not in log.read_text(encoding="utf-8"):
            if process.poll() is not None:
                raise SystemExit(f"sortline up ended early:\n{log.read_text(encoding='utf-8')}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(60)


def sortline(*arguments: str) -> None:
    """Run a command as a person would; end the demo when it fails."""
    print(f"\n$ sortline {shlex.join(arguments)}", flush=True)
    code = subprocess.run([SORTLINE, *arguments], check=False).returncode
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    sys.exit(main())
