"""``python -m benchmarks.remote``: what fetching ahead brings where images are behind a web server that takes its time.

Chunks of photos through a worker's own classifier: from a folder, and from a server in a process of its own that waits
before each answer. Two connections are what two decoding threads would have without fetching ahead. The rows
take turns; each is the median of its rounds, beside its ratio to the folder.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.home import link_store, temporary_home, write_photos
from configs.settings import Settings
from jobs.label import LabelChunk
from jobs.messages import ModelPin
from model_store.store import ModelStore
from storage import Folder, open_folder
from vision.serving.classifier import Classifier
from worker.label.chunk import label_chunk
from worker.runtime import Runtime

CONNECTIONS = (2, 8, 32, 64)


def main() -> None:
    """Measure and print; ``--json`` prints one object instead of lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=512, help="of a chunk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wait-ms", type=float, default=50.0, help="before each answer of the server")
    parser.add_argument("--store", type=Path, help="with one classifier in production; MobileNetV2 when not given")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve, options.wait_ms / 1000)
        return
    with temporary_home() as home:
        link_store(home, options.store)
        write_photos(home / "photos", options.photos)
        with server(home / "photos", options.wait_ms) as url:
            figures = measure(home, url, options.photos, options.rounds)
    if options.json:
        print(json.dumps(figures))
        return
    for what, value in figures.items():
        print(f"{what:16} {value}")


def measure(home: Path, url: str, photos: int, rounds: int) -> dict[str, str]:
    """Return images a second of each way."""
    runtime = Runtime(Settings(home=home))
    (name,) = ModelStore(home / "store").names()
    version = ModelStore(home / "store").resolve(name)
    pin = ModelPin(name=name, version=version.version, digest=version.manifest.digest)
    classifier = runtime.classifier(pin)
    paths = tuple(path.name for path in sorted((home / "photos").iterdir()))
    chunk = LabelChunk(run="benchmark", first=0, paths=paths, model=pin, top_k=1)
    ways: dict[str, Path | Folder] = {"folder": home / "photos"}
    ways |= {f"{count} connections": open_folder(url, count) for count in CONNECTIONS}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, root in ways.items():
            rates[name].append(photos / seconds_of(chunk, classifier, root))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {name: f"{rate:.0f} img/s, {rate / medians['folder']:.2f} of the folder" for name, rate in medians.items()}


def seconds_of(chunk: LabelChunk, classifier: Classifier, root: Path | Folder) -> float:
    """Return how long a worker takes for ``chunk``."""
    started = time.perf_counter()
    result = label_chunk(chunk, classifier, root)
    seconds = time.perf_counter() - started
    if failed := [row for row in result.rows if row.error]:
        raise SystemExit(f"{len(failed)} images failed, the first with {failed[0].error}: {failed[0].detail}")
    return seconds


@contextmanager
def server(folder: Path, wait_ms: float) -> Iterator[str]:
    """The URL of ``folder`` behind a server that waits before each answer."""
    command = [sys.executable, "-m", "benchmarks.remote", "--serve", str(folder), "--wait-ms", str(wait_ms)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None  # noqa: S101 - asked for above
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def serve(folder: Path, wait_s: float) -> None:
    """Be the server; say first where it is."""

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # header and body are two writes: 40 ms more, of a kind that no real server has

        def do_GET(self) -> None:
            time.sleep(wait_s)  # the network that this stands for
            super().do_GET()

        def log_message(self, *arguments: object) -> None:
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    print(f"http://127.0.0.1:{web.server_port}", flush=True)
    web.serve_forever()


if __name__ == "__main__":
    main()
