"""The outlier score and the thresholds that an imported classifier gets by the photos of ``--calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from base.decisions import TARGETS, target_name
from configs import Settings
from model_store import ModelStore, ModelVersion
from producer.models import pin_of
from producer.terminal.model_page import about
from tests.foreign_graphs import LABELS, MEAN, SIDE, answers, network
from tests.unit.test_imported import SAID, description, import_
from tests.unit.test_openvino_graphs import INFO, ir
from vision.images import Preprocessing, load_image
from vision.imported import fit_outlier_score, read_graph, read_ir, serve
from vision.serving import Classifier, GraphSpec, open_engine
from worker.models.files import read_files
from worker.runtime import Runtime

PHOTOS = 120


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    monkeypatch.setenv("SORTLINE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)  # of the process of all tests
    return ModelStore(tmp_path / "store")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LABELS), encoding="utf-8")
    return path


def labelled(folder: Path, count: int = PHOTOS) -> list[Path]:
    """Write photos in the folder of the label that the network gives; every tenth in that of the next."""
    random, paths = np.random.default_rng(5), []
    for number in range(count):
        path = folder / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8)).resize((48, 40)).save(path)
        best = int(answers([path]).argmax()) + (number % 10 == 0)
        paths.append(folder / LABELS[best % len(LABELS)] / path.name)
        paths[-1].parent.mkdir(exist_ok=True)
        path.rename(paths[-1])
    return paths


def foreign(tmp_path: Path) -> Path:
    """Write a grey picture, about which the network says nothing at all."""
    grey = tuple(round(255 * part) for part in MEAN)
    Image.new("RGB", (48, 40), grey).save(tmp_path / "grey.png")
    return tmp_path / "grey.png"


def entropies(paths: list[Path]) -> NDArray[np.float64]:
    """Return the sums of (p (1 - p))^0.1, none of either below 1e-6."""
    given = np.clip(answers(paths), 1e-6, 1 - 1e-6)
    return np.asarray(((given * (1 - given)) ** 0.1).sum(axis=1))


def outliers(store: ModelStore, version: ModelVersion, paths: list[Path], engine: str) -> NDArray[np.float32]:
    how = Preprocessing.from_json(version.manifest.preprocessing)
    opened = open_engine(read_files(store, version), engine=engine, device="cpu", precision="f32")
    found = opened.graph.parted(opened.predict(np.stack([load_image(path, how).pixels for path in paths])))[1]
    opened.close()
    assert found is not None
    return found


@pytest.mark.parametrize("options", [{}, {"ending": "Softmax"}, {"batch": 1}, {"opset": 9}, {"opset": 12}], ids=str)
def test_an_imported_graph_knows_photos_like_those_of_its_calibration(
    options: dict[str, Any], tmp_path: Path, labels: Path, store: ModelStore, capsys: Any
) -> None:
    paths, grey = labelled(tmp_path / "photos"), foreign(tmp_path)
    path = network(tmp_path / "model.onnx", **options)

    assert import_(path, *SAID, "--labels", labels, "--calibrate", tmp_path / "photos") == 0

    assert "outlier score: by 120 photos, of which 5.0% are unknown" in capsys.readouterr().out
    version = store.resolve("foreign")
    raw = entropies(paths)
    edge = np.sort(raw)[[PHOTOS * 95 // 100 - 1, PHOTOS * 95 // 100]].mean()
    lowest = raw.min() + 0.01 * (edge - raw.min())
    for engine in ("openvino", "onnxruntime"):
        scores = outliers(store, version, [*paths, grey], engine)
        np.testing.assert_allclose(scores[:-1], np.maximum(0, (raw - lowest) / (edge - lowest)), atol=1e-3)
        np.testing.assert_array_equal(scores[:-1] == 0, raw <= lowest)  # some are as sure as can be
        assert (scores[:-1] > 1).mean() == pytest.approx(0.05)
        assert scores[-1] > 1
    decisions, kept = version.manifest.decisions, version.manifest.expected
    assert decisions is not None
    assert (decisions.images, set(decisions.thresholds)) == (PHOTOS, set(map(target_name, TARGETS)))
    assert (decisions.outliers[0], decisions.outliers[-1]) == pytest.approx((0, max(scores[:-1])), rel=1e-3)
    assert decisions.accepted["0.98"] < 0.8 < decisions.accepted["0.8"]  # nine in ten are right
    assert kept is not None
    assert kept.labels == np.bincount(answers(paths).argmax(axis=1), minlength=len(LABELS)).tolist()
    assert kept.outliers == decisions.outliers
    assert f"of {PHOTOS} photos of --calibrate" in "".join(about(store, version))


@pytest.mark.parametrize("options", [{}, {"ending": "Softmax"}], ids=str)
def test_a_graph_in_openvinos_format_gets_the_same_score(options: dict[str, Any], tmp_path: Path) -> None:
    facts = {"size": SIDE, "resize": 36, "filter": "bilinear", "mean": 0, "std": 1, "scale": "1/255"}
    pixels = np.random.default_rng(0).integers(0, 256, (PHOTOS, SIDE, SIDE, 3), np.uint8)
    found = []
    for graph in (read_graph(network(tmp_path / "m.onnx", **options)), read_ir(ir(tmp_path, INFO, **options))):
        served = serve(graph, description(**facts, layout="NCHW", colours="RGB"))
        score = fit_outlier_score(served.reference(pixels))
        assert score is not None
        served = served.scored(score)
        engine = open_engine(served.files, engine="openvino", device="cpu", precision="f32")
        found.append(engine.predict(pixels))
        engine.close()
        assert served.files.graph.difference(found[-1], served.expected(pixels)) < 1e-4
    assert np.abs(found[0] - found[1]).max() < 1e-3


def test_photos_without_labels_give_the_score_alone(
    tmp_path: Path, labels: Path, store: ModelStore, capsys: Any
) -> None:
    paths, grey = labelled(tmp_path / "photos"), foreign(tmp_path)
    for path in paths[20:]:
        path.rename(tmp_path / "photos" / path.name)
    path = network(tmp_path / "model.onnx")

    assert import_(path, *SAID, "--labels", labels, "--calibrate", tmp_path / "photos") == 0

    said = "thresholds: none; 20 photos lie in folders called as the labels, 100 are needed"
    assert said in capsys.readouterr().out
    version = store.resolve("foreign")
    assert version.manifest.decisions is not None
    assert (version.manifest.decisions.thresholds, version.manifest.decisions.images) == ({}, PHOTOS)
    assert "accepted" not in "".join(about(store, version))
    classifier: Classifier = Runtime(Settings(store=store.root, device="cpu")).classifier(pin_of(version))
    (outcome,), _ = classifier.classify([grey.read_bytes], 1)
    classifier.close()
    assert outcome.outlier is not None
    assert outcome.outlier > 1


def test_few_photos_give_no_score(tmp_path: Path, labels: Path, store: ModelStore, capsys: Any) -> None:
    labelled(tmp_path / "photos", 99)

    path = network(tmp_path / "model.onnx")
    assert import_(path, *SAID, "--labels", labels, "--calibrate", tmp_path / "photos") == 0

    assert "outlier score: none; 99 photos could be read, 100 or more are needed" in capsys.readouterr().out
    manifest = store.resolve("foreign").manifest
    assert (manifest.decisions, manifest.held_out, manifest.graph["outlier_name"]) == (None, None, "")


@pytest.mark.parametrize("count", [100, 101, 119, 1000])
def test_at_most_5_percent_of_the_photos_are_unknown(count: int) -> None:
    probabilities = np.random.default_rng(1).dirichlet([0.1] * 7, count)

    score = fit_outlier_score(probabilities)

    assert score is not None
    found = score.of(probabilities)
    assert 0.04 <= (found > 1).mean() <= 0.05
    assert found.min() == 0
    assert not ((found > 1 - 1e-6) & (found < 1 + 1e-6)).any()  # which rounding would decide about
    assert score.of(np.eye(7)[:1])[0] == 0  # never less
    assert score.of(np.full((1, 7), 1 / 7))[0] > 1


def test_photos_that_are_all_answered_alike_give_no_score() -> None:
    sure = np.eye(4)[np.arange(200) % 4]
    assert fit_outlier_score(sure) is None
    assert fit_outlier_score(np.abs(sure - 1e-7)) is None  # which 16-bit floats would round


def test_outlier_scores_may_differ_more_than_probabilities() -> None:
    graph = GraphSpec(height_px=1, width_px=1, outputs=2, kind="probabilities", outlier_name="o")
    expected = np.array([[0.5, 0.5, 0.5], [0.5, 0.5, 100]], np.float32)

    def moved(place: tuple[int, int], by: float) -> float:
        outputs = expected.copy()
        outputs[place] += by
        return graph.difference(outputs, expected)

    assert moved((0, 1), 0.25) == 0.25
    assert moved((0, 2), 0.25) == pytest.approx(0.025)
    assert moved((1, 2), 1.0) == pytest.approx(0.001)
    assert np.isnan(moved((1, 2), np.nan))
    assert graph.difference(expected[:0], expected[:0]) == 0
