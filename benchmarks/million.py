"""``python -m benchmarks.million``: a million names through real Redis and two real workers that answer at once.

For few names and for many, so that what grows with a run shows:

* names a second of the whole `sortline label`, start and CSV report included
* the producer's resident memory when half was labelled, and its largest
* the size of the run file
* `sortline report` alone, as CSV and as Parquet

Then the same command on another list is killed (SIGKILL) once half is labelled, and given again: seconds until the next
chunk is journalled, start of the command included, and until its report is there.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from benchmarks.home import (
    SORTLINE,
    environment,
    label,
    publish_stub,
    redis_server,
    temporary_home,
    wait_for,
    write_list,
)
from benchmarks.scaling import chunks_of, workers

MB = 1e6
LIMIT_S = 600


def main() -> None:
    """Measure and print; ``--json`` prints one object instead of lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="*", default=[10_000, 1_000_000], help="names in the list")
    parser.add_argument("--chunk", type=int, default=128, help="images in one message")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    for count in options.images:
        figures.update({f"{what}, {count} names": value for what, value in measure(count, options.chunk).items()})
    if options.json:
        print(json.dumps(figures))
        return
    for what, value in figures.items():
        print(f"{what:56} {value}")


def measure(count: int, chunk: int) -> dict[str, float]:
    """Return the figures for a list of ``count`` names."""
    with temporary_home() as home, redis_server(home) as server, workers(home, server, 2, 0):
        publish_stub(home)
        env = chunks_of(server, chunk)
        write_list(home / "inbox.txt", count)
        done = label(home, home / "inbox.txt", env)
        run_file = only_run(home)
        figures = {
            "names a second": round(done.images / done.seconds),
            "largest producer, MB": round(done.peak_bytes / MB, 1),
            "run file, MB": round(run_file.stat().st_size / MB, 1),
            "report as csv, s": report_s(home, env, run_file, "csv"),
            "report as parquet, s": report_s(home, env, run_file, "parquet"),
        }
        run_file.unlink()
        figures.update(resume(home, env, count))
    return figures


def resume(home: Path, env: Mapping[str, str], count: int) -> dict[str, float]:
    """Kill a command when half of its names are labelled, give it again, and return how long that takes."""
    write_list(home / "again.txt", count)
    command = [SORTLINE, "label", str(home / "again.txt"), "-o", str(home / "again.csv")]
    producer = psutil.Popen(command, env=environment(home, env), stderr=subprocess.DEVNULL)
    wait_for(lambda: labelled(home) >= count / 2, "half of the rows", LIMIT_S)
    half_bytes = producer.memory_info().rss
    producer.kill()
    producer.wait()
    before = chunks(home)

    started = time.perf_counter()
    again = psutil.Popen(command, env=environment(home, env), stderr=subprocess.DEVNULL)
    wait_for(lambda: chunks(home) > before, "a chunk after the kill", LIMIT_S)
    first_s = time.perf_counter() - started
    code = again.wait(LIMIT_S)
    if code or len((home / "again.csv").read_bytes().splitlines()) != count + 1:
        raise SystemExit(f"the resumed command ended with {code} and its report has not {count} rows")
    return {
        "producer half way, MB": round(half_bytes / MB, 1),
        "killed half way: to the next chunk, s": round(first_s, 2),
        "killed half way: to the report, s": round(time.perf_counter() - started, 2),
    }


def report_s(home: Path, env: Mapping[str, str], run_file: Path, form: str) -> float:
    """Return the seconds of `sortline report`."""
    started = time.perf_counter()
    subprocess.run(
        [SORTLINE, "report", str(run_file), "--format", form, "-o", str(home / f"anew.{form}")],
        env=environment(home, env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return round(time.perf_counter() - started, 2)


def only_run(home: Path) -> Path:
    """Return the one run file of a home."""
    (found,) = (home / "runs").glob("*.run")
    return found


def labelled(home: Path) -> int:
    """Return about how many rows the run has: chunks come back nearly in order."""
    return asked(home, "SELECT COALESCE(MAX(idx) + 1, 0) FROM rows")


def chunks(home: Path) -> int:
    """Return how many chunks are journalled."""
    return asked(home, "SELECT COUNT(*) FROM chunks")


def asked(home: Path, question: str) -> int:
    """Return a number out of the run file, 0 as long as there is none."""
    for path in (home / "runs").glob("*.run"):
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            return int(database.execute(question).fetchone()[0])
        finally:
            database.close()
    return 0


if __name__ == "__main__":
    main()
