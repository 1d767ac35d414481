"""``python -m tests.chaos.hoarding``: how many chunks a worker holds beside the one at hand, while others break.

Workers are real but for the network, which sleeps. A run of ``--chunks`` chunks is labelled to its end.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis

from benchmarks.home import SORTLINE, environment, publish_stub, redis_server, write_list
from configs.settings import load_settings
from jobs.app import make_app

CHUNK_IMAGES = 4


@dataclass
class Outcome:
    """``beside``: how often a worker at work was seen with so many more chunks."""

    code: int = 0
    rows: int = 0
    kills: int = 0
    breaks: int = 0
    beside: Counter[int] = field(default_factory=Counter)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--chunk-s", type=float, default=0.02)
    parser.add_argument("--every-s", type=float, default=3.0, help="a worker is killed, or all connections break")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sl-", ignore_cleanup_errors=True) as name:
        found = run(Path(name), **vars(options))
    print(found)
    return int(max(found.beside, default=0) > 1 or found.rows != options.chunks * CHUNK_IMAGES)


def run(home: Path, *, chunks: int, workers: int, chunk_s: float, every_s: float, seed: int = 0) -> Outcome:
    """Label to the end; return what was seen."""
    chance, outcome = random.Random(seed), Outcome()  # noqa: S311 - a plan, no secret
    publish_stub(home)
    write_list(home / "inbox.txt", chunks * CHUNK_IMAGES)
    with redis_server(home) as server, (home / "workers.log").open("ab") as log:
        more = {"SORTLINE_BROKER": server.url, "SORTLINE_DATA_ROOT": "/", "SORTLINE_CHUNK_IMAGES": str(CHUNK_IMAGES)}
        env = environment(home, more | {"SLEEP_S_AN_IMAGE": str(chunk_s / CHUNK_IMAGES)})

        def start(number: int) -> psutil.Popen:
            command = [sys.executable, "-m", "benchmarks.sleeping_worker", "--name", f"worker-{number}"]
            return psutil.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)

        fleet = [start(number) for number in range(workers)]
        command = [SORTLINE, "label", str(home / "inbox.txt"), "-o", str(home / "report.csv"), "-q"]
        labelling = subprocess.Popen(command, env=env)
        app: Any = make_app(load_settings(environment={"SORTLINE_BROKER": server.url}))
        try:
            with server.client() as client:
                disturbed = time.monotonic()
                while labelling.poll() is None:
                    outcome.beside.update(_beside(app))
                    if not outcome.beside:  # a command that is still starting ends with code 69, as it should
                        disturbed = time.monotonic()
                    if time.monotonic() - disturbed > every_s:
                        disturbed = time.monotonic()
                        seen_both = outcome.kills and outcome.breaks
                        if chance.random() < 0.5 if seen_both else not outcome.kills:
                            number = chance.randrange(workers)
                            fleet[number].send_signal(signal.SIGKILL)
                            fleet[number].wait()
                            fleet[number], outcome.kills = start(number), outcome.kills + 1
                        else:
                            _break_connections(client)
                            outcome.breaks += 1
            outcome.code = labelling.wait()
        finally:
            for process in (*fleet, labelling):
                with suppress(psutil.Error, ProcessLookupError):
                    process.kill()
                process.wait()
    if (home / "report.csv").exists():
        with (home / "report.csv").open("rb") as report:
            outcome.rows = sum(1 for _ in report) - 1
    return outcome


def _beside(app: Any) -> list[int]:
    """Return how many chunks each worker at work holds beside. One that begins and ends between two looks counts."""
    try:
        inspect = app.control.inspect(timeout=0.5)
        waiting, active = inspect.reserved() or {}, inspect.active() or {}
    except (redis.RedisError, OSError, ValueError, LookupError):  # broken just now
        return []
    ids = {name: {each["id"] for each in found} for name, found in active.items() if found}
    return [len({each["id"] for each in waiting.get(name, [])} - at_hand) for name, at_hand in ids.items()]


def _break_connections(client: redis.Redis) -> None:
    own = client.client_id()
    for each in client.client_list():
        with suppress(redis.ResponseError):  # gone by itself
            if each["id"] != str(own):
                client.client_kill_filter(_id=each["id"])


if __name__ == "__main__":
    os.chdir("/")
    sys.exit(main())
