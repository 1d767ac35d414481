"""The gate of lower precisions: its rule, its figures, and what a worker makes of them."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import replace
from math import comb
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import mindspore
import numpy as np
import pytest
from numpy.typing import NDArray

import vision.serving.engines
from configs.settings import Settings
from jobs.messages import ModelPin
from model_store.manifest import ClassEntry, ManifestDraft, PrecisionProof
from model_store.store import ModelStore, ModelVersion
from tests.unit.seeded import seeded_network
from vision.images.decode import ImageLimits
from vision.images.preprocess import Preprocessing
from vision.networks.lenet5 import LeNet5Spec
from vision.networks.network import build_served
from vision.networks.spec import NetworkSpec
from vision.networks.weights import get_weights
from vision.serving.engines import Engine, open_engine, precisions
from vision.serving.engines.protocol import PROBABILITIES, GraphSpec
from vision.serving.export import exchange_weights, export_onnx, graph_spec_of
from vision.training.dataset import LabelledImage
from worker.models.precision import (
    READ_AT_ONCE,
    chance_of_loss,
    golden_tolerance,
    judge,
    judge_precisions,
    open_on_cpu,
)
from worker.models.publish import Details, Publication, compared_engines, engine_names, graph_of, publish
from worker.runtime import Runtime

mindspore.set_context(mode=mindspore.GRAPH_MODE)

SPEC = LeNet5Spec(classes=4, height_px=32, width_px=32)
PREPROCESSING = Preprocessing(height_px=32, width_px=32)


def judged(images: int, *, lost: int = 0, won: int = 0, wrong_otherwise: int = 0) -> PrecisionProof:
    """Return the proof of a precision that differs from an f32 that is right, but for the images ``won``, so often."""
    truth = np.zeros(images, np.int64)
    f32, answers = truth.copy(), truth.copy()
    answers[:lost] = 1
    f32[lost : lost + won] = 1
    end = lost + won + wrong_otherwise
    f32[lost + won : end], answers[lost + won : end] = 1, 2
    return judge(answers, f32, truth)


@pytest.mark.parametrize("lost", range(8))
@pytest.mark.parametrize("won", range(8))
def test_the_chance_of_a_loss_is_the_upper_tail_of_a_fair_coin(lost: int, won: int) -> None:
    # Counted from the other end: all that is not above the mirrored count.
    at_most = sum(comb(lost + won, count) for count in range(won + 1)) / 2 ** (lost + won)

    assert chance_of_loss(lost, won) == pytest.approx(at_most)
    if lost:
        assert chance_of_loss(lost, won) + chance_of_loss(won + 1, lost - 1) == pytest.approx(1)


def test_chances_worked_out_by_hand() -> None:
    assert chance_of_loss(0, 0) == 1
    assert chance_of_loss(5, 0) == 1 / 32
    assert chance_of_loss(3, 3) == 42 / 64
    assert chance_of_loss(8, 2) == 56 / 1024
    assert chance_of_loss(9, 2) == 67 / 2048
    assert chance_of_loss(3000, 2900) == pytest.approx(0.0986, abs=1e-3)  # far beyond what a float's powers hold


def test_an_equal_precision_passes_with_all_its_figures() -> None:
    assert judged(200) == PrecisionProof(images=200, equal=1.0, accuracy=1.0, f32_accuracy=1.0, passed=True)
    proof = judged(200, lost=1, won=2, wrong_otherwise=1)
    assert (proof.equal, proof.accuracy, proof.f32_accuracy) == (0.98, 0.99, 0.985)


@pytest.mark.parametrize(
    ("images", "differing", "passed"),
    [(100, 3, True), (100, 4, False), (1000, 30, True), (1000, 31, False), (33, 0, True), (33, 1, False)],
)
def test_97_of_100_answers_must_be_those_of_f32(images: int, differing: int, passed: bool) -> None:
    assert judged(images, wrong_otherwise=differing).passed is passed


@pytest.mark.parametrize(
    ("images", "lost", "won", "passed"),
    [
        (1000, 5, 0, True),  # half a point, though chance gives it only once in 32
        (1000, 6, 0, False),  # more, and once in 64
        (200, 4, 0, True),  # two points, once in 16
        (200, 5, 0, False),  # once in 32
        (400, 8, 2, True),  # 1.5 points, 56 in 1024
        (400, 9, 2, False),  # 67 in 2048
        (400, 0, 12, True),  # better
    ],
)
def test_accuracy_may_fall_by_half_a_point_or_by_what_chance_explains(
    images: int, lost: int, won: int, passed: bool
) -> None:
    assert judged(images, lost=lost, won=won).passed is passed


def test_the_golden_images_may_differ_by_what_was_recorded_for_the_precision_and_a_margin() -> None:
    agreement = {"openvino/f32": 1e-6, "openvino/bf16": 0.01, "other/bf16": 1e-5}

    def tolerance(name: str, precision: str) -> float:
        engine: Any = SimpleNamespace(name=name, precision=precision)
        return golden_tolerance(1e-3, agreement, engine)

    assert tolerance("openvino", "f32") == 1e-3
    assert tolerance("openvino", "bf16") == pytest.approx(0.03)
    assert tolerance("other", "bf16") == 1e-3
    assert tolerance("third", "bf16") == 0.1


def test_what_was_not_proven_is_not_taken_by_auto_and_the_log_says_how_to_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # As on a CPU with bf16, so that the test holds on any; what it really computes in comes below.
    monkeypatch.setattr(vision.serving.engines, "precisions", lambda engine, files, device: ("bf16", "f32"))
    files = vision.serving.engines.ModelFiles(onnx=exported(SPEC, tmp_path), graph=graph_spec_of(SPEC))

    with caplog.at_level(logging.INFO, "sortline.engine"):
        for verdicts in ({}, {"openvino/bf16": False}, {"onnxruntime/bf16": True}):
            engine = open_engine(files, engine="openvino", judged=verdicts)
            assert engine.precision == "f32"
            engine.close()

    never, failed, other = caplog.messages
    assert "bf16 was never compared with f32 for this version, SORTLINE_PRECISION=bf16 takes it nevertheless" in never
    assert "bf16 labels too differently from f32, SORTLINE_PRECISION=bf16 takes it nevertheless" in failed
    assert "bf16 was never compared" in other


@pytest.mark.parametrize(
    ("precision", "verdicts", "taken"),
    [
        ("auto", {"openvino/bf16": True}, "fastest"),
        ("auto", {"openvino/bf16": False}, "f32"),
        ("auto", {}, "f32"),
        ("auto", None, "fastest"),
        ("f32", {"openvino/bf16": True}, "f32"),
        ("fastest", {"openvino/bf16": False}, "fastest"),
    ],
)
def test_auto_takes_the_fastest_proven_precision_and_a_setting_is_obeyed(
    tmp_path: Path, precision: str, verdicts: dict[str, bool] | None, taken: str
) -> None:
    fastest = precisions("openvino")[0]
    files = vision.serving.engines.ModelFiles(onnx=exported(SPEC, tmp_path), graph=graph_spec_of(SPEC))

    asked = precision.replace("fastest", fastest)
    engine = open_engine(files, engine="openvino", device="cpu", precision=asked, judged=verdicts)

    assert engine.precision == taken.replace("fastest", fastest)
    engine.close()


def test_validation_images_are_labelled_in_every_precision_of_this_host(tmp_path: Path) -> None:
    images = write_images(tmp_path, 9)
    images[3].path.write_bytes(b"\x89PNG broken")
    files = vision.serving.engines.ModelFiles(onnx=exported(SPEC, tmp_path), graph=graph_spec_of(SPEC))

    with compared_engines(files, engine_names(files, f16=False)) as engines:
        proofs = judge_precisions(engines, images, PREPROCESSING, ImageLimits())
        none = [judge_precisions(engines, few, PREPROCESSING, ImageLimits()) for few in ([], images[3:4])]

    assert none == [{}, {}]
    assert set(proofs) == {f"openvino/{precision}" for precision in precisions("openvino")[:-1]}
    for proof in proofs.values():
        assert proof.images == 8
        assert proof.equal >= 0.75
        assert proof.f32_accuracy < 1  # the network is not trained, its images are noise


def test_what_gpu_workers_serve_is_judged_where_it_is_asked_for(tmp_path: Path) -> None:
    version = published(ModelStore(tmp_path / "store"), write_images(tmp_path, 8), f16=True)

    proof = version.manifest.precisions["onnxruntime/f16"]
    assert (proof.images, proof.passed) == (8, True)
    assert version.manifest.golden is not None
    assert 0 < version.manifest.golden.agreement["onnxruntime/f16"] < 0.01  # it rounds, and not much


def test_a_version_that_knows_the_validation_images_is_judged_as_it_was_before(tmp_path: Path) -> None:
    images = write_images(tmp_path, 32)
    before, after = (graph_of(seeded_network(SPEC, seed)) for seed in (1, 0))

    known, own, judged = (
        published(ModelStore(tmp_path / name), images, f16=True, **given).manifest
        for name, given in (
            ("known", {"graph": before}),
            ("own", {"graph": after}),
            ("judged", {"graph": after, "measured": lambda: before.files}),
        )
    )

    assert judged.precisions == known.precisions != own.precisions
    assert judged.files["serving.onnx"] == own.files["serving.onnx"]


@pytest.mark.parametrize("centers", [(0, 0), (12, 12), (12, 9)])
def test_a_graph_answers_with_exchanged_weights_as_one_that_was_exported_with_them(
    tmp_path: Path, centers: tuple[int, int]
) -> None:
    own, others = (seeded_network(replace(SPEC, rbf_centers=count), seed) for seed, count in enumerate(centers))
    files = graph_of(own).files

    onnx = exchange_weights(files.onnx, get_weights(own), get_weights(others))

    assert onnx is not None
    answers = []
    for model in (replace(files, onnx=onnx), graph_of(others).files):
        with closing(open_on_cpu(model, "onnxruntime/f32")) as engine:
            answers.append(engine.predict(pictures(SPEC, 4)))
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)


def test_weights_that_do_not_lie_in_the_graph_once_are_not_exchanged() -> None:
    own = {"a": np.arange(4, dtype=np.float32)}
    once = own["a"].tobytes()

    found = [exchange_weights(data, own, {"a": np.ones(4, np.float32)}) for data in (b"", once, once + b"." + once)]

    assert found == [None, np.ones(4, np.float32).tobytes(), None]


def test_a_precision_that_can_not_pass_any_more_labels_no_more_images(tmp_path: Path) -> None:
    class Answering:
        graph = GraphSpec(height_px=8, width_px=8, outputs=4, kind=PROBABILITIES)

        def __init__(self, precision: str, answer: int) -> None:
            self.precision, self.answer, self.seen = precision, answer, 0

        def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            self.seen += len(images)
            return np.eye(4, dtype=np.float32)[np.full(len(images), self.answer)]

    answering = [Answering("int8", 1), Answering("bf16", 0), Answering("f32", 0)]
    engines = cast("dict[str, Engine]", {f"openvino/{engine.precision}": engine for engine in answering})

    proofs = judge_precisions(engines, write_images(tmp_path, 2 * READ_AT_ONCE + 1), PREPROCESSING, ImageLimits())

    assert {engine.precision: engine.seen for engine in answering} == {
        "int8": READ_AT_ONCE, "bf16": 2 * READ_AT_ONCE + 1, "f32": 2 * READ_AT_ONCE + 1,
    }  # fmt: skip
    assert {name: (proof.images, proof.passed) for name, proof in proofs.items()} == {
        "openvino/int8": (READ_AT_ONCE, False), "openvino/bf16": (2 * READ_AT_ONCE + 1, True),
    }  # fmt: skip


def test_a_worker_serves_what_the_manifest_proves(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    version = published(
        store,
        write_images(tmp_path, 8),
        details=lambda proofs: Details(files={"page.html": ", ".join(proofs).encode()}),
    )
    reduced = precisions("openvino")[:-1]
    manifest = version.manifest
    assert manifest.golden is not None
    assert set(manifest.golden.agreement) == {"openvino/f32", "onnxruntime/f32"} | {
        f"openvino/{name}" for name in reduced
    }
    assert store.open_file("noise", 1, "page.html").decode() == ", ".join(manifest.precisions)

    served = [precision_of(tmp_path, copy_with(store, manifest.precisions, passed)) for passed in (True, False, None)]

    assert served == [precisions("openvino")[0], "f32", "f32"]


def published(store: ModelStore, validation: list[LabelledImage], **options: Any) -> ModelVersion:
    publication = Publication(
        **{"graph": graph_of(seeded_network(SPEC)), **options},
        preprocessing=PREPROCESSING,
        golden_images=pictures(SPEC, 4),
        classes=[ClassEntry(label=label, folder=label) for label in "abcd"],
        validation=validation,
    )
    return publish(store, "noise", publication)


def exported(spec: NetworkSpec, folder: Path) -> bytes:
    export_onnx(build_served(seeded_network(spec)), folder / "n.onnx")
    return (folder / "n.onnx").read_bytes()


def pictures(spec: NetworkSpec, count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, spec.height_px, spec.width_px, 3), np.uint8)


def write_images(folder: Path, count: int) -> list[LabelledImage]:
    images = []
    for number, pixels in enumerate(pictures(SPEC, count)):
        cv2.imwrite(str(folder / f"{number}.png"), pixels)
        images.append(LabelledImage(folder / f"{number}.png", number % SPEC.classes))
    return images


def copy_with(store: ModelStore, proofs: dict[str, PrecisionProof], passed: bool | None) -> ModelPin:
    """Publish ``noise:1`` again, as if all precisions had passed or failed their gate or, None, never met it."""
    given = store.resolve("noise:1").manifest
    changed = {name: proof.model_copy(update={"passed": passed}) for name, proof in proofs.items()}

    def write(folder: Path) -> ManifestDraft:
        for name in given.files:
            (folder / name).write_bytes(store.open_file("noise", 1, name))
        fields = {field: getattr(given, field) for field in ManifestDraft.model_fields}
        return ManifestDraft(**{**fields, "precisions": {} if passed is None else changed})

    version = store.publish("noise", write)
    return ModelPin(name="noise", version=version.version, digest=version.manifest.digest)


def precision_of(folder: Path, pin: ModelPin) -> str:
    runtime = Runtime(Settings(store=folder / "store", device="cpu"))
    classifier = runtime.classifier(pin)
    classifier.close()
    return classifier.engine.precision
