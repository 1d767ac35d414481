"""``python -m benchmarks.rows``: CPU microseconds a name of each step of a `sortline label`, without a queue.

One process runs the command's own functions one after the other, so that other work on the machine hardly shows. What
is missing is a chunk's way through Redis, some milliseconds for up to 1,024 names.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from pathlib import Path

from kombu.compression import compress as pack

from benchmarks.home import CLASSES, temporary_home
from jobs import ChunkResult, LabelChunk, ModelPin, Row, from_json, to_json
from jobs.transport import COMPRESSION
from producer.reports.csv import write_csv
from producer.reports.layout import Layout
from producer.reports.tally import Tally, counted
from producer.run.enqueue import BelowRoot
from producer.runfile import Plan, RunFile

TOP_K = 5
SIDE_PX = 224


class Clock:
    """CPU time since the last look, a name."""

    def __init__(self, names: int) -> None:
        self._names, self._since = names, time.process_time()
        self.figures: dict[str, float] = {}

    def note(self, step: str) -> None:
        now = time.process_time()
        self.figures[step] = round(1e6 * (now - self._since) / self._names, 2)
        self._since = now


def main() -> None:
    """Measure and print; ``--json`` prints one object instead of lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    gc.disable()  # as a command does
    with temporary_home() as home:
        figures = measure(home, options.images, options.chunk)
    if options.json:
        print(json.dumps(figures))
        return
    for step, taken in figures.items():
        print(f"{step:44} {taken:6.2f}")


def measure(home: Path, count: int, size: int) -> dict[str, float]:
    """Return the microseconds of each step, and those of the command together."""
    plan = Plan(
        run="inbox-1",
        source="inbox",
        base="/data",
        data_root="/",
        walked=False,
        model=ModelPin(name="stub", version=1, digest="0f" * 32),
        labels=[f"class {index}" for index in range(CLASSES)],
        groups=[None] * CLASSES,
        folders=[str(index) for index in range(CLASSES)],
        top_k=TOP_K,
        chunk_images=size,
    )
    names = [f"inbox/2026/{number // 10_000:04d}/photo-{number:07d}.jpg" for number in range(count)]
    row = Row(top=tuple((index, 0.5123456 / 2**index) for index in range(TOP_K)), width=SIDE_PX, height=SIDE_PX)
    clock = Clock(count)
    run = RunFile.create(home / "inbox.run", plan, names)
    clock.note("freeze the names")
    chunks = list(run.missing_chunks(lambda: size))
    clock.note("read them again")
    below = BelowRoot(plan)
    sent = [
        to_json(
            LabelChunk(
                run=plan.run, first=first, paths=tuple(map(below.text, paths)), model=plan.model, top_k=plan.top_k
            )
        )
        for first, paths in chunks
    ]
    clock.note("make messages")
    for text in sent:
        pack(text.encode(), COMPRESSION)
    clock.note("pack them")
    answers = [
        to_json(
            ChunkResult(run=plan.run, first=first, rows=(row,) * len(paths), engine="a/b/c", seconds={"chunk_s": 0.1})
        )
        for first, paths in chunks
    ]
    clock.note("(a worker's: rows as JSON)")
    results = [from_json(ChunkResult, text) for text in answers]
    clock.note("read answers")
    for result in results:
        run.record(result)
    clock.note("journal rows")
    layout = Layout.of(plan)
    write_csv(run, home / "report.csv", layout, counted(run, run.rows(), layout, Tally(images=count)))
    clock.note("read rows, count them, write the CSV")
    run.close()
    whole = sum(taken for step, taken in clock.figures.items() if not step.startswith("("))
    return {**clock.figures, "the command together": round(whole, 2), "names a second at most": round(1e6 / whole)}


if __name__ == "__main__":
    main()
