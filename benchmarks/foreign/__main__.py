"""``python -m benchmarks.foreign PHOTOS``: classifiers of other frameworks, imported and held to their own answers.

For each framework an environment of its own exports a classifier and labels the same 200 photos of mixed sizes and
formats with its own pipeline (export.py). `sortline models import --check` must agree with all of them, and so must the
report of `sortline label`. PHOTOS is a folder of JPEG photos, a folder a class.

``--install`` makes the environments first (about 9 GB below the cache folder): TensorFlow has one of its own.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.foreign.photos import write_mixed
from benchmarks.home import SORTLINE, temporary_home

HERE = Path(__file__).resolve().parent
PHOTOS = 200
ENVIRONMENTS = {"environment": "requirements.txt", "keras": "keras.txt"}
# What each is called in export.py, what of its output is imported, and what its files don't say.
FRAMEWORKS = {
    "timm-resnet18": (".", ()),
    "timm-efficientnet-lite0": (".", ()),
    "hf-convnext": (".", ()),
    "hf-vit": (".", ()),
    "ultralytics": ("best.onnx", ()),
    "keras": ("model.onnx", ("--preset", "imagenet-tf", "--labels", "labels.txt")),
    "openvino": ("network.xml", ()),
    "torchvision": ("model.onnx", ("--preset", "imagenet-torch", "--labels", "labels.txt")),
}


def main() -> None:
    """Measure and print a line a framework."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/sortline-foreign").expanduser())
    parser.add_argument("--only", nargs="+", choices=FRAMEWORKS, default=FRAMEWORKS)
    parser.add_argument("--install", action="store_true")
    options = parser.parse_args()
    for environment, packages in ENVIRONMENTS.items() if options.install else ():
        subprocess.run([sys.executable, "-m", "venv", str(options.cache / environment)], check=True)
        pip = [str(python_of(options.cache, environment)), "-m", "pip", "install", "--disable-pip-version-check"]
        subprocess.run([*pip, "--quiet", "-r", str(HERE / packages)], check=True)
    with temporary_home() as home:
        write_mixed(options.photos, home / "photos", PHOTOS)
        print(f"{'framework':26} {'import --check':58} sortline label")
        for name in options.only:
            print(f"{name:26} {compare(name, options.cache, home)}", flush=True)


def python_of(cache: Path, environment: str) -> Path:
    return cache / environment / "bin" / "python"


def compare(name: str, cache: Path, home: Path) -> str:
    """Return how the import and a report agree with the framework, as a line."""
    folder, photos = home / name, home / "photos"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": str(home / "yolo")}
    offline.pop("PYTHONPATH", None)
    environment, script = ("keras", "export_keras.py") if name == "keras" else ("environment", "export.py")
    export = [str(python_of(cache, environment)), str(HERE / script), name, str(photos), str(folder)]
    exported = subprocess.run(export, env=offline, capture_output=True, text=True, check=False, cwd=home)
    if exported.returncode:
        return f"not exported: {exported.stderr.strip().splitlines()[-1]}"
    part, said = FRAMEWORKS[name]
    own = {**os.environ, "SORTLINE_HOME": str(home)}
    command = [SORTLINE, "models", "import", str(folder / part), "--name", name, "--check", "samples.csv", *said]
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        return done.stderr.strip()
    checked = next(line for line in done.stdout.splitlines() if line.startswith("  check: ")).removeprefix("  check: ")
    report = home / f"{name}.csv"
    label = [SORTLINE, "label", str(photos), "--model", name, "-o", str(report)]
    subprocess.run(label, env=own, check=True, capture_output=True, cwd=home)
    return f"{checked:58} {agreement(folder / 'samples.csv', report, photos)}"


def agreement(samples: Path, report: Path, photos: Path) -> str:
    """Return how a report agrees with samples of the same photos."""
    with samples.open(encoding="utf-8", newline="") as file:
        expected = {row.pop("path"): {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)}
    with report.open(encoding="utf-8", newline="") as file:
        rows = {str(photos / row["path"]): row for row in csv.DictReader(file)}
    same = sum(max(row, key=row.__getitem__) == rows[path]["label"] for path, row in expected.items())
    furthest = max(abs(row[rows[path]["label"]] - float(rows[path]["confidence"])) for path, row in expected.items())
    return f"{same} of {len(rows)} labels equal, confidence within {furthest:.1g}"


if __name__ == "__main__":
    main()
