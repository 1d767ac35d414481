"""ResNet-18, which came as one file, one line and one recipe: trained, published, labelled with, exported, imported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import mindspore
import numpy as np
import pytest
from mindspore import Tensor
from sklearn.datasets import load_digits

from configs import load_settings
from configs.settings import Settings
from jobs import LabelChunk, TrainModel
from tests.unit.seeded import seeded_network
from vision.networks.layered import LayeredSpec
from vision.networks.network import build_network
from vision.networks.resnet18 import ResNet18Spec
from vision.networks.weights import get_weights, read_foreign
from worker.label.chunk import label_chunk
from worker.models.exporting import export_version
from worker.models.importing import import_file
from worker.runtime import Runtime
from worker.train.job import train_model

mindspore.set_context(mode=mindspore.GRAPH_MODE)

SPEC = ResNet18Spec(classes=3, height_px=33, width_px=48)
RECIPE = load_settings(Path("resnet18-digits"), environment={}).training


def test_it_has_the_published_number_of_parameters_under_torchvision_s_names() -> None:
    arrays = get_weights(build_network(replace(SPEC, classes=1000)))

    assert sum(array.size for name, array in arrays.items() if "running" not in name) == 11_689_512
    assert {array.ours for array in ResNet18Spec.namings()["torchvision and timm"].arrays} == arrays.keys()
    assert {"conv1.weight", "layer2.0.downsample.1.running_var", "layer4.1.bn2.bias", "fc.weight"} < arrays.keys()


def test_its_maps_have_the_sizes_of_table_1() -> None:
    large = replace(SPEC, height_px=224, width_px=224)

    assert [large.map_before(layer)[1:] for layer in (1, 2, 4, 6, 8)] == [(56, 56)] * 2 + [(28, 28), (14, 14), (7, 7)]
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    network = seeded_network(SPEC)
    maps = Tensor(np.random.default_rng(0).normal(size=(1, 3, 33, 48)).astype(np.float32))
    for number, layer in enumerate(network.backbone.features.cell_list):
        if number:
            assert maps.shape[1:] == SPEC.map_before(number)
        maps = layer(maps)
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    assert maps.shape == (1, SPEC.features, 2, 2)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_is_trained_published_labelled_with_exported_and_imported_again(tmp_path: Path) -> None:
    digits = load_digits()
    for label in range(3):
        (tmp_path / "digits" / str(label)).mkdir(parents=True)
        for number in np.flatnonzero(digits.target == label)[:40]:
            cv2.imwrite(str(tmp_path / "digits" / str(label) / f"{number}.png"), np.uint8(digits.images[number] * 15))
    runtime = Runtime(Settings(home=tmp_path / "home", data_root=tmp_path, device="cpu"))
    recipe = RECIPE.model_copy(update={"epochs": 5, "batch_size": 8, "warmup_steps": 5})

    job = TrainModel(job="train-x", dataset="digits", name="small", recipe={})
    trained = train_model(job, recipe, runtime, report=lambda event: None, cancelled=lambda: False)

    assert trained.pin is not None
    paths = tuple(
        f"digits/{label}/{file.name}" for label in range(3) for file in (tmp_path / f"digits/{label}").iterdir()
    )
    chunk = LabelChunk(run="inbox-1", first=0, paths=paths, model=trained.pin, top_k=1)
    rows = label_chunk(chunk, runtime.classifier(trained.pin), tmp_path).rows
    runtime.unload()
    right = [row.top[0][0] == int(path.split("/")[1]) for row, path in zip(rows, paths, strict=True)]
    assert np.mean(right) > 0.9

    for file_format in ("onnx", "safetensors", "ckpt"):
        export_version(runtime.store, "small:1", file_format, tmp_path)
    (tmp_path / "labels.txt").write_text("0\n1\n2\n", encoding="utf-8")
    import_file(runtime.store, tmp_path / "small-1.safetensors", "again", None, tmp_path / "labels.txt")
    first, again = (runtime.store.resolve(name).manifest for name in ("small:1", "again:1"))
    assert (again.network, again.graph) == (first.network, first.graph)
    checkpoint = read_foreign(tmp_path / "small-1.ckpt")
    assert isinstance(checkpoint.spec, LayeredSpec)
    assert (checkpoint.spec.name, checkpoint.spec.classes) == ("resnet18", 3)
