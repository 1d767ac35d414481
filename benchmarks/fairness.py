"""``python -m benchmarks.fairness``: how long ten photos of somebody else take beside a giant run and many others.

Workers are processes that sleep instead of computing. All runs are detached, so what is measured is the queue: from the
first message of the ten photos to their rows. The giant run's rate is measured alone, with its window and with all of
its chunks queued at once, and beside small runs that come one after the other: in turns, since a busy machine changes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import redis

from benchmarks.home import publish_stub, redis_server, temporary_home, wait_for, write_list
from benchmarks.scaling import workers
from configs import Settings
from jobs import LAST_AT, Keys
from producer.reports.request import request_of
from producer.run.labelling import Labelling, label_source

PHOTOS = 10
KEYS = Keys("sortline:")


def main() -> None:
    """Measure and print; ``--json`` prints one object instead of lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--chunk-s", type=float, default=1.0, help="that a worker takes for a chunk of 128 images")
    parser.add_argument("--images", type=int, default=1_000_000, help="of the giant run")
    parser.add_argument("--others", type=int, default=50, help="runs beside it")
    parser.add_argument("--other-images", type=int, default=2_000, help="of each of them")
    parser.add_argument("--times", type=int, default=20, help="that ten photos come")
    parser.add_argument("--seconds", type=float, default=60, help="over which the giant run's rate is taken")
    parser.add_argument("--turns", type=int, default=1, help="of these three rates, one after the other")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with temporary_home() as home:
        publish_stub(home)
        figures = {**(_waits(home, options) if options.times else {}), **_rates(home, options)}
    if options.json:
        print(json.dumps(figures))
        return
    for what, value in figures.items():
        print(f"{what:78} {value:.3f}")


def _waits(home: Path, options: argparse.Namespace) -> dict[str, float]:
    with _fleet(home, options) as (client, settings):
        giant = _detach(settings, home, "giant", options.images)
        for number in range(options.others):
            _detach(settings, home, f"other-{number}", options.other_images)
        wait_for(lambda: _labelled(client, giant), "the giant run to begin")
        waits = []
        for number in range(options.times):
            started = time.time()
            run = _detach(settings, home, f"photos-{number}", PHOTOS)
            wait_for(lambda run=run: _labelled(client, run) == PHOTOS, "ten photos")  # type: ignore[misc]
            waits.append(float(str(client.hget(KEYS.labelled(run), LAST_AT))) - started)
    chunks = [wait_s / options.chunk_s for wait_s in waits]
    return {
        "ten photos, median, s": statistics.median(waits),
        "ten photos, longest, s": max(waits),
        "ten photos, median, in chunk times": statistics.median(chunks),
        "ten photos, longest, in chunk times": max(chunks),
    }


def _rates(home: Path, options: argparse.Namespace) -> dict[str, float]:
    kinds: dict[str, dict[str, Any]] = {
        "giant run alone, all queued": {"window": 100_000},
        "giant run alone, window": {"window": 0},
        "giant run beside ten photos every 2 s": {"window": 0, "others": True},
    }
    rates: dict[str, list[float]] = {what: [] for what in kinds}
    for _ in range(options.turns):
        for what, how in kinds.items():
            rates[what].append(_rate(home, options, **how))
    figures = {f"{what}, img/s": statistics.median(found) for what, found in rates.items()}
    queued, *others = rates.items()
    for what, found in others:
        shares = [rate / of_queued for rate, of_queued in zip(found, queued[1], strict=True)]
        figures |= {f"{what}, of that with all queued, median": statistics.median(shares)}
        figures |= {f"{what}, of that with all queued, least": min(shares)}
        figures |= {f"{what}, of that with all queued, most": max(shares)}
    return figures


def _rate(home: Path, options: argparse.Namespace, *, window: int, others: bool = False) -> float:
    """Return the images a second of the giant run, from a chunk to another; where others come, those of both count."""
    with _fleet(home, options) as (client, settings):
        run = _detach(settings.model_copy(update={"window_chunks": window}), home, "giant", options.images)
        done, started = _next_chunk(client, run)
        at = 0
        while time.monotonic() - started < options.seconds:
            if others:
                _detach(settings, home, f"beside-{at}", PHOTOS)
            at += 1
            time.sleep(2.0)
        last, ended = _next_chunk(client, run)
        return (last - done + others * at * PHOTOS) / (ended - started)


def _next_chunk(client: redis.Redis, run: str) -> tuple[int, float]:
    """Wait for a chunk; return how many images are labelled then, and when that was."""
    before = _labelled(client, run)
    while (now := _labelled(client, run)) == before:
        time.sleep(0.002)
    return now, time.monotonic()


@contextmanager
def _fleet(home: Path, options: argparse.Namespace) -> Iterator[tuple[redis.Redis, Settings]]:
    with (
        redis_server(home) as server,
        workers(home, server, options.workers, options.chunk_s / 128),
        redis.Redis.from_url(server.url, decode_responses=True) as client,
    ):
        yield client, Settings(home=home, broker=server.url, data_root=Path("/"))


def _detach(settings: Settings, home: Path, name: str, images: int) -> str:
    """Return the name of a new detached run."""
    write_list(home / f"{name}.txt", images)
    reports = request_of(home / f"{name}.csv", None)
    labelling = Labelling(source=str(home / f"{name}.txt"), model=None, reports=reports, detach=True, quiet=True,
                          on_existing="overwrite")  # fmt: skip
    with redirect_stdout(StringIO()) as said:
        label_source(settings, labelling)
    return said.getvalue().strip()


def _labelled(client: redis.Redis, run: str) -> int:
    fields = client.hgetall(KEYS.labelled(run))
    return sum(int(images) for first, images in fields.items() if first != LAST_AT)


if __name__ == "__main__":
    main()
