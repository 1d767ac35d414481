"""``python -m benchmarks.peers [FOLDER]``: `sortline label` beside what a user would write or pick instead.

Each in an environment of its own, on the same folder and cores, in turn with `sortline label` against a running stack:
before and after each of them, so that each ratio is of neighbours in time. A peer's clock starts when its network is
loaded and has run once; ours runs from the start of the command to its end, report included.

``--install`` makes the environments first (about 8 GB below the cache folder). Those that are missing are passed over.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.home import label, link_store, stack, temporary_home, write_photos

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = ("torch", "ray", "mindspore", "mindspore-newest")


@dataclass(frozen=True)
class Peer:
    """One way to do it without Sortline. ``images`` are part of those that Sortline labels: as many as take a while."""

    title: str
    environment: str
    script: str
    part: float
    arguments: tuple[str, ...] = ()
    least: int = 32


PEERS = (
    Peer("torch DataLoader + timm, f32", "torch", "torch_loop.py", 0.32, ("f32",)),
    Peer("torch DataLoader + timm, bf16", "torch", "torch_loop.py", 0.48, ("bf16",)),
    Peer("Ray Data + torch, f32", "ray", "ray_data.py", 0.32),
    Peer("MindSpore in batches of 32", "mindspore", "mindspore_loop.py", 0.16, ("32", "graph")),
    Peer("MindSpore one by one, graph mode", "mindspore", "mindspore_loop.py", 0.1, ("1", "graph"), least=8),
    Peer("MindSpore one by one, its default", "mindspore", "mindspore_loop.py", 0.05, ("1", "pynative"), least=8),
    Peer(
        "MindSpore 2.10 one by one, graph mode", "mindspore-newest", "mindspore_loop.py", 0.02, ("1", "graph"), least=8
    ),
)


def main() -> None:
    """Measure and print a table; ``--json`` prints one object instead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="of JPEG photos; made when not given")
    parser.add_argument("--images", type=int, default=2000, help="photos to make")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peers", nargs="+", choices=ENVIRONMENTS, default=ENVIRONMENTS)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/sortline-peers").expanduser())
    parser.add_argument("--store", type=Path, help="with one classifier in production; MobileNetV2 when not given")
    parser.add_argument("--precision", default="auto", help="of our worker; f32 where no version was judged")
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.install:
        for name in options.peers:
            install(options.cache, name)
    peers = [peer for peer in PEERS if peer.environment in options.peers and python(options.cache, peer).exists()]
    with temporary_home() as home:
        photos = options.folder
        if photos is None:
            photos = home / "photos"
            write_photos(photos, options.images)
        link_store(home, options.store)
        with stack(home, {"SORTLINE_PRECISION": options.precision}):
            label(home, photos)  # the worker loads the model
            figures = compare(home, photos.absolute(), peers, options)
    if options.json:
        print(json.dumps(figures))
        return
    for what, value in figures.items():
        print(f"{what:38} {value}")


def compare(home: Path, photos: Path, peers: list[Peer], options: argparse.Namespace) -> dict[str, Any]:
    """Return each peer's rate, ours beside it, and the ratio."""
    rates: dict[str, list[float]] = {peer.title: [] for peer in peers}
    beside: dict[str, list[float]] = {peer.title: [] for peer in peers}
    ours: list[float] = []
    for _ in range(options.rounds):
        ours.append(whole_command(home, photos))
        for peer in peers:
            before = ours[-1]
            rates[peer.title].append(rate_of(options.cache, peer, photos))
            ours.append(whole_command(home, photos))
            beside[peer.title].append((before + ours[-1]) / 2)
    figures: dict[str, Any] = {"sortline label": f"{statistics.mean(ours):.0f} img/s ({min(ours):.0f}-{max(ours):.0f})"}
    for peer in peers:
        theirs, near = statistics.mean(rates[peer.title]), statistics.mean(beside[peer.title])
        figures[peer.title] = f"{theirs:.1f} img/s; sortline label beside it {near:.0f}, {near / theirs:.1f} times"
    return figures


def whole_command(home: Path, photos: Path) -> float:
    """Return images a second of one `sortline label`, from its start to its end."""
    done = label(home, photos)
    return done.images / done.seconds


def rate_of(cache: Path, peer: Peer, photos: Path) -> float:
    """Return images a second of a peer, as its script says."""
    images = max(peer.least, round(sum(1 for _ in photos.rglob("*.jpg")) * peer.part))
    command = [str(python(cache, peer)), str(HERE / peer.script), str(photos), str(images), *peer.arguments]
    quiet = {**os.environ, "GLOG_v": "3"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet, cwd=cache)
    found = re.search(r"(\d+) images in ([\d.]+) s", done.stdout)
    if done.returncode or found is None:
        raise SystemExit(f"{peer.title}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return int(found[1]) / float(found[2])


def python(cache: Path, peer: Peer) -> Path:
    """Where the interpreter of a peer's environment is."""
    return cache / peer.environment / "bin" / "python"


def install(cache: Path, name: str) -> None:
    """Make an environment from its requirements file."""
    subprocess.run([sys.executable, "-m", "venv", str(cache / name)], check=True)
    pip = [str(cache / name / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(HERE / f"{name}.txt")], check=True)


if __name__ == "__main__":
    main()
