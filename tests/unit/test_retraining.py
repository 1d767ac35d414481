"""A model trained again with more photos: what is held out, and what the versions are compared on."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import mindspore
import numpy as np
import pytest

from configs.recipe import Recipe
from configs.settings import Settings
from jobs.train import TrainModel
from vision.training.dataset import file_digests
from worker.runtime import Runtime
from worker.train.job import Trained, train_model
from worker.train.seen import SPLIT, read_seen, short

mindspore.set_context(mode=mindspore.GRAPH_MODE)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RECIPE = Recipe(
    network="lenet5",
    height_px=16,
    width_px=16,
    fit="stretch",
    epochs=12,
    batch_size=8,
    optimizer="adam",
    lr_max=0.005,
    validation_fraction=0.25,
)


def add_photos(root: Path, numbers: range) -> None:
    """Write bright and dark noise, each twice, one a little brighter: a family."""
    for label, least in (("bright", 160), ("dark", 0)):
        (root / "photos" / label).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            random = np.random.default_rng([number, least])
            coarse = random.integers(least, least + 90, (4, 4, 3), dtype=np.uint8)
            pixels = cv2.resize(coarse, (16, 16), interpolation=cv2.INTER_NEAREST)
            for member in "ab":
                cv2.imwrite(str(root / "photos" / label / f"{number}{member}.png"), pixels + (member == "b"))


def train(root: Path, **changes: Any) -> Trained:
    runtime = Runtime(Settings(home=root / "home", data_root=root, device="cpu"))
    recipe = RECIPE.model_copy(update=changes)
    name = f"train-{len(list((root / 'home').glob('store/shades/versions/*')))}"
    job = TrainModel(job=name, dataset="photos", name="shades", recipe={})
    return train_model(job, recipe, runtime, report=lambda event: None, cancelled=lambda: False)


def split_of(root: Path, version: int) -> dict[str, str]:
    """Return the side of each photo by its name in its class."""
    folder = root / "home" / "store" / "shades" / "versions" / f"{version:04d}"
    with (folder / SPLIT).open(encoding="utf-8") as file:
        sides = {row["sha256"]: row["side"] for row in csv.DictReader(file)}
    photos = sorted((root / "photos").glob("*/*"))
    digests = file_digests(photos)
    return {str(photo.relative_to(root / "photos")): sides.get(short(digests[photo]), "") for photo in photos}


def test_what_was_held_out_stays_so_and_versions_are_compared_on_it(tmp_path: Path) -> None:
    add_photos(tmp_path, range(16))
    first = train(tmp_path)
    before = split_of(tmp_path, 1)
    add_photos(tmp_path, range(16, 30))
    second = train(tmp_path, seed=3)
    after = split_of(tmp_path, 2)

    assert "in production (nothing was in production)" in first.text
    assert set(before.values()) == {"training", "validation"}
    assert {photo: side for photo, side in after.items() if photo in before} == before
    assert all(after[photo] == after[photo.replace("a.png", "b.png")] for photo in after)
    held_out = [photo for photo, side in after.items() if side == "validation"]
    assert len(held_out) > sum(side == "validation" for side in before.values())
    assert f"shades:2 against shades:1 on {len(held_out)} images that neither was trained on" in second.text


def test_a_version_that_learnt_nothing_is_kept_out_by_its_answers_to_held_out_photos(tmp_path: Path) -> None:
    add_photos(tmp_path, range(16))
    train(tmp_path)
    worse = train(tmp_path, epochs=1, lr_max=1e-9, lr_schedule="constant")

    assert "production stays 1 (shades:2 against shades:1 on" in worse.text
    runtime = Runtime(Settings(home=tmp_path / "home", data_root=tmp_path))
    good, bad = (read_seen(runtime.store, runtime.store.resolve(f"shades:{number}")) for number in (1, 2))
    assert good is not None
    assert bad is not None
    assert good.answers.keys() == bad.answers.keys()
    assert set(good.answers.values()) == {"bright", "dark"}
    assert len(set(bad.answers.values())) == 1
