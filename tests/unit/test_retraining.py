"""A model trained again with more photos: what is held out, and what the versions are compared on."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import mindspore
import numpy as np
import pytest

from configs.recipe import Recipe
from configs.settings import Settings
from jobs.train import TrainModel
from model_store import ModelStore, ModelVersion
from vision.training.dataset import file_digests
from vision.training.fitting import TrainingStopped
from vision.training.fitting import fit as fit_samples
from worker.errors import JobCancelled
from worker.models.publish import Publication, publish
from worker.runtime import Runtime
from worker.train import publication
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


def train(
    root: Path, said: list[str] | None = None, cancelled: Callable[[], bool] = lambda: False, **changes: Any
) -> Trained:
    """Train the next version of ``shades``; a job that was cut off goes on."""
    runtime = Runtime(Settings(home=root / "home", data_root=root, device="cpu"))
    recipe = RECIPE.model_copy(update=changes)
    name = f"train-{len(list((root / 'home').glob('store/shades/versions/*')))}"
    job = TrainModel(job=name, dataset="photos", name="shades", recipe={})
    texts = [] if said is None else said
    return train_model(job, recipe, runtime, report=lambda event: texts.append(event.text), cancelled=cancelled)


@dataclass
class Earlier:
    """A folder with photos and the version that was trained on them, and what the training said."""

    root: Path
    said: list[str] = field(default_factory=list)
    text: str = ""

    def copied_to(self, folder: Path) -> Path:
        return shutil.copytree(self.root, folder, dirs_exist_ok=True)


def trained(root: Path, **changes: Any) -> Earlier:
    add_photos(root, range(16))
    done = Earlier(root)
    done.text = train(root, done.said, **changes).text
    return done


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Earlier:
    return trained(tmp_path_factory.mktemp("usual"))


@pytest.fixture(scope="module")
def without_refit(tmp_path_factory: pytest.TempPathFactory) -> Earlier:
    return trained(tmp_path_factory.mktemp("without"), refit=False)


def version_of(root: Path, version: int) -> Path:
    return root / "home" / "store" / "shades" / "versions" / f"{version:04d}"


def manifest_of(root: Path, version: int) -> Any:
    return json.loads((version_of(root, version) / "manifest.json").read_bytes())


def split_of(root: Path, version: int) -> dict[str, str]:
    """Return the side of each photo by its name in its class."""
    with (version_of(root, version) / SPLIT).open(encoding="utf-8") as file:
        sides = {row["sha256"]: row["side"] for row in csv.DictReader(file)}
    photos = sorted((root / "photos").glob("*/*"))
    digests = file_digests(photos)
    return {str(photo.relative_to(root / "photos")): sides.get(short(digests[photo]), "") for photo in photos}


def test_the_first_version_is_in_production(usual: Earlier) -> None:
    assert "in production (nothing was in production)" in usual.text


def test_a_version_keeps_how_it_answered_images_that_it_was_not_trained_on(usual: Earlier) -> None:
    manifest = manifest_of(usual.root, 1)
    answers = manifest["held_out"]

    assert sum(answers["labels"]) == sum(answers["confidences"]) == manifest["training"]["calibration"]["images"] > 0


def test_what_was_held_out_stays_so_and_versions_are_compared_on_it(usual: Earlier, tmp_path: Path) -> None:
    usual.copied_to(tmp_path)
    before = split_of(tmp_path, 1)
    add_photos(tmp_path, range(16, 30))
    second = train(tmp_path, seed=3)
    after = split_of(tmp_path, 2)

    assert set(before.values()) == {"training", "validation"}
    assert {photo: side for photo, side in after.items() if photo in before} == before
    assert all(after[photo] == after[photo.replace("a.png", "b.png")] for photo in after)
    held_out = [photo for photo, side in after.items() if side == "validation"]
    assert len(held_out) > sum(side == "validation" for side in before.values())
    assert f"shades:2 against shades:1 on {len(held_out)} images held out from both" in second.text


def test_a_version_that_learnt_nothing_is_kept_out_by_its_answers_to_held_out_photos(
    usual: Earlier, tmp_path: Path
) -> None:
    usual.copied_to(tmp_path)
    worse = train(tmp_path, epochs=1, lr_max=1e-9, lr_schedule="constant")

    assert "production stays 1 (shades:2 against shades:1 on" in worse.text
    runtime = Runtime(Settings(home=tmp_path / "home", data_root=tmp_path))
    good, bad = (read_seen(runtime.store, runtime.store.resolve(f"shades:{number}")) for number in (1, 2))
    assert good is not None
    assert bad is not None
    assert good.is_refit
    assert good.answers.keys() == bad.answers.keys()
    assert set(good.answers.values()) == {"bright", "dark"}
    assert len(set(bad.answers.values())) == 1


def test_a_last_training_on_all_photos_is_published_and_the_figures_are_of_the_one_before(
    usual: Earlier, without_refit: Earlier
) -> None:
    said = usual.said
    before, version = manifest_of(without_refit.root, 1), manifest_of(usual.root, 1)
    images = before["training"]["images"]
    whole = images["training"] + images["validation"]
    assert not [text for text in without_refit.said if "all images" in text]
    assert f"training on all {whole} images, to publish that: 12 epochs" in said
    assert sum(text.startswith("all images, epoch ") for text in said) == 12
    assert not any("val" in text for text in said if text.startswith("all images, "))
    assert [manifest["training"]["refit"] for manifest in (before, version)] == [False, True]
    assert version["training"]["images"] == images
    assert version["scores"] == before["scores"]
    assert version["files"]["weights.safetensors"] != before["files"]["weights.safetensors"]
    assert version["files"][SPLIT] == before["files"][SPLIT]
    page = (version_of(usual.root, 1) / "report.html").read_text(encoding="utf-8")
    assert f"of a last training on all {whole} images" in page
    assert "its weights are kept" not in page


def test_a_constant_learning_rate_is_followed_to_the_best_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_photos(tmp_path, range(16))
    said: list[str] = []
    given: list[Publication] = []

    def publish_given(store: ModelStore, name: str, what: Publication) -> ModelVersion:
        given.append(what)
        return publish(store, name, what)

    monkeypatch.setattr(publication, "publish", publish_given)
    train(tmp_path, said, lr_schedule="constant", epochs=5)

    best = manifest_of(tmp_path, 1)["training"]["kept_epoch"]
    assert sum(text.startswith("all images, epoch ") for text in said) == best
    # Its precisions are judged by a network that never saw the images for it: the one before the last training.
    [what] = given
    assert what.measured is not None
    assert what.measured().onnx != what.graph.files.onnx


def test_a_last_training_that_was_cut_off_goes_on_where_it_was(usual: Earlier, tmp_path: Path) -> None:
    usual.copied_to(tmp_path)
    said: list[str] = []
    with pytest.raises(JobCancelled):
        train(tmp_path, said, cancelled=lambda: any("all images, epoch 5/" in text for text in said))
    again: list[str] = []
    train(tmp_path, again)

    assert next(text.split(",")[1] for text in again if text.startswith("all images, epoch ")) == " epoch 6/12"
    first, second = (manifest_of(tmp_path, number)["files"]["weights.safetensors"] for number in (1, 2))
    assert first == second


def test_a_job_that_is_cancelled_while_it_publishes_leaves_no_version_and_goes_on(
    usual: Earlier, tmp_path: Path
) -> None:
    usual.copied_to(tmp_path)
    said: list[str] = []
    with pytest.raises(JobCancelled):
        train(tmp_path, said, cancelled=lambda: any(text.startswith("publishing") for text in said))
    versions = tmp_path / "home" / "store" / "shades" / "versions"
    left = [path.name for path in versions.iterdir()]
    again: list[str] = []
    train(tmp_path, again)

    assert left == ["0001"]
    assert not any("epoch 11/12" in text for text in again)  # it had its last checkpoint
    first, second = (manifest_of(tmp_path, number)["files"]["weights.safetensors"] for number in (1, 2))
    assert first == second


@pytest.mark.parametrize("how", ["stops", "is worse"])
def test_a_last_training_that_fails_is_not_published(
    without_refit: Earlier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    add_photos(tmp_path, range(16))
    real = fit_samples

    def fit(*given: Any, last_epoch: int | None = None, **options: Any) -> Any:
        if last_epoch is None:
            return real(*given, **options)
        if how == "stops":
            raise TrainingStopped("the loss is nan at step 3 (epoch 1)")
        history, best = real(*given, **options)
        return history, replace(best, val_top1=0.5)

    monkeypatch.setattr("worker.train.network.fit", fit)
    said: list[str] = []
    train(tmp_path, said)

    assert any(text.startswith("all images: ") and text.endswith("; published is the training before") for text in said)
    first, second = (manifest_of(root, 1) for root in (tmp_path, without_refit.root))
    assert first["training"]["refit"] is False
    assert first["files"]["weights.safetensors"] == second["files"]["weights.safetensors"]
