"""Every benchmark still runs and prints its figures. With tiny sizes, so what the figures say means nothing here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.outliers import listed, plant
from tests.conftest import SHARED, environment, seeded_models, sortline, write_images

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]


def run(home: Path, module: str, *arguments: str) -> str:
    """Run a benchmark; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def figures(home: Path, module: str, *arguments: str) -> dict[str, Any]:
    """Run a benchmark; return its figures by name."""
    found: dict[str, Any] = json.loads(run(home, module, "--json", *arguments))
    return found


def numbers(text: object) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", str(text))]


def test_scaling_prints_a_rate_for_each_number_of_workers_and_each_chunk_size(home: Path) -> None:
    found = figures(
        home, "scaling", "--workers", "1", "2", "--rate", "2000", "--seconds", "0.5", "--chunk-images", "32",
        "--chunk-sizes", "64", "--images", "640",
    )  # fmt: skip

    assert list(found) == [
        "1 workers of 2000 img/s",
        "2 workers of 2000 img/s",
        "chunks of 64, workers that answer at once",
    ]
    assert all(numbers(value)[0] > 0 for value in found.values())
    assert "1.00 times one" in found["1 workers of 2000 img/s"]


def test_memory_prints_what_producer_redis_and_worker_hold(home: Path, model_store: Path) -> None:
    found = figures(home, "memory", "--images", "640", "--photos", "40", "--store", str(model_store))

    held = {name: value for name, value in found.items() if name.endswith("MB")}
    assert list(held) == ["producer at 640 images, MB", "Redis at 640 images, MB", "label worker at 40 photos, MB"]
    assert all(1 < value < 2000 for value in held.values())


def test_million_prints_rates_sizes_and_what_a_kill_half_way_costs(home: Path) -> None:
    found = figures(home, "million", "--images", "1000", "--chunk", "16")

    assert list(found)[-1] == "killed half way: to the report, s, 1000 names"
    assert len(found) == 8
    assert all(value > 0 for value in found.values())


def test_start_prints_three_medians(home: Path, model_store: Path) -> None:
    found = figures(home, "start", "--times", "1", "--store", str(model_store))

    assert list(found) == [
        "sortline --help, s",
        "10 photos, nothing running, s",
        "10 photos, running stack, s",
    ]
    assert all(value > 0 for value in found.values())


def test_gpu_prints_parity_ceiling_and_distance_also_without_a_gpu(
    home: Path, tmp_path: Path, model_store: Path
) -> None:
    from benchmarks.home import write_photos

    write_photos(tmp_path / "photos", 40)

    said = run(home, "gpu", "colours", str(tmp_path / "photos"), "--store", str(model_store), "--device", "cpu",
               "--measured-s", "0.2", "--images", "60", "--processes", "0", "2")  # fmt: skip

    assert re.search(r"decode, +\d+ cores +\d+ img/s", said)
    assert re.search(r"onnxruntime on cpu, f32, .* +\d+ img/s, golden difference \S+, 100.0% equal labels", said)
    for processes in (r"auto processes \(1: 'no GPU .*'\)", "2 processes"):
        assert re.search(
            rf"sortline label, f32, {processes}: whole command \d+ img/s, [\d.]+% of the ceiling \d+", said
        )


def test_the_gpu_script_says_how_it_is_used() -> None:
    done = subprocess.run([str(ROOT / "benchmarks/gpu.sh")], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "gpu.sh STORE MODEL FOLDER" in done.stderr


def test_peers_prints_their_rates_and_ours_beside_them(home: Path, model_store: Path) -> None:
    # This project's own environment can stand for the MindSpore peer's; the others are gigabytes.
    (home / "peers").mkdir()
    (home / "peers" / "mindspore").symlink_to(sys.prefix)

    found = figures(
        home, "peers", "--images", "64", "--rounds", "1", "--peers", "mindspore", "--cache", str(home / "peers"),
        "--store", str(model_store),
    )  # fmt: skip

    assert list(found)[:2] == ["sortline label", "MindSpore in batches of 32"]
    assert len(found) == 4
    assert all(numbers(value)[0] > 0 for value in found.values())


def test_limit_prints_what_the_cores_can_do_and_what_the_command_did(home: Path, model_store: Path) -> None:
    (home / "store").symlink_to(model_store)
    write_images(home / "photos", 2)

    found = figures(home, "limit", "colours", str(home / "photos"), "--images", "30", "--measured-s", "0.1", "--camera")

    rates = ["decode", "infer", "limit", "sortline", "sortline / limit", "idle / cores"]
    assert list(found) == [*rates, "full decode", "decode / full"]
    assert 0 < found["limit"] < min(found["decode"], found["infer"])


def test_precisions_prints_what_an_image_costs_in_each(home: Path, model_store: Path) -> None:
    (home / "store").symlink_to(model_store)

    found = figures(home, "precisions", "colours", "--turns", "1")

    assert list(found)[-1] == "f32"
    assert found["f32"]["times as fast as f32"] == 1
    assert all(figure["CPU ms an image"] > 0 for figure in found.values())


def test_decoders_prints_what_each_takes_for_a_photo(home: Path) -> None:
    path = home / "photo.jpg"
    Image.effect_noise((640, 480), 50).save(path)

    found = figures(home, "decoders", str(path), "--times", "1")

    assert list(found)[:4] == [f"simplejpeg, 1/{step}" for step in (1, 2, 4, 8)]
    assert len(found) == 8
    assert all(value >= 0 for value in found.values())


def test_cascade_prints_rates_with_and_without_the_first_stage_and_of_a_peer(home: Path, model_store: Path) -> None:
    (home / "photos").mkdir()
    for number in range(3):
        Image.effect_noise((40, 40), 50).convert("RGB").save(home / "photos" / f"{number}.jpg")

    found = figures(
        home, "cascade", str(model_store), "colours:1", str(home / "photos"), "--images", "40", "--rounds", "1"
    )

    assert all(found[name] > 0 for name in found if "img/s" in name or "/ " in name)
    assert found["answered early"] == 0  # that version has no first stage
    assert found["same label"] == 1


def test_rows_prints_what_each_step_of_a_command_takes(home: Path) -> None:
    found = figures(home, "rows", "--images", "600", "--chunk", "64")

    assert len(found) == 10
    assert all(value >= 0 for value in found.values())


def test_copies_prints_a_ratio_with_and_without_copies(home: Path, model_store: Path) -> None:
    found = figures(home, "copies", "--photos", "20", "--rounds", "1", "--store", str(model_store))

    assert list(found) == ["half copies", "no copies"]
    assert all(numbers(value)[0] > 0 for value in found.values())


def test_remote_prints_a_rate_for_the_folder_and_for_each_number_of_connections(home: Path, model_store: Path) -> None:
    found = figures(
        home, "remote", "--photos", "20", "--rounds", "1", "--wait-ms", "5", "--store", str(model_store)
    )  # fmt: skip

    assert list(found) == ["folder", "2 connections", "8 connections", "32 connections", "64 connections"]
    assert all(numbers(value)[0] > 0 for value in found.values())


def test_training_prints_the_accuracy_of_a_seed(home: Path) -> None:
    found = figures(home, "training", "digits", "--seeds", "0", "--epochs", "1")

    assert "of 360 held-out digits" in found["seed 0"]
    assert 0 <= found["median accuracy"] <= 1


def test_fairness_prints_waits_and_rates(home: Path) -> None:
    found = figures(
        home, "fairness", "--workers", "1", "--chunk-s", "0.1", "--images", "5000", "--others", "2",
        "--other-images", "300", "--times", "2", "--seconds", "1",
    )  # fmt: skip

    assert len(found) == 13
    assert all(value > 0 for value in found.values())
    assert found["ten photos, longest, s"] < 5


def test_eight_bits_prints_what_an_image_costs_and_the_accuracy_by_features(home: Path) -> None:
    for folder in sorted((SHARED / "data" / "waste" / "val").iterdir())[:3]:
        shutil.copytree(folder, home / "photos" / folder.name)
    weights = SHARED / "models" / "mobilenetv2_100_imagenet.safetensors"
    sortline("models", "import", str(weights), "--name", "mobilenetv2-imagenet", home=home)

    printed = run(home, "eight_bits", str(home), str(home / "photos"), "--ends")

    assert re.search(r"^f32 +\d+\.\d\d CPU ms, trained on f32 +\d+\.\d\d%$", printed, re.MULTILINE)


def test_active_prints_the_accuracy_of_each_order_after_each_round(home: Path) -> None:
    for label in ("dark", "light"):
        (home / "photos" / label).mkdir(parents=True)
        for number in range(24):
            shade = number + (200 if label == "light" else 0)
            noise = np.random.default_rng(shade).integers(0, 30, (32, 32, 3), np.uint8) + shade
            Image.fromarray(noise.astype(np.uint8)).save(home / "photos" / label / f"{number}.png")
    found = figures(
        home, "active", str(home / "photos"), str(home / "cache"), "--runs", "2", "--rounds", "2", "--corrections", "3",
        "--plot", str(home / "plot.png"),
    )  # fmt: skip

    assert list(found) == ["random", "uncertain", "entropy", "diverse", "diverse, on features"]
    assert all(len(rates) == 3 and all(0 <= rate <= 1 for rate in rates) for rates in found.values())
    with Image.open(home / "plot.png") as plot:
        assert plot.width > 500


def test_unknown_prints_what_is_accepted_and_what_is_unknown_of_a_version_that_is_there(home: Path) -> None:
    seeded_models(home / "store", "kitchen-0")  # as the training of the first fold would leave it
    for label in ("dark", "light"):
        write_images(home / "photos" / label, 6)
    write_images(home / "foreign" / "noise", 4)

    said = run(
        home, "unknown", str(home / "photos"), str(home / "foreign"), "--samples", sysconfig.get_path("purelib"),
        "--home", str(home), "--config", "kitchen", "--folds", "2", "--only", "1",
    )  # fmt: skip

    assert re.search(r"target 95%: 100.0% of \d+ accepted, 0.0% of them right \(0.0% to [\d.]+%\)", said)
    assert re.search(r"unknown of the photos held out: 0.0% of \d+", said)
    assert "unknown of digits: 0.0% of 200 answers" in said
    assert "unknown of noise: 0.0% of 4 answers" in said


def test_outliers_finds_what_it_has_planted_in_the_order_of_the_table(tmp_path: Path) -> None:
    for folder, count in (("photos/a", 4), ("photos/b", 4), ("foreign/digits", 2), ("foreign/faces", 9)):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(count):
            Image.effect_noise((8, 8), 50).save(tmp_path / folder / f"{number}.png")
    planted = tmp_path / "planted"

    plant(tmp_path / "photos", tmp_path / "foreign", 6, 0, planted)

    names = sorted(path.relative_to(planted) for path in planted.rglob("*.png"))
    assert len(names) == 14
    assert Counter(name.name.split("-")[1] for name in names if "planted" in name.name) == {"digits": 2, "faces": 4}
    table = tmp_path / "audit.csv"
    table.write_text(
        "path,outlier\n/x/a/train-1.png,0.2\n/x/b/planted-faces-7.png,0.9\n/x/a/planted-digits-1.png,0.5\n"
    )
    assert listed(table) == ["faces", "digits", ""]
