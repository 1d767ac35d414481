"""A cascade: a first stage answers what it is sure of, image by image; and the gate that it must pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import mindspore
import numpy as np
import pytest

from base.errors import ImageError
from configs.recipe import Recipe
from configs.settings import Settings
from jobs.label import ChunkResult, LabelChunk
from jobs.messages import ModelPin
from jobs.train import TrainModel
from model_store.manifest import Cascade, ClassEntry
from model_store.store import ModelStore, ModelVersion
from producer.reports.layout import Layout
from producer.reports.summary import summary
from tests.unit.reported import ok, run_of, tally
from tests.unit.seeded import seeded_network
from tests.unit.test_label_chunk import BLUE, GREEN, RED, SIZE_PX, ColourEngine, OutlierEngine
from tests.unit.test_page import page_of
from vision.images.preprocess import Preprocessing
from vision.networks.lenet5 import LeNet5Spec
from vision.networks.mobilenet_v2 import MobileNetV2Spec
from vision.serving.cascade import FirstStage
from vision.serving.classifier import Classifier, Source
from vision.serving.engines import Images, Outputs
from worker.errors import JobRefused
from worker.label.chunk import label_chunk
from worker.metrics import Metrics
from worker.models.publish import FirstGraph, Publication, graph_of, publish
from worker.runtime import Runtime
from worker.train.cascade import judge_cascade
from worker.train.job import train_model

mindspore.set_context(mode=mindspore.GRAPH_MODE)

SPEC = LeNet5Spec(classes=3, height_px=24, width_px=24)
GREY, PINK = (100, 100, 90), (200, 110, 110)


class SecondEngine(ColourEngine):
    """Answers every image with probabilities that the first stage never gives."""

    def predict(self, images: Images) -> Outputs:
        return np.tile(np.array([[0.25, 0.25, 0.5]], np.float32), (len(images), 1))


@pytest.fixture
def stages() -> Iterator[tuple[ColourEngine, SecondEngine, Classifier]]:
    first, second = ColourEngine(4), SecondEngine(3)
    preprocessing = Preprocessing(height_px=SIZE_PX, width_px=SIZE_PX)
    classifier = Classifier(second, preprocessing, decode_threads=2, first=FirstStage(first, 0.5))
    yield first, second, classifier
    classifier.close()


def picture(colour: tuple[int, int, int]) -> bytes:
    found, data = cv2.imencode(".png", np.full((10, 12, 3), colour[::-1], np.uint8))
    assert found
    return bytes(data)


def unreadable() -> bytes:
    raise ImageError("truncated", "it ends in the midst")


def test_each_image_is_answered_by_the_first_stage_if_it_is_sure_else_by_the_second(stages: Any) -> None:
    first, second, classifier = stages
    colours = [RED, GREY, GREEN, PINK, BLUE, GREY, RED, PINK, GREY, GREY, BLUE, GREY]
    sources: list[Source] = [partial(picture, colour) for colour in colours]
    sources.insert(5, unreadable)

    outcomes, _ = classifier.classify(sources, 1)

    assert outcomes.pop(5).error is not None
    assert [outcome.early for outcome in outcomes] == [max(colour) == 255 for colour in colours]
    pure = {RED: 0, GREEN: 1, BLUE: 2}
    assert [outcome.top for outcome in outcomes] == [
        [(pure[colour], 1.0)] if colour in pure else [(2, 0.5)] for colour in colours
    ]
    assert [len(batch) for batch in first.batches] == [4, 4, 4]
    assert [len(batch) for batch in second.batches] == [3, 3, 1]  # filled across the batches of the first


def test_an_outlier_score_makes_no_stage_sure() -> None:
    class Second(OutlierEngine):
        """Scores of its own."""

        def predict(self, images: Images) -> Outputs:
            return super().predict(images) + np.array([0, 0, 0, 2], np.float32)

    preprocessing = Preprocessing(height_px=SIZE_PX, width_px=SIZE_PX)
    with closing(Classifier(Second(3), preprocessing, first=FirstStage(OutlierEngine(4), 0.9))) as classifier:
        outcomes, _ = classifier.classify([partial(picture, colour) for colour in (GREY, RED, PINK)], 1)

    assert [(outcome.early, outcome.outlier) for outcome in outcomes] == [(False, 7.0), (True, 0.0), (False, 7.0)]


def test_a_chunk_of_sure_images_asks_no_second_stage_and_an_empty_one_none(stages: Any) -> None:
    _, second, classifier = stages

    assert all(outcome.early for outcome in classifier.classify([partial(picture, RED)] * 9, 1)[0])
    assert [outcome.early for outcome in classifier.classify([unreadable], 1)[0]] == [False]
    assert classifier.classify([], 1)[0] == []
    assert second.batches == []


def published(tmp_path: Path, threshold: float) -> tuple[ModelVersion, ModelPin]:
    """Return a version whose two stages are LeNet-5 of other seeds."""
    first, whole = (graph_of(seeded_network(SPEC, seed)) for seed in (2, 1))
    record = Cascade(
        graph=first.files.graph.to_json(), threshold=threshold, images=100, early=0.5, equal=1.0, accuracy=0.9,
        alone_accuracy=0.9, agreement={},
    )  # fmt: skip
    publication = Publication(
        graph=whole,
        preprocessing=Preprocessing(height_px=24, width_px=24),
        golden_images=np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3), np.uint8),
        classes=[ClassEntry(label=label, folder=label) for label in ("cat", "dog", "hen")],
        first=FirstGraph(first, record),
    )
    version = publish(ModelStore(tmp_path / "store"), "staged", publication)
    return version, ModelPin(name="staged", version=1, digest=version.manifest.digest)


def labelled(tmp_path: Path, pin: ModelPin, paths: list[str], **settings: Any) -> ChunkResult:
    runtime = Runtime(Settings(store=tmp_path / "store", device="cpu", **settings))
    try:
        chunk = LabelChunk(run="inbox-1", first=0, paths=tuple(paths), model=pin, top_k=3)
        return label_chunk(chunk, runtime.classifier(pin), tmp_path)
    finally:
        runtime.unload()


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    random = np.random.default_rng(5)
    for number in range(13):
        coarse = random.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), cv2.resize(coarse, (24, 24), interpolation=cv2.INTER_CUBIC))
    return [f"{number}.png" for number in range(13)]


def test_a_worker_uses_the_first_stage_of_a_version_and_its_rows_are_the_same_in_any_order(
    tmp_path: Path, photos: list[str]
) -> None:
    _, pin = published(tmp_path, threshold=0.0)
    every = labelled(tmp_path, pin, photos)
    surest = sorted(row.top[0][1] for row in every.rows)
    threshold = float(np.mean(surest[5:7]))  # between two images
    version, pin = published(tmp_path / "half", threshold)
    for photo in photos:
        (tmp_path / "half" / photo).hardlink_to(tmp_path / photo)

    found = labelled(tmp_path / "half", pin, photos)
    shuffled = np.random.default_rng(3).permutation(photos).tolist()
    again = labelled(tmp_path / "half", pin, shuffled)
    alone = labelled(tmp_path / "half", pin, photos, cascade="off")

    assert every.early == len(photos)
    assert version.manifest.cascade is not None
    assert version.manifest.cascade.agreement["openvino/f32"] < 1e-4
    assert (found.early, again.early, alone.early) == (7, 7, 0)
    expected = [a if a.top[0][1] >= threshold else b for a, b in zip(every.rows, alone.rows, strict=True)]
    assert list(found.rows) == expected
    assert dict(zip(shuffled, again.rows, strict=True)) == dict(zip(photos, found.rows, strict=True))


def test_the_first_stage_is_left_out_by_the_engine_that_has_no_weights_of_it(tmp_path: Path, photos: list[str]) -> None:
    _, pin = published(tmp_path, threshold=0.0)

    assert labelled(tmp_path, pin, photos, engine="onnxruntime").early == len(photos)
    assert labelled(tmp_path, pin, photos, engine="mindspore").early == 0


def test_a_first_stage_that_answers_otherwise_than_published_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pin = published(tmp_path, threshold=0.5)
    other = graph_of(seeded_network(SPEC, 9)).files.onnx
    real = ModelStore.open_file
    monkeypatch.setattr(
        ModelStore, "open_file", lambda *of: other if of[-1] == "first.onnx" else real(*of)
    )  # as if another engine computed it otherwise: its checksum is right

    with pytest.raises(JobRefused, match=r"model staged:1: .* answers the golden images with a difference of"):
        Runtime(Settings(store=tmp_path / "store", device="cpu")).classifier(pin)


def test_how_many_the_first_stage_answered_stands_in_the_summary_on_the_page_and_in_the_metrics(tmp_path: Path) -> None:
    with run_of(tmp_path, [f"{number}.jpg" for number in range(8)], [ok(0)] * 8, early=6) as run:
        assert summary(run, tally(run, Layout.of(run.plan)))["answered_early"] == 6
        assert "75% answered by the first stage" in page_of(run, tmp_path / "report.html")
    metrics, pin = Metrics(), ModelPin(name="staged", version=1, digest="0f" * 32)
    chunk = LabelChunk(run="inbox-1", first=0, paths=("a", "b"), model=pin, top_k=1)
    metrics.note_chunk(chunk, ChunkResult(run="inbox-1", first=0, rows=(ok(0), ok(0)), early=2))
    assert metrics.registry.get_sample_value("sortline_early_images_total", {"model": "staged:1"}) == 2


def answers(count: int, sureness: list[float], wrong: set[int]) -> tuple[Any, Any]:
    """Return probabilities of the first stage, and the answers 0 of the second; ``wrong`` ones of the first are 1."""
    first = np.zeros((count, 2))
    for row, sure in enumerate(sureness):
        first[row] = (1 - sure, sure) if row in wrong else (sure, 1 - sure)
    return first, np.zeros(count, np.int64)


def test_the_threshold_is_the_lowest_that_leaves_99_in_100_answers_as_they_were() -> None:
    sureness = [0.99 - 0.001 * row for row in range(400)]
    first, alone = answers(400, sureness, wrong={100, 200, 250, 300, 310})  # of 400, four may differ

    found = judge_cascade(first, alone, alone, cost=0.3)

    assert isinstance(found, Cascade)
    assert found.early == 310 / 400
    assert found.threshold == pytest.approx(sureness[309] - 0.0005)
    assert found.equal == found.accuracy == 0.99
    assert found.alone_accuracy == 1.0


@pytest.mark.parametrize(
    ("wrong", "cost", "why"),
    [
        (set(range(1, 20)), 0.3, "the first stage is sure of 1% of the images and takes 30% of the work"),
        (set(), 1.1, "the first stage is sure of 100% of the images and takes 110% of the work"),
    ],
)
def test_a_first_stage_that_saves_nothing_is_left_out(wrong: set[int], cost: float, why: str) -> None:
    first, alone = answers(400, [0.99 - 0.001 * row for row in range(400)], wrong)

    assert judge_cascade(first, alone, alone, cost) == why


def test_a_first_stage_that_loses_accuracy_beyond_chance_answers_less() -> None:
    wrong = set(range(0, 2000, 101))  # 20 of 2,000: 99 % are equal, and each difference is a loss
    first, alone = answers(2000, [0.99 - 0.0002 * row for row in range(2000)], wrong)

    losing = judge_cascade(first, alone, alone, 0.3)
    winning = judge_cascade(first, alone, first.argmax(axis=1), 0.3)

    assert isinstance(losing, Cascade)
    assert isinstance(winning, Cascade)
    assert (losing.early, losing.accuracy) == (0.505, 0.995)
    assert (winning.early, winning.accuracy, winning.alone_accuracy) == (1.0, 1.0, 0.99)


def test_a_first_stage_that_is_sure_of_none_is_left_out() -> None:
    first, alone = answers(50, [0.9] * 50, wrong={0})

    assert judge_cascade(first, alone, alone, 0.3) == "the first stage is sure of no image"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "head",
    [
        {"rbf_centers": 48, "ridge": 0.001},
        pytest.param({"epochs": 10, "batch_size": 8, "lr_max": 0.01}, marks=pytest.mark.long),
    ],
    ids=["RBF", "linear"],
)
def test_a_training_with_a_cascade_publishes_a_first_stage_that_labels(
    head: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.train.calibration.FEW", 48)
    monkeypatch.setattr("worker.train.cascade.FEW", 48)
    monkeypatch.setattr(MobileNetV2Spec, "tells_near_duplicates", False)  # to its random weights all photos are alike
    spec = MobileNetV2Spec(classes=0, height_px=64, width_px=64)
    publication = Publication(
        graph=graph_of(seeded_network(spec)),
        preprocessing=Preprocessing(height_px=64, width_px=64),
        golden_images=np.zeros((1, 64, 64, 3), np.uint8),
    )
    backbone = publish(ModelStore(tmp_path / "home" / "store"), "backbone", publication)
    for label, least in (("bright", 160), ("dark", 0)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(24):
            coarse = np.random.default_rng([number, least]).integers(least, least + 30, (4, 4, 3), dtype=np.uint8)
            pixels = cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_NEAREST)
            cv2.imwrite(str(tmp_path / "photos" / label / f"{number}.png"), pixels)
    recipe = Recipe(
        network="mobilenet_v2", backbone="backbone", height_px=64, width_px=64, cascade=0.5,
        validation_fraction=0.25, **head,
    )  # fmt: skip
    pin = ModelPin(name="backbone", version=1, digest=backbone.manifest.digest)
    job = TrainModel(job="train-1", dataset="photos", name="shades", recipe={}, backbones=(pin,))
    runtime = Runtime(Settings(home=tmp_path / "home", data_root=tmp_path, device="cpu"))
    said: list[str] = []

    train_model(job, recipe, runtime, report=lambda event: said.append(event.text), cancelled=lambda: False)

    version = ModelStore(tmp_path / "home" / "store").resolve("shades:1")
    told = [text for text in said if text.startswith("cascade: ")]
    assert len(told) == 1
    assert version.manifest.cascade is not None, told
    assert version.manifest.cascade.images == 48
    assert "first.onnx" in version.manifest.files
    own = ModelPin(name="shades", version=1, digest=version.manifest.digest)
    paths = tuple(f"photos/{label}/{number}.png" for label in ("bright", "dark") for number in range(4))
    found = label_chunk(
        LabelChunk(run="inbox-1", first=0, paths=paths, model=own, top_k=1), runtime.classifier(own), tmp_path
    )
    runtime.unload()
    assert found.early > 0
    decides = "rbf_centers" in head
    assert (version.manifest.decisions is not None, bool(version.manifest.graph["outlier_name"])) == (decides, decides)
    assert bool(version.manifest.cascade.graph["outlier_name"]) == decides  # their rows are of one kind
    assert [row.outlier is not None for row in found.rows] == [decides] * 8
    assert [row.top[0][0] for row in found.rows] == [0] * 4 + [1] * 4
