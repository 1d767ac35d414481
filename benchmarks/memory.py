"""``python -m benchmarks.memory``: what producer, Redis and label worker hold, and whether it grows with the images.

* queue: a list of a million names, workers that answer at once: the producer's largest resident memory, and the most
  Redis has used, as it counts itself.
* worker: a real label worker with the real engine, on few and on many photos: its largest resident memory in each.

Each is measured with few images and with many; what is flat shows the same figure twice.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from benchmarks.home import (
    environment,
    label,
    link_store,
    peak_memory,
    publish_stub,
    redis_server,
    temporary_home,
    write_list,
    write_photos,
)
from benchmarks.scaling import chunks_of, workers

SAMPLE_S = 0.1
MB = 1e6


def main() -> None:
    """Measure and print; ``--json`` prints one object instead of lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="*", default=[10_000, 100_000, 1_000_000], help="names in the list")
    parser.add_argument("--photos", type=int, nargs="*", default=[2_000, 10_000], help="for the real worker")
    parser.add_argument("--store", type=Path, help="with one classifier in production; MobileNetV2 when not given")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = {**of_the_queue(options.images), **of_a_worker(options.photos, options.store)}
    if options.json:
        print(json.dumps(figures))
        return
    for what, value in figures.items():
        print(f"{what:44} {value}")


def of_the_queue(counts: list[int]) -> dict[str, Any]:
    """Return the peaks of producer and Redis for lists of these lengths, each with a Redis of its own."""
    figures: dict[str, Any] = {}
    for count in counts:
        with temporary_home() as home, redis_server(home) as server, workers(home, server, 2, 0):
            publish_stub(home)
            write_list(home / "inbox.txt", count)
            done = label(home, home / "inbox.txt", chunks_of(server, 128))
            with server.client() as client:
                redis_peak = int(client.info("memory")["used_memory_peak"])
        figures[f"producer at {count} images, MB"] = round(done.peak_bytes / MB, 1)
        figures[f"Redis at {count} images, MB"] = round(redis_peak / MB, 1)
        figures[f"whole command at {count} images, img/s"] = round(done.images / done.seconds)
    return figures


def of_a_worker(counts: list[int], store: Path | None) -> dict[str, Any]:
    """Return the peak of a real label worker, newly started for each of these numbers of photos."""
    figures: dict[str, Any] = {}
    if not counts:
        return figures
    with temporary_home() as home, redis_server(home) as server:
        link_store(home, store)
        env = {**chunks_of(server, 128), "SORTLINE_DATA_ROOT": str(home)}
        for count in counts:
            write_photos(home / f"photos-{count}", count)
            with (home / "worker.log").open("ab") as log:
                worker = psutil.Popen(
                    [sys.executable, "-m", "worker", "--queues", "label"],
                    env=environment(home, env),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            with peak_memory(worker) as peak:
                label(home, home / f"photos-{count}", env)
            worker.terminate()
            worker.wait()
            figures[f"label worker at {count} photos, MB"] = round(peak[0] / MB, 1)
    return figures


if __name__ == "__main__":
    main()
