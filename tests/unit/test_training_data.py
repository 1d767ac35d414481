"""Dealing the images of a job into sides: what can't be read costs nobody else, and is counted."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from configs.recipe import Recipe
from configs.settings import Settings
from jobs.messages import ModelPin
from jobs.train import TrainModel
from model_store.store import ModelStore
from tests.unit.seeded import seeded_network
from vision.images.preprocess import Preprocessing
from vision.networks.lenet5 import LeNet5Spec
from vision.networks.mobilenet_v2 import MobileNetV2Spec
from vision.networks.spec import NetworkSpec
from vision.networks.weights import backbone_only, get_weights, set_weights
from vision.serving.engines import ModelFiles, open_engine, precision_here
from vision.serving.export import graph_spec_of
from vision.training.dataset import file_digests, read_dataset
from vision.training.parts import frozen_spec
from worker.errors import JobRefused
from worker.models.publish import Publication, graph_of, publish
from worker.runtime import Runtime
from worker.train.images import InputReader, find_images, split_images
from worker.train.training import Progress, Training


def training_of(folder: Path, recipe: Recipe, backbone: ModelPin | None = None) -> Training:
    return Training(
        job=TrainModel(job="train-x", dataset="photos", name="x", recipe={}, backbones=(backbone,) if backbone else ()),
        recipe=recipe,
        runtime=Runtime(Settings(home=folder / "home")),
        progress=Progress("train-x", lambda event: None, cancelled=lambda: False),
    )


def test_files_that_can_not_be_opened_or_decoded_are_counted_and_left_out(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for label in ("dog", "cat"):
        for number in range(8):
            path = tmp_path / "photos" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), random.integers(0, 256, (16, 16, 3), np.uint8))
    cut, gone = tmp_path / "photos" / "cat" / "0.png", tmp_path / "photos" / "dog" / "gone.png"
    cut.write_bytes(cut.read_bytes()[:40])
    gone.symlink_to(tmp_path / "nowhere.png")
    dataset = read_dataset(tmp_path / "photos")
    recipe = Recipe(network="lenet5", height_px=16, width_px=16, validation_fraction=0.25)
    digests = file_digests(image.path for image in dataset.train)
    training = training_of(tmp_path, recipe)
    reader = InputReader(training, None, digests)

    split = split_images(training, reader, dataset)

    used = [image.path for side in (split.training, split.validation) for image in side.images]
    assert len(used) == 15
    assert not {cut, gone} & set(used)
    assert sorted(error.split(":")[0] for error in reader.skipped) == sorted([str(cut), str(gone)])


def test_a_job_of_several_sources_says_what_the_later_one_changed(tmp_path: Path) -> None:
    for name in ("cat/a.png", "cat/b.png", "dog/c.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_text(name)
    (tmp_path / "fixes.csv").write_text("path,label,verdict\nphotos/cat/b.png,dog,wrong\nphotos/dog/c.png,,reject\n")
    said: list[str] = []
    job = TrainModel(job="train-x", dataset="photos", later_sources=("fixes.csv",), name="x", recipe={})
    training = Training(
        job=job,
        recipe=Recipe(),
        runtime=Runtime(Settings(home=tmp_path / "home", data_root=tmp_path)),
        progress=Progress("train-x", lambda event: said.append(event.text), cancelled=lambda: False),
    )

    dataset, digests = find_images(training)
    assert [(image.path.name, image.class_index) for image in dataset.train] == [("a.png", 0), ("b.png", 1)]
    assert {path.name for path in digests} == {"a.png", "b.png"}
    assert said == [
        f"2 images in 2 classes: {tmp_path}/photos and {tmp_path}/fixes.csv; "
        "another label in a later source: 1, b.png (dog, was cat); not usable, left out: 1, c.png"
    ]
    outside = replace(training, job=job.model_copy(update={"later_sources": ("../fixes.csv",)}))
    with pytest.raises(JobRefused, match=r"the dataset \.\./fixes.csv is not below"):
        find_images(outside)


def test_too_few_images_are_called_so_though_another_one_can_not_be_read(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for label in ("dog", "cat"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "photos" / label / "0.png"), random.integers(0, 256, (16, 16, 3), np.uint8))
    (tmp_path / "photos" / "cat" / "bad.png").write_text("no image")
    dataset = read_dataset(tmp_path / "photos")
    training = training_of(tmp_path, Recipe(network="lenet5", height_px=16, width_px=16))
    reader = InputReader(training, None, file_digests(image.path for image in dataset.train))

    with pytest.raises(JobRefused, match=r"or a single image, .* rest into train/; 1 can't be read, the first: .*bad"):
        split_images(training, reader, dataset)


def test_near_duplicates_on_both_sides_are_reported_with_examples_and_refused_on_request(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    photos = tmp_path / "photos"
    for side in ("train", "val"):
        for label in ("dog", "cat"):
            (photos / side / label).mkdir(parents=True)
            for number in range(4):
                small = random.integers(0, 256, (6, 6, 3), np.uint8)
                cv2.imwrite(str(photos / side / label / f"{number}.png"), cv2.resize(small, (48, 48)))
    original = cv2.imread(str(photos / "train" / "cat" / "2.png"))
    cv2.imwrite(str(photos / "val" / "cat" / "copy.jpg"), cv2.resize(original[:, ::-1], (60, 60)))  # a mirror image
    dataset = read_dataset(photos)
    recipe = Recipe(network="lenet5", height_px=16, width_px=16)
    digests = file_digests(image.path for image in (*dataset.train, *(dataset.validation or ())))
    training = training_of(tmp_path, recipe)
    reader = InputReader(training, None, digests)

    split = split_images(training, reader, dataset)

    note = "val/ as given; 1 of its 9 images have a near-duplicate in train/"
    assert split.note == f"{note}, such as val/cat/copy.jpg is like train/cat/2.png"
    assert split.leaks == [(photos / "train" / "cat" / "2.png", photos / "val" / "cat" / "copy.jpg")]
    forbidding = replace(training, job=training.job.model_copy(update={"fail_on_leak": True}))
    with pytest.raises(
        JobRefused, match=rf"{note}: val/cat/copy.jpg is like train/cat/2.png; take them out of one side"
    ):
        split_images(forbidding, reader, dataset)


@pytest.mark.parametrize("tells", [False, True])
def test_features_join_near_duplicates_only_of_networks_whose_features_tell_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells: bool
) -> None:
    monkeypatch.setattr(LeNet5Spec, "tells_near_duplicates", tells)
    random = np.random.default_rng(0)
    for label in ("dog", "cat"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(8):  # noise: to LeNet-5 one is like the other
            cv2.imwrite(
                str(tmp_path / "photos" / label / f"{number}.png"), random.integers(0, 256, (16, 16, 3), np.uint8)
            )
    dataset = read_dataset(tmp_path / "photos")
    network = seeded_network(LeNet5Spec(classes=2, height_px=16, width_px=16))
    pin = published(seeded_network(replace(network.spec, classes=0)), tmp_path)
    recipe = Recipe(network="lenet5", backbone="seeded", height_px=16, width_px=16, fit="stretch")
    reader = InputReader(
        training_of(tmp_path, recipe, pin), network, file_digests(image.path for image in dataset.train)
    )

    with closing(reader):
        if tells:  # each class is one family, so nothing is left to validate with
            with pytest.raises(JobRefused, match="the images of each class are one family"):
                split_images(training_of(tmp_path, recipe, pin), reader, dataset)
        else:
            split = split_images(training_of(tmp_path, recipe, pin), reader, dataset)
            assert split.note == "16 families, none on both sides"
            if precision_here() is not None:  # no GPU is here
                monkeypatch.setattr("worker.train.images.open_engine", None)
                again = InputReader(training_of(tmp_path, recipe, pin), network, reader.digests)
                assert_array_equal(again.read(split.whole.images, "backbone").rows[:], split.whole.rows[:])


@pytest.mark.slow
def test_a_backbone_that_a_recipe_takes_as_it_is_gives_its_published_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = MobileNetV2Spec(classes=0, height_px=32, width_px=32, convention="tf")
    backbone = seeded_network(plain)
    pin = published(backbone, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)

    def features(spec: NetworkSpec, pin: ModelPin | None) -> NDArray[np.float32]:
        network = seeded_network(spec)
        set_weights(network, backbone_only(get_weights(backbone), plain), allow_missing_head=True)
        recipe = Recipe(backbone="seeded", height_px=32, width_px=32)
        reader = InputReader(training_of(tmp_path, recipe, pin), network, {})
        frozen = frozen_spec(spec, "backbone")
        engine = open_engine(ModelFiles(onnx=reader._graph(frozen, "backbone"), graph=graph_spec_of(frozen)))
        with closing(engine):
            return engine.predict(images)

    exported = features(replace(plain, classes=3), None)
    tapped = features(replace(plain, classes=3, intermediate_layers=(15,)), pin)
    monkeypatch.setattr("worker.train.body.export_onnx", None)
    assert_array_equal(features(replace(plain, classes=3), pin), exported)
    assert tapped.shape[1] > exported.shape[1]


def published(backbone: Any, folder: Path) -> ModelPin:
    """Publish a backbone as ``seeded:1`` into the store below ``folder``."""
    spec = backbone.spec
    publication = Publication(
        graph=graph_of(backbone),
        preprocessing=Preprocessing(height_px=spec.height_px, width_px=spec.width_px),
        golden_images=np.zeros((1, spec.height_px, spec.width_px, 3), np.uint8),
    )
    version = publish(ModelStore(folder / "home" / "store"), "seeded", publication)
    return ModelPin(name="seeded", version=1, digest=version.manifest.digest)
