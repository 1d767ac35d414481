"""``python -m benchmarks.outliers PHOTOS FOREIGN``: whether `sortline audit` lists photos of other things first.

Of FOREIGN, photos of other things in a folder a kind (`benchmarks.unknown` fills it), ``--planted`` are put among the
labelled PHOTOS, as many of each kind, each into the folder of a class drawn at random. Then `sortline audit` runs.
Printed is how many of N planted are among the first N outliers of its table, and among the first 2 N; ``--draws``
repeats it with others.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
import statistics
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from benchmarks.home import temporary_home
from benchmarks.unknown import link, run
from vision.training import read_dataset

PLANTED = "planted-"  # begins the names of those files; their kind follows


def main() -> None:
    """Plant, audit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("foreign", type=Path)
    parser.add_argument("--planted", type=int, default=50)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--config", default="photos")
    parser.add_argument("--home", type=Path, help="a folder to work in, which stays; its path is short (sockets)")
    options = parser.parse_args()
    shares: dict[int, list[float]] = defaultdict(list)
    places_of: dict[str, list[int]] = defaultdict(list)
    with nullcontext(options.home.absolute()) if options.home is not None else temporary_home() as home:
        for draw in range(options.draws):
            folder, table = home / f"planted-{draw}", home / f"audit-{draw}.csv"
            plant(options.photos, options.foreign, options.planted, draw, folder)
            if not table.exists():
                run(home, "audit", folder, "-o", table, "--config", options.config)
            kinds = listed(table)
            total = sum(map(bool, kinds))
            for place, kind in enumerate(kinds, start=1):
                if kind:
                    places_of[kind].append(place)
            found = {times: sum(map(bool, kinds[: times * total])) / total for times in (1, 2)}
            for times, share in found.items():
                shares[times].append(share)
            first = f"{found[1]:.0%} among the first {total}, {found[2]:.0%} among the first {2 * total}"
            print(f"draw {draw + 1}: {total} planted among {len(kinds) - total}: {first}", flush=True)
    for times, of_draws in shares.items():
        print(f"mean, among the first {times} N: {statistics.mean(of_draws):.1%}")
    for kind, places in sorted(places_of.items()):
        inside = sum(place <= total for place in places)
        print(f"{kind}: {inside} of {len(places)} among the first {total}, median place {statistics.median(places):g}")


def plant(photos: Path, foreign: Path, count: int, seed: int, folder: Path) -> None:
    """Write the photos and ``count`` foreign ones, evenly of all kinds, into the folders of their classes."""
    dataset = read_dataset(photos)
    for image in [*dataset.train, *(dataset.validation or ())]:
        link(dataset, image, folder)
    drawn = random.Random(seed)  # noqa: S311 - the same at each call
    classes = [entry.folder for entry in dataset.classes]
    for path in evenly([sorted(kind.iterdir()) for kind in sorted(foreign.iterdir())], count, drawn):
        shutil.copyfile(path, folder / drawn.choice(classes) / f"{PLANTED}{path.parent.name}-{path.name}")


def evenly(kinds: Sequence[Sequence[Path]], count: int, drawn: random.Random) -> list[Path]:
    """Return ``count`` of the files, one of each kind in turn for as long as it has any."""
    left = [drawn.sample(kind, len(kind)) for kind in kinds]
    found: list[Path] = []
    while len(found) < count and any(left):
        found += [kind.pop() for kind in left if kind]
    return found[:count]


def listed(table: Path) -> list[str]:
    """Return the kind of each image, "" of those that were there before, in the order of the outliers."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: -float(row["outlier"]))
    names = [row["path"].rsplit("/", 1)[-1] for row in rows]
    return [name.removeprefix(PLANTED).split("-")[0] if name.startswith(PLANTED) else "" for name in names]


if __name__ == "__main__":
    main()
