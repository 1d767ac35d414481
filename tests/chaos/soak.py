"""``python -m tests.chaos.soak``: the chaos suite's storm, longer; prints what it did and what memory did meanwhile."""

from __future__ import annotations

import argparse
import csv
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.chaos.storm import Plan, Storm, write_mixed_images

MINIMUM_KEYS = ("_kombu.binding", "sortline:_kombu.binding", "sortline:jobs", "sortline:job:")  # no rows, no chunks


def main() -> int:
    """Run a calm and a stormy run over the same images; return 0 when their reports agree and hold each image once."""
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
        calm = Storm(
            Plan(images=plan.images, workers=plan.workers), folder / "calm", photos, store, faults, chunk_images=64
        ).run(limit_s)
        stormy = Storm(plan, folder / "stormy", photos, store, f"{faults},before publish=nap", chunk_images=64).run(
            limit_s
        )
        rows = [row[0] for row in csv.reader(io.StringIO(stormy.report.decode()))][1:]
        once = rows == sorted(path.name for path in photos.iterdir())
    same = stormy.report == calm.report
    print(f"rows {len(rows)}, one an image: {once}; the bytes of the calm run: {same}")
    print(f"calm {calm.seconds:.0f} s, stormy {stormy.seconds:.0f} s")
    print(f"done to it: {dict(stormy.done)}")
    print(f"workers ended: {dict(sorted(stormy.worker_codes.items()))}")
    for run, outcome in (("calm", calm), ("stormy", stormy)):
        for kind in ("producer", "worker"):
            slope, largest = outcome.memory.slope(kind), outcome.memory.largest(kind)
            print(f"memory, {run} {kind}: at most {largest / 1e6:.0f} MB, slope {slope * 60 / 1e6:+.2f} MB a minute")
    left = [key for key in stormy.keys if not key.startswith(MINIMUM_KEYS)]
    print(f"keys left beyond bindings and the board: {left or 'none'}")
    return 0 if same and once else 1


if __name__ == "__main__":
    sys.exit(main())
