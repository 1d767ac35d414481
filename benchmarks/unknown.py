"""``python -m benchmarks.unknown PHOTOS FOREIGN``: what is accepted of new families, how right it is, what is unknown.

Of PHOTOS, a folder a class, the families of each of ``--folds`` folds are left out in turn: `sortline train` on the
rest, `sortline label` on the fold and on FOREIGN, photos of other things in a folder a kind. Printed is what the
reports say: for each target which part is accepted and how much of that is right, and which part is unknown.

Backbones that no package brings are imported first: ``--weights NAME=FILE``. With ``--home`` models, features and
reports stay in a folder, and another call goes on where this one ended: ``--only 1``, then ``--only 2``.

With ``--imported`` each network is one that was imported: the ONNX file of a linear head, trained without a second fold
as well, by whose photos it is calibrated (`sortline models import --calibrate`).

``--samples SITE_PACKAGES`` fills FOREIGN first, with what packages ship: scikit-learn's digits (200) and two photos,
100 faces of LFW and the sample images of scikit-image, portraits and street scenes of matplotlib, insightface and
ultralytics.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from base.decisions import TARGETS
from base.intervals import wilson_interval
from benchmarks.home import SORTLINE, environment, temporary_home
from vision.training import Dataset, LabelledImage, file_digests, fold_by_family, read_dataset

DIGITS, FACES = 200, 100
FACES_OF = {"astronaut.png", "grace_hopper.jpg", "Tom_Hanks_54745.png", "t1.jpg", "zidane.jpg", "bus.jpg"}
LANDSCAPES = {"china.jpg"}


def main() -> None:
    """Train, label, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("foreign", type=Path)
    parser.add_argument("--samples", type=Path, metavar="SITE_PACKAGES")
    parser.add_argument("--config", default="photos")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only", type=int, help="this many of the folds")
    parser.add_argument("--imported", action="store_true")
    parser.add_argument("--weights", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--home", type=Path, help="a folder to work in, which stays; its path is short (sockets)")
    options = parser.parse_args()
    if options.samples is not None:
        write_samples(options.samples, options.foreign)
    with nullcontext(options.home.absolute()) if options.home is not None else temporary_home() as home:
        for name, _, file in (given.partition("=") for given in options.weights):
            if not (home / "store" / name).exists():
                run(home, "models", "import", file, "--name", name)
        folds = list(write_folds(options.photos, options.folds, home / "folds"))
        held: dict[float, list[dict[str, str]]] = {target: [] for target in TARGETS}
        foreign: list[dict[str, str]] = []
        for number, fold in enumerate(folds[: options.only]):
            name = f"{Path(options.config).stem}{'-imported' if options.imported else ''}-{number}"
            of_foreign = home / f"{name}-foreign.csv"
            if not (home / "store" / name).exists():
                if options.imported:
                    import_calibrated(home, folds, number, options.config, name)
                else:
                    run(home, "train", fold / "train", "--config", options.config, "--name", name)
            for target in TARGETS:
                rows = labelled(home, fold / "held", home / f"{name}-held.csv", f"{name}:1", target)
                held[target] += rows
            foreign += labelled(home, options.foreign.absolute(), of_foreign, f"{name}:1", TARGETS[0])
            print(f"fold {number + 1} of {options.folds}: {len(rows)} photos held out", flush=True)
    for target, rows in held.items():
        print(f"target {target:.0%}: {described(rows)}")
    rows = held[TARGETS[0]]
    print(f"unknown of the photos held out: {unknown(rows):.1%} of {len(rows)}")
    for kind in sorted({row["path"].split("/")[0] for row in foreign}):
        of_kind = [row for row in foreign if row["path"].startswith(f"{kind}/")]
        print(f"unknown of {kind}: {unknown(of_kind):.1%} of {len(of_kind)} answers")
    print(f"unknown of all that is foreign: {unknown(foreign):.1%} of {len(foreign)} answers")


def write_folds(photos: Path, count: int, folder: Path) -> Iterator[Path]:
    """Yield a folder for each fold, with links to the photos in it (``held``) and to all others (``train``)."""
    dataset = read_dataset(photos)
    images = [*dataset.train, *(dataset.validation or ())]
    digests = file_digests([image.path for image in images])
    of_image = fold_by_family(images, folds=count, seed=0, known=dataset.families, digests=digests)
    for number in range(count):
        for image, fold in zip(images, of_image, strict=True):
            side = folder / str(number) / ("held" if fold == number else "train")
            link(dataset, image, side)
        yield folder / str(number)


def link(dataset: Dataset, image: LabelledImage, side: Path) -> None:
    """Put a photo into the folder of its class in ``side``."""
    inside = side / dataset.classes[image.class_index].folder
    inside.mkdir(parents=True, exist_ok=True)
    # A copy: workers follow no link out of their data root. The name says which side it was on, so that none is taken.
    place = inside / f"{image.path.parent.parent.name}-{image.path.name}"
    if place.exists():
        return
    try:
        os.link(image.path, place)
    except OSError:  # another disk
        shutil.copyfile(image.path, place)


def import_calibrated(home: Path, folds: list[Path], number: int, config: str, name: str) -> None:
    """Import the graph of a network that has seen neither this fold nor the next, calibrated by the next."""
    following, graph = folds[(number + 1) % len(folds)], home / f"{name}.onnx"
    others = [fold / "held" for fold in folds if fold not in (folds[number], following)]
    run(home, "train", *others, "--config", config, "--set", "rbf_centers=0", "--name", f"{name}-own")
    run(home, "models", "export", f"{name}-own:1", "--format", "onnx", "-o", graph)
    described = json.loads(graph.with_suffix(".json").read_text(encoding="utf-8"))
    labels, how = home / f"{name}.txt", described["preprocessing"]
    labels.write_text("\n".join(described["labels"]), encoding="utf-8")
    said = (f"resize={how['height_px']}x{how['width_px']}", "filter=bilinear", f"fit={how['fit']}")
    options = [word for fact in said for word in ("--preprocess", fact)]
    calibration = ("--labels", labels, "--calibrate", following / "held")
    run(home, "models", "import", graph, "--name", name, *options, *calibration)


def labelled(home: Path, source: Path, report: Path, model: str, target: float) -> list[dict[str, str]]:
    """Return the rows of a report with the decisions for ``target``; the first labels, the others report again."""
    options = ("--target-precision", f"{target:g}")
    if report.exists():
        run(home, "report", report, *options)
    else:
        run(home, "label", source, "-o", report, "--model", model, *options)
    with report.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["status"] == "ok"]


def run(home: Path, *arguments: object) -> None:
    """Run a command of Sortline in this home; end the benchmark where it fails."""
    command = [SORTLINE, *map(str, arguments)]
    done = subprocess.run(command, env=environment(home), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")


def described(rows: list[dict[str, str]]) -> str:
    """Return which part is accepted, how much of that is right, and the lowest of the classes."""
    accepted = [row for row in rows if row["decision"] == "accept"]
    right = [row for row in accepted if row["path"].split("/")[0] == row["label"]]
    of_class, right_of = Counter(row["label"] for row in accepted), Counter(row["label"] for row in right)
    worst = min(of_class, key=lambda label: right_of[label] / of_class[label])
    share = len(right) / max(1, len(accepted))
    low, high = wilson_interval(share, len(accepted))
    return (
        f"{len(accepted) / len(rows):.1%} of {len(rows)} accepted, {share:.1%} of them right "
        f"({low:.1%} to {high:.1%}); the least of {worst}: {right_of[worst]} of {of_class[worst]}"
    )


def unknown(rows: list[dict[str, str]]) -> float:
    """Return the part of the rows that are unknown."""
    return sum(row["decision"] == "unknown" for row in rows) / max(1, len(rows))


def write_samples(packages: Path, target: Path) -> None:
    """Write the sample images of the packages that are installed there, a folder a kind."""
    from PIL import Image
    from sklearn import datasets

    for kind in ("digits", "faces", "landscapes", "things"):
        (target / kind).mkdir(parents=True, exist_ok=True)
    for number, digit in enumerate(datasets.load_digits().images[:DIGITS]):
        enlarged = Image.fromarray((digit * 15.9).astype(np.uint8)).resize((64, 64), Image.Resampling.NEAREST)
        enlarged.save(target / "digits" / f"{number}.png")
    if (faces := packages / "skimage" / "data" / "lfw_subset.npy").exists():
        for number, face in enumerate(np.load(faces)[:FACES]):
            Image.fromarray((255 * face.clip(0, 1)).astype(np.uint8)).save(target / "faces" / f"lfw-{number}.png")
    folders = (
        Path(datasets.__file__).parent / "images",
        packages / "skimage" / "data",
        packages / "matplotlib" / "mpl-data" / "sample_data",
        packages / "ultralytics" / "assets",
    )
    samples = [path for folder in folders for path in sorted(folder.glob("*.[jp][pn]g"))]
    samples += [packages / "insightface" / "data" / "images" / name for name in ("t1.jpg", "Tom_Hanks_54745.png")]
    for path in filter(Path.exists, samples):
        kind = "faces" if path.name in FACES_OF else "landscapes" if path.name in LANDSCAPES else "things"
        shutil.copyfile(path, target / kind / path.name)


if __name__ == "__main__":
    main()
