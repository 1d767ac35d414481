"""``python -m benchmarks.cascade STORE MODEL FOLDER``: a version with its first stage, without it, and a peer.

Whole `sortline label` commands against two running stacks, one with ``SORTLINE_CASCADE=auto`` and one with ``off``, and
`benchmarks/peers/openvino_async.py` with the version's own graph, in turns; medians, and the median of the ratios of
neighbours. Also how many images get the same label with and without, and how many the first stage answered.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks.home import Labelled, environment, label, link_store, stack, temporary_home
from model_store.store import ModelStore

PEER = Path(__file__).resolve().parent / "peers" / "openvino_async.py"


def main() -> None:
    """Measure and print; ``--json`` prints one object instead of lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("model", help="a version with a first stage, such as waste26:1")
    parser.add_argument("folder", type=Path, help="of JPEG photos")
    parser.add_argument("--images", type=int, default=4000, help="names in the list; photos are named again and again")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    version = ModelStore(options.store).resolve(options.model)
    photos = sorted(options.folder.absolute().rglob("*.jpg"))
    with ExitStack() as kept:
        homes = {which: kept.enter_context(temporary_home()) for which in ("auto", "off")}
        for which, home in homes.items():
            link_store(home, options.store)
            names = [str(photos[number % len(photos)]) for number in range(options.images)]
            (home / "names.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
            kept.enter_context(stack(home, {"SORTLINE_CASCADE": which}))
            run(home, options.model)  # loads the model
        rounds = [
            (
                run(homes["auto"], options.model).rate,
                run(homes["off"], options.model).rate,
                peer(homes["off"], options.folder, options.images, version.folder / "serving.onnx"),
            )
            for _ in range(options.rounds)
        ]
        figures = {
            "with the first stage, img/s": statistics.median(rates[0] for rates in rounds),
            "without it, img/s": statistics.median(rates[1] for rates in rounds),
            "OpenVINO's AsyncInferQueue, img/s": statistics.median(rates[2] for rates in rounds),
            "with / without": statistics.median(rates[0] / rates[1] for rates in rounds),
            "with / AsyncInferQueue": statistics.median(rates[0] / rates[2] for rates in rounds),
            "without / AsyncInferQueue": statistics.median(rates[1] / rates[2] for rates in rounds),
            "answered early": json.loads((homes["auto"] / "report.summary.json").read_bytes())["answered_early"]
            / options.images,
            "same label": same_labels(homes["auto"] / "report.csv", homes["off"] / "report.csv"),
        }
    if options.json:
        print(json.dumps(figures))
        return
    for what, value in figures.items():
        print(f"{what:36} {value:.3f}" if value < 10 else f"{what:36} {value:.0f}")


def run(home: Path, model: str) -> Labelled:
    """Run one whole command; its rate is that from the first chunk to the last row."""
    return label(home, home / "names.txt", model=model)


def peer(home: Path, folder: Path, images: int, graph: Path) -> float:
    """Return images a second of the peer, without its start."""
    command = [sys.executable, str(PEER), str(folder), str(images), str(graph)]
    done = subprocess.run(command, env=environment(home), capture_output=True, text=True, check=False)
    found = re.search(r"(\d+) images in ([\d.]+) s", done.stdout)
    if done.returncode or found is None:
        raise SystemExit(f"{PEER.name}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return int(found[1]) / float(found[2])


def same_labels(report: Path, other: Path) -> float:
    """Return the part of the rows with the same label in both reports."""
    ours, theirs = (
        [row["label"] for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())]
        for path in (report, other)
    )
    return statistics.mean(mine == other for mine, other in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    main()
