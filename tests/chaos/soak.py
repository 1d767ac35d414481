"""``python -m tests.chaos.soak``: the chaos suite's storm, longer; prints what it did and what memory did meanwhile.

Three runs over the same images: calm, stormy, and one in which a single worker lives from the first image to the last.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.chaos.storm import FORMATS, Outcome, Plan, Storm, write_mixed_images

MINIMUM_KEYS = (
    "_kombu.binding",
    "sortline:_kombu.binding",
    "sortline:jobs",
    "sortline:job:",
    "sortline:newest",
)  # no rows, no chunks
CHUNK_IMAGES = 64


def main() -> int:
    """Run all three; return 0 when the reports of calm and storm agree, hold each image once, and left no work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--worker-kills", type=int, default=500)
    parser.add_argument("--redis-kills", type=int, default=25, help="with its data on disk")
    parser.add_argument("--redis-losses", type=int, default=25, help="kills that lose everything")
    parser.add_argument("--flushes", type=int, default=10)
    parser.add_argument("--producer-kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-s", type=float, default=3600)
    options = vars(parser.parse_args())
    limit_s = options.pop("limit_s")
    os.environ["PYTEST_CURRENT_TEST"] = "soak"  # else no process would look at its faults
    plan = Plan(**options)
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        store, photos = folder / "store", folder / "photos"
        subprocess.run([sys.executable, "-m", "tests.seeded_model", str(store)], check=True)
        faults = write_mixed_images(photos, plan.images, poison=True)

        def run(name: str, plan: Plan, faults: str) -> Outcome:
            outcome = Storm(plan, folder / name, photos, store, faults, chunk_images=CHUNK_IMAGES).run(limit_s)
            tell(name, plan, outcome)
            return outcome

        calm = run("calm", Plan(images=plan.images, workers=plan.workers), faults)
        stormy = run("stormy", plan, f"{faults},before publish=nap")
        run("one worker", Plan(images=plan.images, workers=1), "")
        rows = [row[0] for row in csv.reader(io.StringIO(stormy.reports["csv"].decode()))][1:]
        once = rows == sorted(path.name for path in photos.iterdir())
    same = {name: stormy.reports[name] == calm.reports[name] for name in FORMATS}
    left = [key for key in (*calm.keys, *stormy.keys) if not key.startswith(MINIMUM_KEYS)]
    print(f"rows {len(rows)}, one an image: {once}; the bytes of the calm run: {same}")
    print(f"keys left beyond bindings and the board: {left or 'none'}")
    betrayed = [*calm.betrayed, *stormy.betrayed]
    print(f"files and command lines that hold the password of Redis: {betrayed or 'none'}")
    return 0 if all(same.values()) and once and not left and not betrayed else 1


def tell(name: str, plan: Plan, outcome: Outcome) -> None:
    """Print what became of one run."""
    print(f"{name}: {outcome.seconds:.0f} s, done to it {dict(outcome.done)}")
    print(f"  workers ended {dict(sorted(outcome.worker_codes.items()))}")
    for kind in ("producer", "worker"):
        slope, (size, files) = outcome.memory.slope(kind), outcome.memory.largest(kind)
        a_chunk = slope * outcome.seconds / (plan.images / CHUNK_IMAGES / plan.workers)
        print(
            f"  {kind}: at most {size / 1e6:.0f} MB and {files} open files; the one that lived longest grew by "
            f"{slope * 60 / 1e6:+.2f} MB a minute" + (f", {a_chunk:+.0f} bytes a chunk" if kind == "worker" else ""),
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
