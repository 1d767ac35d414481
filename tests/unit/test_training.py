"""A training job beside its figures: what it says of the time it takes, and what it refuses at its start."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import worker.train.job
from configs.recipe import Recipe
from configs.settings import Settings
from jobs.messages import ModelPin
from jobs.train import TrainModel
from model_store.manifest import ClassEntry
from model_store.store import ModelStore, ModelVersion
from tests.unit.seeded import seeded_network
from vision.errors import WeightsError
from vision.images.preprocess import Preprocessing
from vision.networks.lenet5 import LeNet5Spec
from worker.errors import JobRefused
from worker.models.importing import import_file
from worker.models.publish import Publication, graph_of, publish
from worker.runtime import Runtime
from worker.train.job import train_model
from worker.train.training import STEPS_EVERY_S, Pace, Progress


def test_an_8_bit_graph_that_this_worker_can_not_make_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.train.job, "can_quantise", lambda: False)
    job = TrainModel(job="train-x", dataset="photos", name="x", recipe={})
    runtime = Runtime(Settings(home=tmp_path / "home", data_root=tmp_path))

    with pytest.raises(JobRefused, match=r'CPU with VNNI, .* pip install "sortline\[int8\]"; or set int8 = false'):
        train_model(job, Recipe(int8=True), runtime, report=print, cancelled=lambda: False)


def test_an_8_bit_graph_of_a_network_that_has_none_is_refused_at_once(tmp_path: Path) -> None:
    job = TrainModel(job="train-x", dataset="photos", name="x", recipe={})
    runtime = Runtime(Settings(home=tmp_path / "home", data_root=tmp_path))

    with pytest.raises(JobRefused, match="int8 = true: no 8-bit graph is made of lenet5; set int8 = false"):
        train_model(job, Recipe(network="lenet5", int8=True), runtime, report=print, cancelled=lambda: False)


def progress_into(texts: list[str]) -> Progress:
    return Progress("train-x", lambda event: texts.append(event.text), cancelled=lambda: False)


def test_a_long_training_says_once_how_long_it_will_take_as_soon_as_a_step_was_timed() -> None:
    said: list[str] = []
    pace = Pace(progress_into(said), 3)

    for step in range(2, 40):
        pace.step(step, 1000, 3.5)

    assert said == ["step 2/1000, 3500 ms each, eta 3493 s"]


def test_a_short_training_says_nothing_beforehand() -> None:
    said: list[str] = []
    pace = Pace(progress_into(said), 3)

    for step in range(2, 40):
        pace.step(step, 1000, 0.001)

    assert said == []


def test_a_long_epoch_says_now_and_then_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    now = 100.0
    monkeypatch.setattr("worker.train.training.time.monotonic", lambda: now)
    pace = Pace(progress_into(said), 3, "fold 2/5, ")
    for step in range(1, 9):
        now += STEPS_EVERY_S / 2
        pace.step(step, 10, STEPS_EVERY_S / 2)

    assert said[0] == "fold 2/5, step 1/10, 2500 ms each, eta 22 s"
    assert said[1:] == [f"fold 2/5, step {step}/10, 2500 ms each, eta {(10 - step) * 2.5:.0f} s" for step in (3, 5, 7)]


@pytest.fixture
def lenet(tmp_path: Path) -> ModelVersion:
    """A version of LeNet-5 in a store, and two classes of photos."""
    for label in ("dog", "cat"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(3):
            cv2.imwrite(str(tmp_path / "photos" / label / f"{number}.png"), np.full((16, 16, 3), number * 80, np.uint8))
    network = seeded_network(LeNet5Spec(classes=2, height_px=16, width_px=16))
    publication = Publication(
        graph=graph_of(network),
        preprocessing=Preprocessing(height_px=16, width_px=16),
        golden_images=np.zeros((1, 16, 16, 3), np.uint8),
        classes=[ClassEntry(label=label, folder=label) for label in ("cat", "dog")],
    )
    return publish(ModelStore(tmp_path / "store"), "small", publication)


def test_a_checkpoint_of_another_network_is_refused_as_backbone(tmp_path: Path, lenet: ModelVersion) -> None:
    with pytest.raises(JobRefused, match="the backbone small:1 is a lenet5, the recipe wants mobilenet_v2"):
        train_on(tmp_path, lenet.manifest.digest)

    assert ModelStore(tmp_path / "store").versions("small") == [1]


def test_a_backbone_that_is_not_the_one_the_producer_saw_is_refused(tmp_path: Path, lenet: ModelVersion) -> None:
    with pytest.raises(JobRefused, match=r"store holds another small:1.* use one store for both"):
        train_on(tmp_path, "f" * len(lenet.manifest.digest))


def test_weights_for_another_number_of_classes_are_not_imported(tmp_path: Path, lenet: ModelVersion) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\nbird\n", encoding="utf-8")
    weights, store = tmp_path / "w.safetensors", ModelStore(tmp_path / "store")
    weights.write_bytes(store.open_file("small", 1, "weights.safetensors"))

    with pytest.raises(WeightsError, match=r"labels.txt has 3 labels, the classifier 2 outputs"):
        import_file(store, weights, "animals", None, tmp_path / "labels.txt")

    assert not (tmp_path / "store" / "animals").exists()


def train_on(folder: Path, digest: str) -> None:
    recipe = Recipe(backbone="small:1")
    job = TrainModel(
        job="train-x",
        dataset="photos",
        name="x",
        recipe={},
        backbones=(ModelPin(name="small", version=1, digest=digest),),
    )
    runtime = Runtime(Settings(home=folder / "home", store=folder / "store", data_root=folder))
    train_model(job, recipe, runtime, report=lambda event: None, cancelled=lambda: False)
