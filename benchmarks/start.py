"""``python -m benchmarks.start``: how long a person waits for small things; medians of several commands.

* ``sortline --help``
* ``sortline label`` of ten photos against a running stack that has the model loaded
* the same with nothing running: private Redis, worker, model, labels, report, and all taken down again
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.home import SORTLINE, environment, label, link_store, stack, temporary_home, write_photos

PHOTOS = 10


def main() -> None:
    """Measure and print; ``--json`` prints one object instead of lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--store", type=Path, help="with one classifier in production; MobileNetV2 when not given")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with temporary_home() as home:
        link_store(home, options.store)
        photos = home / "photos"
        write_photos(photos, PHOTOS)

        def show_help() -> None:
            subprocess.run([SORTLINE, "--help"], env=environment(home), stdout=subprocess.DEVNULL, check=True)

        figures = {
            "sortline --help, s": median(show_help, options.times),
            f"{PHOTOS} photos, nothing running, s": median(lambda: label(home, photos), options.times),
        }
        with stack(home):
            figures[f"{PHOTOS} photos, running stack, s"] = median(lambda: label(home, photos), options.times)
    if options.json:
        print(json.dumps(figures))
        return
    for what, seconds in figures.items():
        print(f"{what:36} {seconds:.2f}")


def median(command: Callable[[], object], times: int) -> float:
    """Return the median seconds of ``command``, after one that fills the disk's cache and loads the model."""
    command()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        command()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
