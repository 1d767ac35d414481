"""``python -m benchmarks.training digits|waste``: the bars of training, measured on whole `sortline train` commands.

* digits: LeNet-5 from scratch with three seeds; accuracy on the 360 held-out digits, seconds of the whole command.
* waste PHOTOS WEIGHTS: a head on MobileNetV2's frozen features, eight augmented views beside the plain one, 40 epochs,
  from an empty cache. Printed with it, from the same run: how close reading the features comes to what the engine does
  with pixels in memory, the memory of the training process with few and with many views, and what the same recipe takes
  in MindSpore alone, in batches and one image at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import mindspore
import numpy as np
import psutil

from base.process import available_cpus
from benchmarks.home import SORTLINE, environment, peak_memory
from benchmarks.mindspore_alone import BATCH, batched_rate, single_rate, step_seconds
from examples.digits_demo import write_digits
from model_store.store import ModelStore
from vision.networks.network import build_network
from vision.networks.registry import spec_from_json
from vision.networks.weights import backbone_only, read_safetensors, set_weights
from vision.serving.engines import ModelFiles, open_engine
from vision.serving.export import export_onnx, graph_spec_of
from vision.training.parts import build_frozen, frozen_spec

ENGINE_S = 6.0  # of each look at the engine alone; one before and one after the job, as neighbours come and go
# The course project's recipe: a linear head on pooled features, everything else by default.
WASTE = """
[training]
backbone = "mobilenetv2-imagenet"
{extra}
[training.augmentation]
repeat = {repeat}
crop_area = 0.35
crop_ratio = 1.33
flip = true
brightness = 0.2
contrast = 0.2
saturation = 0.2
"""


def main() -> None:
    """Measure and print; ``--json`` prints one object instead of lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    kinds = parser.add_subparsers(dest="kind", required=True)
    digits = kinds.add_parser("digits")
    digits.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    digits.add_argument("--epochs", type=int, help="instead of the recipe's")
    waste = kinds.add_parser("waste")
    waste.add_argument("photos", type=Path)
    waste.add_argument("weights", type=Path)
    waste.add_argument("--repeat", type=int, default=8)
    waste.add_argument("--epochs", type=int, default=40)
    waste.add_argument("--alone-batches", type=int, default=8, help="of 32 views, timed in MindSpore alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sl-") as name:
        if options.kind == "digits":
            figures = measure_digits(Path(name), options.seeds, options.epochs)
        else:
            figures = measure_waste(Path(name), options)
    if options.json:
        print(json.dumps(figures))
        return
    for what, value in figures.items():
        print(f"{what:58} {value}")


def measure_digits(folder: Path, seeds: list[int], epochs: int | None) -> dict[str, Any]:
    """Train and label once for each seed, each in a home of its own; return accuracies and seconds."""
    with contextlib.redirect_stdout(sys.stderr):
        write_digits(folder / "digits")
    figures: dict[str, Any] = {}
    accuracies, seconds = [], []
    shorter = ["--set", f"epochs={epochs}"] if epochs else []
    for seed in seeds:
        home = folder / str(seed)
        recipe = ["--config", "digits", "--set", f"seed={seed}", *shorter]
        job = train(home, folder / "digits" / "train", "digits", recipe)
        sortline(home, "label", str(folder / "digits" / "held-out"), "-o", str(home / "report.csv"), "-q")
        with (home / "report.csv").open(encoding="utf-8", newline="") as file:
            right = [Path(row["path"]).parent.name == row["label"] for row in csv.DictReader(file)]
        accuracies.append(sum(right) / len(right))
        seconds.append(job.seconds)
        figures[f"seed {seed}"] = f"{sum(right)} of {len(right)} held-out digits, {job.seconds:.1f} s, {job.phases}"
    figures["median accuracy"] = round(statistics.median(accuracies), 4)
    figures["median seconds of the command, private stack included"] = round(statistics.median(seconds), 1)
    return figures


def measure_waste(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run the job with few and with all augmented views, and the same recipe in MindSpore alone."""
    home = folder / "home"
    home.mkdir()
    sortline(home, "models", "import", str(options.weights), "--name", "mobilenetv2-imagenet")
    few = train_waste(home, options.photos, 1, options.epochs)
    shutil.rmtree(home / "features")  # an empty cache again
    network = backbone(home)
    engine_before = engine_rate(network)
    job = train_waste(home, options.photos, options.repeat, options.epochs)
    engine_best = max(engine_before, engine_rate(network))
    counts = job.manifest.training["images"]
    views = counts["training"] * (options.repeat + 1) + counts["validation"]
    batched, single = batched_rate(network, options.photos, options.alone_batches), single_rate(network, options.photos)
    step_s = step_seconds(network.spec.features, len(job.manifest.classes))
    steps = -(-counts["training"] * (options.repeat + 1) // BATCH) * options.epochs
    # All but features and training, the same for both: start, reading, publication.
    rest = job.seconds - job.phases["features"] - job.phases["train"] + steps * step_s
    return {
        "views of images": views,
        "whole command, private stack included, s": round(job.seconds, 1),
        "seconds by phase": job.phases,
        "its CPU time, s": round(job.cpu_s, 1),
        "the same spread evenly over all cores, the least it could take, s": round(job.cpu_s / available_cpus(), 1),
        "validation top-1 of the plain linear head": round(job.manifest.scores["val_top1"], 4),
        "features (decode, augment, infer), views/s": job.reading_rate,
        "engine alone from memory, best, images/s": round(engine_best, 1),
        "features / engine alone": round(job.reading_rate / engine_best, 3),
        "peak memory of the training process, MB": round(job.peak_bytes / 1e6),
        f"the same with {counts['training'] * 2 + counts['validation']} views, MB": round(few.peak_bytes / 1e6),
        "MindSpore alone, Model.train, ms a step (ours with evaluation)": (
            f"{step_s * 1000:.2f} ({job.phases['train'] / steps * 1000:.2f})"
        ),
        "MindSpore alone in batches of 32, views/s": round(batched, 2),
        "MindSpore alone, one image at a time, views/s": round(single, 2),
        "job in MindSpore alone, batches (extrapolated), s": round(rest + views / batched),
        "job in MindSpore alone, one at a time (extrapolated), s": round(rest + views / single),
        "ours against MindSpore alone in batches": round((rest + views / batched) / job.seconds, 2),
        "ours against MindSpore alone, one at a time": round((rest + views / single) / job.seconds, 2),
    }


@dataclass(frozen=True)
class Job:
    """A finished command.

    Attributes:
        seconds: wall time.
        phases: the worker's seconds by phase; "features" holds export, the search for near-duplicates, and reading.
        reading_rate: images or views a second while features were read, as the command showed it.
        peak_bytes: the most that a process of the worker had resident.
        cpu_s: of the command, Redis and the worker.
    """

    seconds: float
    phases: dict[str, Any]
    reading_rate: float
    peak_bytes: int
    cpu_s: float
    manifest: Any


def train_waste(home: Path, photos: Path, repeat: int, epochs: int) -> Job:
    """Run the recipe from whatever the cache holds."""
    recipe = home / f"waste-{repeat}.toml"
    recipe.write_text(WASTE.format(repeat=repeat, extra=f"epochs = {epochs}"))
    return train(home, photos, f"waste-{repeat}", ["--config", str(recipe)])


def train(home: Path, dataset: Path, name: str, recipe: list[str]) -> Job:
    """Run `sortline train` with a private stack; return what it took."""
    home.mkdir(exist_ok=True)
    started, cpu_before_s = time.perf_counter(), children_cpu_s()
    with begun(home, "train", str(dataset), "--name", name, *recipe) as command, peak_memory(command, max) as peak:
        printed = output_of(command)
    seconds = time.perf_counter() - started
    manifest = ModelStore(home / "store").resolve(name).manifest
    rates = re.findall(r"reading images \d+/\d+, (\d+) img/s", printed)
    phases = cast("dict[str, Any]", manifest.training["seconds"])
    rate = float(rates[-1]) if rates else 0.0
    return Job(seconds, phases, rate, peak[0], children_cpu_s() - cpu_before_s, manifest)


def children_cpu_s() -> float:
    """Return the CPU seconds of this process' children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def sortline(home: Path, *arguments: str) -> None:
    """Run a command in a home of its own, to its end."""
    with begun(home, *arguments) as command:
        output_of(command)


def begun(home: Path, *arguments: str) -> psutil.Popen:
    """Start a command in a home of its own."""
    return psutil.Popen(
        [SORTLINE, *arguments],
        env=environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(command: psutil.Popen) -> str:
    """Return what a command printed until its end; end the benchmark when it failed."""
    printed = str(command.communicate()[1])
    if command.returncode:
        raise SystemExit(f"{command.args}: exit {command.returncode}\n{printed}")
    return printed


def backbone(home: Path) -> Any:
    """Return the imported network."""
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    store = ModelStore(home / "store")
    version = store.resolve("mobilenetv2-imagenet")
    network = build_network(replace(spec_from_json(version.manifest.network), classes=2))
    arrays, _ = read_safetensors(store.open_file(version.name, version.version, "weights.safetensors"))
    set_weights(network, backbone_only(arrays, network.spec), allow_missing_head=True)
    return network


def engine_rate(network: Any) -> float:
    """Return images a second of the frozen part on the engine that extracts, with pixels in memory."""
    spec = frozen_spec(network.spec, "backbone")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        export_onnx(build_frozen(network, "backbone"), path)
        engine = open_engine(ModelFiles(onnx=path.read_bytes(), graph=graph_spec_of(spec)))
    pixels = np.random.default_rng(0).integers(0, 256, (256, spec.height_px, spec.width_px, 3), dtype=np.uint8)
    engine.predict(pixels)
    seen, started = 0, time.perf_counter()
    while time.perf_counter() - started < ENGINE_S:
        engine.predict(pixels)
        seen += len(pixels)
    rate = seen / (time.perf_counter() - started)
    engine.close()
    return rate


if __name__ == "__main__":
    main()
