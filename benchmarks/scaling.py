"""``python -m benchmarks.scaling``: what more workers bring, and where one producer and one Redis saturate.

* speed-up: 1, 2, 4 and 8 worker processes on one Redis, each standing for an accelerator: it sleeps its batch time.
* saturation: workers that answer at once, chunks of several sizes. What is left is the queue: producer, Redis, and the
  workers' own handling of messages. CPU seconds say what each would reach on cores of its own.

Every figure is of whole `sortline label` commands on a list of names.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.home import Server, environment, label, publish_stub, redis_server, temporary_home, wait_for, write_list
from configs.settings import load_settings
from jobs.app import make_app


def main() -> None:
    """Measure and print; ``--json`` prints one object instead of lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8], help="process counts, rising")
    parser.add_argument("--rate", type=float, default=1000, help="images a second of one accelerator")
    parser.add_argument("--seconds", type=float, default=20, help="of each run with sleeping workers")
    parser.add_argument("--chunk-images", type=int, default=128, help="with sleeping workers")
    parser.add_argument(
        "--chunk-sizes",
        type=int,
        nargs="+",
        default=[0, 32, 128, 512, 2048],
        help="for saturation; 0 is as the workers ask",
    )
    parser.add_argument("--answering", type=int, default=2, help="workers that answer at once")
    parser.add_argument("--images", type=int, default=200_000, help="of each run with workers that answer at once")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with temporary_home() as home:
        publish_stub(home)
        with redis_server(home) as server:
            figures = {**speed_up(home, server, options), **saturation(home, server, options)}
    if options.json:
        print(json.dumps(figures))
        return
    for what, value in figures.items():
        print(f"{what:58} {value}")


def speed_up(home: Path, server: Server, options: argparse.Namespace) -> dict[str, Any]:
    """Return the rate with each number of sleeping workers, and how often that of one worker it is."""
    figures: dict[str, Any] = {}
    rates: list[float] = []
    for count in options.workers:
        images = max(1, round(options.rate * options.seconds / options.chunk_images)) * options.chunk_images * count
        write_list(home / "inbox.txt", images)
        with workers(home, server, count, 1 / options.rate):
            rates.append(label(home, home / "inbox.txt", chunks_of(server, options.chunk_images)).rate)
        of_one = rates[-1] / rates[0] * options.workers[0]
        figures[f"{count} workers of {options.rate:.0f} img/s"] = f"{rates[-1]:.0f} img/s, {of_one:.2f} times one"
    return figures


def saturation(home: Path, server: Server, options: argparse.Namespace) -> dict[str, Any]:
    """Return rates and CPU seconds with workers that answer at once."""
    figures: dict[str, Any] = {}
    write_list(home / "inbox.txt", options.images)
    with workers(home, server, options.answering, 0) as processes:
        for size in options.chunk_sizes:
            before = cpu_s(processes), cpu_s([server.process])
            done = label(home, home / "inbox.txt", chunks_of(server, size))
            in_workers, in_redis = cpu_s(processes) - before[0], cpu_s([server.process]) - before[1]
            chunks = f", {done.rate / size:.0f} chunks/s" if size else ""
            figures[f"chunks of {size or 'any size'}, workers that answer at once"] = (
                f"{done.rate:.0f} img/s{chunks}; "
                f"whole command {done.images / done.seconds:.0f} img/s; "
                f"CPU s a million images: producer {million(done.cpu_s, done.images)}, "
                f"workers {million(in_workers, done.images)}, Redis {million(in_redis, done.images)}"
            )
    return figures


def chunks_of(server: Server, images: int) -> dict[str, str]:
    """Return the environment of a producer."""
    return {"SORTLINE_BROKER": server.url, "SORTLINE_DATA_ROOT": "/", "SORTLINE_CHUNK_IMAGES": str(images)}


@contextmanager
def workers(home: Path, server: Server, count: int, seconds_an_image: float) -> Iterator[list[psutil.Process]]:
    """``count`` worker processes, ready to work."""
    env = environment(home, {**chunks_of(server, 1), "SLEEP_S_AN_IMAGE": str(seconds_an_image)})
    command = [sys.executable, "-m", "benchmarks.sleeping_worker", "--name"]
    with (home / "workers.log").open("ab") as log:
        processes = [
            psutil.Popen([*command, f"worker-{number}"], env=env, stdout=log, stderr=subprocess.STDOUT)
            for number in range(count)
        ]
    try:
        app: Any = make_app(load_settings(environment={"SORTLINE_BROKER": server.url}))
        wait_for(lambda: len(app.control.ping(timeout=1, limit=count)) == count, "the workers")
        app.close()
        yield processes
    finally:
        for process in processes:
            process.terminate()
        psutil.wait_procs(processes, timeout=20)


def cpu_s(processes: list[psutil.Process]) -> float:
    """Return the CPU seconds that living processes have used."""
    used = [process.cpu_times() for process in processes]
    return float(sum(times.user + times.system for times in used))


def million(seconds: float, images: int) -> float:
    """Return seconds scaled from ``images`` to a million."""
    return round(seconds / images * 1e6, 1)


if __name__ == "__main__":
    main()
