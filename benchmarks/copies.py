"""``python -m benchmarks.copies``: what `--duplicates` gains where half of a folder is copies, and costs without any.

Whole `sortline label` commands against a running stack, with and without the option in turns; each line is the median
of the ratios of neighbours: above 1, the option is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from benchmarks.home import label, link_store, stack, temporary_home, write_photos


def main() -> None:
    """Measure and print; ``--json`` prints one object instead of lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=4000, help="of each folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--store", type=Path, help="with one classifier in production; MobileNetV2 when not given")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: dict[str, str] = {}
    with temporary_home() as home:
        link_store(home, options.store)
        write_photos(home / "distinct", options.photos, distinct=options.photos)
        write_half_copies(home / "distinct", home / "half", options.photos)
        with stack(home):
            label(home, home / "half")  # loads the model
            for name, folder in (("half copies", home / "half"), ("no copies", home / "distinct")):
                figures[name] = compare(home, folder, options.rounds)
    if options.json:
        print(json.dumps(figures))
        return
    for what, value in figures.items():
        print(f"{what:14} {value}")


def compare(home: Path, folder: Path, rounds: int) -> str:
    """Return the median ratio of whole commands without the option to those with it, and their seconds."""
    pairs = [
        (label(home, folder).seconds, label(home, folder, options=("--duplicates",)).seconds) for _ in range(rounds)
    ]
    ratios = sorted(without / with_it for without, with_it in pairs)
    plain, once = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    return (
        f"{statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f}): "
        f"{plain:.2f} s without the option, {once:.2f} s with it"
    )


def write_half_copies(distinct: Path, folder: Path, count: int) -> None:
    """Write the first half of ``count`` photos, each followed by a copy in a file of its own."""
    folder.mkdir()
    for path in sorted(distinct.iterdir())[: count // 2]:
        for suffix in ("a", "b"):
            (folder / f"{path.stem}{suffix}.jpg").write_bytes(path.read_bytes())


if __name__ == "__main__":
    main()
