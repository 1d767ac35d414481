"""Backbones that came as graphs: where they are cut, what they see, how several are joined, a head on them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from configs.recipe import Recipe
from configs.settings import Settings
from jobs.messages import ModelPin
from jobs.train import TrainModel
from model_store import ModelStore
from tests.foreign_graphs import LABELS, MEAN, SIDE, STD, TensorProto, convolving, helper, network, onnx
from tests.unit.seeded import seeded_network
from tests.unit.test_openvino_graphs import INFO, ir
from vision.images import Preprocessing, bicubic_weights
from vision.imported import Description, Part, gather, join, read_graph, serve
from vision.imported.joining import JoinRefused
from vision.imported.running import open_reference
from vision.networks.lenet5 import LeNet5Spec
from vision.serving import FEATURES, PROBABILITIES, GraphSpec, ModelFiles
from worker.errors import JobRefused
from worker.models.__main__ import main
from worker.models.files import SERVING, read_files
from worker.models.publish import Publication, graph_of, publish
from worker.runtime import Runtime
from worker.train.body import Body
from worker.train.job import train_model

FACTS = {"size": SIDE, "resize": 36, "filter": "bilinear", "scale": "1/255", "mean": MEAN, "std": STD, "labels": LABELS}
IMAGES = np.random.default_rng(4).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)


def part(path: Path, **options: Any) -> Part:
    """Return the served form of a graph as a backbone."""
    graph = read_graph(path)
    facts = {
        key: value for key, value in FACTS.items() if graph.dtype != "uint8" or key not in ("scale", "mean", "std")
    }
    served = serve(graph, gather(graph, said=Description().state("test", **facts)))
    return Part(name=path.stem, onnx=served.files.onnx, **options)


def run(graph: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = open_reference(graph).run(None, {"images": images})[0]
    return found


def cells(images: NDArray[Any]) -> NDArray[np.float64]:
    """Return what goes into the linear layer of `network`: mean colours by place."""
    values = (images / 255 - np.array(MEAN)) / np.array(STD)
    return values.reshape(len(images), 4, 8, 4, 8, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2).reshape(len(images), -1)


@pytest.mark.parametrize(
    "options", [{}, {"layout": "NHWC"}, {"ending": "Softmax"}, {"dtype": TensorProto.FLOAT16}, {"opset": 9}]
)
def test_features_are_what_goes_into_the_last_linear_layer(options: dict[str, Any], tmp_path: Path) -> None:
    joined = join([part(network(tmp_path / "a.onnx", **options))], SIDE, SIDE)

    assert joined.widths == (48,)
    assert joined.remarks == ()
    np.testing.assert_allclose(run(joined.onnx, IMAGES), cells(IMAGES), atol=3e-3 if "dtype" in options else 1e-5)


def test_a_graph_of_one_image_at_a_time_stays_one(tmp_path: Path) -> None:
    joined = join([part(network(tmp_path / "a.onnx", batch=1))], SIDE, SIDE)

    assert joined.max_batch == 1
    np.testing.assert_allclose(run(joined.onnx, IMAGES[:1]), cells(IMAGES[:1]), atol=1e-5)


def test_flips_are_averaged_and_roots_have_signs_and_length_1(tmp_path: Path) -> None:
    path = network(tmp_path / "a.onnx")
    averaged = (cells(IMAGES) + cells(IMAGES[:, :, ::-1])) / 2
    roots = np.sign(averaged) * np.sqrt(np.abs(averaged) / np.abs(averaged).sum(axis=1, keepdims=True))

    plain = join([part(path, flip_averaging=True)], SIDE, SIDE)
    rooted = join([part(path, flip_averaging=True, hellinger=True)], SIDE, SIDE)

    np.testing.assert_allclose(run(plain.onnx, IMAGES), averaged, atol=1e-5)
    np.testing.assert_allclose(run(rooted.onnx, IMAGES), roots, atol=1e-4)
    assert (roots < 0).any()


def test_each_scale_is_seen_by_a_graph_that_takes_any_size(tmp_path: Path) -> None:
    path = convolving(tmp_path / "a.onnx")
    joined = join([part(path, scales=(1.0, 1.5))], SIDE, SIDE)
    larger = bicubic_weights(SIDE, 48)
    picture = np.einsum("yh,nhwc,xw->nyxc", larger, IMAGES.astype(np.float32), larger)
    values = ((picture / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2).astype(np.float32)
    expected = open_reference(read_cut(path)).run(None, {"images": values})[0]

    found = run(joined.onnx, IMAGES)

    assert joined.widths == (12,)
    np.testing.assert_allclose(found[:, :6], expected, atol=1e-4)  # the larger one first, as in networks of ours
    assert not np.allclose(found[:, 6:], expected, atol=1e-2)


def read_cut(path: Path) -> bytes:
    """Return the graph of `convolving` up to its features, for images of any size."""
    model = onnx.load(path)
    del model.graph.node[-1], model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("row", TensorProto.FLOAT, None))
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_param = "any"
    return bytes(model.SerializeToString())


def test_a_graph_of_one_size_is_given_it_and_takes_no_scales(tmp_path: Path) -> None:
    path = network(tmp_path / "a.onnx")
    images = np.random.default_rng(4).integers(0, 256, (2, 64, 64, 3), np.uint8)
    smaller = bicubic_weights(64, SIDE)

    joined = join([part(path)], 64, 64)

    assert joined.remarks == ("a takes 32 x 32 alone; images of 64 x 64 are resampled for it",)
    expected = cells(np.einsum("yh,nhwc,xw->nyxc", smaller, images.astype(np.float64), smaller))
    np.testing.assert_allclose(run(joined.onnx, images), expected, atol=1e-4)
    with pytest.raises(JoinRefused, match=r"scales need a graph that takes images of any size; a .*48 x 48"):
        join([part(path, scales=(1.0, 1.5))], SIDE, SIDE)


def test_a_graph_that_fails_on_another_size_is_given_its_own(tmp_path: Path) -> None:
    path = convolving(tmp_path / "a.onnx", positions=True)

    assert join([part(path)], 64, 64).remarks == ("a takes 32 x 32 alone; images of 64 x 64 are resampled for it",)
    with pytest.raises(JoinRefused, match=r"images of any size; a does not run on images of 48 x 48"):
        join([part(path, scales=(1.5,))], SIDE, SIDE)


def test_pixels_of_8_bits_stay_so_when_they_are_resampled(tmp_path: Path) -> None:
    path = network(tmp_path / "a.onnx", dtype=TensorProto.UINT8)
    images = np.random.default_rng(4).integers(0, 256, (2, 64, 64, 3), np.uint8)
    smaller = bicubic_weights(64, SIDE)
    picture = np.einsum("yh,nhwc,xw->nyxc", smaller, images.astype(np.float64), smaller).clip(0, 255).round()

    found = run(join([part(path)], 64, 64).onnx, images)

    means = (
        (picture * float(np.float32(1 / 255)))
        .reshape(2, 4, 8, 4, 8, 3)
        .mean(axis=(2, 4))
        .transpose(0, 3, 1, 2)
        .reshape(2, -1)
    )
    np.testing.assert_allclose(found, means, atol=1e-3)


def test_a_recipe_may_name_the_node_and_maps_are_pooled(tmp_path: Path) -> None:
    path = convolving(tmp_path / "a.onnx")

    found, usual = (run(join([part(path, features_at=name)], SIDE, SIDE).onnx, IMAGES) for name in ("last_map", ""))

    np.testing.assert_allclose(found, usual, atol=1e-5)
    with pytest.raises(JoinRefused, match=r"a has no node 'gone'; its last ones are .*head \(MatMul\)"):
        join([part(path, features_at="gone")], SIDE, SIDE)


def test_backbones_of_other_opsets_are_joined_in_order(tmp_path: Path) -> None:
    first, second = network(tmp_path / "a.onnx", opset=11), convolving(tmp_path / "b.onnx", opset=17)
    alone = [run(join([part(path)], SIDE, SIDE).onnx, IMAGES) for path in (first, second)]

    joined = join([part(first), part(second)], SIDE, SIDE)

    assert joined.widths == (48, 6)
    np.testing.assert_allclose(run(joined.onnx, IMAGES), np.concatenate(alone, axis=1), atol=1e-5)


# A head on them


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Backbones: the graphs cells and ir, and the network lenet; beside the store photos by colour."""
    folder = tmp_path_factory.mktemp("joining")
    (folder / "labels.txt").write_text("\n".join(LABELS), encoding="utf-8")
    made = ModelStore(folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SORTLINE_STORE", str(made.root))
        patch.setattr("resource.setrlimit", lambda *_: None)  # of the process of all tests
        said = ["--preset", "imagenet-torch", "--labels", str(folder / "labels.txt")]
        assert main(["graph", str(network(folder / "a.onnx")), "--name", "cells", *said]) == 0
        assert main(["graph", str(ir(folder, INFO)), "--name", "ir"]) == 0
    lenet = graph_of(seeded_network(LeNet5Spec(classes=0, height_px=SIDE, width_px=SIDE)))
    preprocessing = Preprocessing(height_px=SIDE, width_px=SIDE)
    publish(made, "lenet", Publication(graph=lenet, preprocessing=preprocessing, golden_images=IMAGES))
    random = np.random.default_rng(1)
    for label, colour in (("blue", (40, 60, 200)), ("red", (200, 60, 40))):
        for number in range(12):  # to seeded networks one is like the other, so the sides are given
            path = folder / "photos" / ("val" if number < 4 else "train") / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(random.normal(colour, 60, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path)
    return made


def pin(store: ModelStore, name: str) -> ModelPin:
    return ModelPin(name=name, version=1, digest=store.resolve(f"{name}:1").manifest.digest)


def trained(
    home: Path,
    store: ModelStore,
    recipe: Recipe,
    name: str = "colours",
    *backbones: str,
    dataset: str = "photos",
    said: list[str] | None = None,
) -> str:
    """Train on the photos; return the last message. What is said before goes to ``said``."""
    pins = tuple(pin(store, backbone) for backbone in backbones or [one.name for one in recipe.backbones])
    job = TrainModel(job=f"train-{name}", dataset=dataset, name=name, recipe={}, backbones=pins)
    runtime = Runtime(Settings(home=home, store=store.root, data_root=store.root.parent))
    texts: list[str] = [] if said is None else said
    return train_model(
        job, recipe, runtime, report=lambda event: texts.append(event.text), cancelled=lambda: False
    ).text


@pytest.mark.slow
def test_a_head_on_joined_backbones_is_one_graph_that_labels_and_can_be_a_backbone_again(
    tmp_path: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.train.calibration.FEW", 24)
    recipe = Recipe(backbone=["cells", "lenet"], rbf_centers=8, height_px=SIDE, width_px=SIDE)

    text = trained(tmp_path, store, recipe)

    version = store.resolve("colours")
    assert text.startswith("published colours:1; ")
    assert version.manifest.parents == ["cells:1", "lenet:1"]
    assert version.manifest.network is None
    calibration, photos = version.manifest.training["calibration"], (store.root.parent / "photos").rglob("*.png")
    assert isinstance(calibration, dict)
    assert calibration["images"] == len(list(photos))  # out of fold, not the few that validate
    assert read_files(store, version).graph.kind == PROBABILITIES
    classifier = Runtime(Settings(store=store.root, device="cpu")).classifier(pin(store, "colours"))
    paths = sorted((store.root.parent / "photos").rglob("*.png"))
    stripes = io.BytesIO()
    Image.fromarray(np.tile(np.array([0, 255], np.uint8), (40, 20))).save(stripes, "PNG")
    outcomes, _ = classifier.classify([*(path.read_bytes for path in paths), stripes.getvalue], 1)
    classifier.close()
    decisions, scores = version.manifest.decisions, [outcome.outlier or 0.0 for outcome in outcomes]
    assert decisions is not None
    assert (decisions.images, len(decisions.thresholds["0.95"])) == (24, 2)
    assert max(scores[:-1]) < 1.1 < 2 < scores[-1]
    labels = [entry.label for entry in version.manifest.classes]
    assert [labels[outcome.top[0][0]] for outcome in outcomes[:-1]] == [path.parent.name for path in paths]

    own = Part(name="colours", onnx=store.open_file("colours", 1, SERVING))
    assert join([own], SIDE, SIDE).widths == (8,)  # its RBF units


@pytest.mark.slow
def test_a_head_trained_in_epochs_without_a_validation_folder_is_calibrated_out_of_fold(
    tmp_path: Path, store: ModelStore
) -> None:
    said: list[str] = []
    recipe = Recipe(backbone="cells", epochs=2, batch_size=8, height_px=SIDE, width_px=SIDE)

    trained(tmp_path, store, recipe, "epochs", dataset="photos/train", said=said)

    manifest = store.resolve("epochs:1").manifest
    images: Any = manifest.training["images"]
    calibration: Any = manifest.training["calibration"]
    assert calibration["out_of_fold"] is True
    assert calibration["images"] == images["training"] + images["validation"] == 16
    temperature, error = manifest.scores["temperature"], calibration["ece"]
    assert 0.05 <= temperature <= 20
    line = f"temperature {temperature:.3g} by 16 images, answered out of fold: expected calibration error {error:.1%}"
    assert line in said
    assert any("they may be some ten points off" in text for text in said)
    assert manifest.held_out is not None
    assert sum(manifest.held_out.labels) == 16
    assert manifest.decisions is None


def test_near_duplicates_are_found_by_the_backbone_that_they_were_measured_with() -> None:
    spec = LeNet5Spec(classes=0, height_px=SIDE, width_px=SIDE)
    files = ModelFiles(onnx=b"", graph=GraphSpec(height_px=SIDE, width_px=SIDE, outputs=100, kind=FEATURES))
    features = np.arange(200.0).reshape(2, 100)

    own = Body(files=files, described=[], measured=(10, spec)).likeness

    assert own is not None
    assert np.array_equal(own(features), features[:, 10 : 10 + spec.features])
    assert Body(files=files, described=[], measured=None).likeness is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backbone": "cells", "freeze": "none"},
            "cells:1 came as a graph, whose layers can't be trained, only a head",
        ),
        (
            {"backbone": {"name": "cells", "intermediate_layers": [2]}},
            "cells:1 .*no intermediate_layers; leave that out",
        ),
        ({"backbone": {"name": "cells", "pooling": "max"}}, "cells:1 came as a graph, which has no pooling"),
        (
            {"backbone": {"name": "lenet", "features_at": "x"}},
            "is a network of Sortline's.*leave features_at",
        ),
        (
            {"backbone": ["cells", {"name": "lenet", "scales": [2.0]}]},
            "backbone lenet:1: .*lenet5 has no scales; leave it out",
        ),
        ({"backbone": {"name": "cells", "scales": [1.0, 1.5]}}, "scales need a graph that takes images of any size"),
        (  # what the recipe says for all is left out for a graph
            {"backbone": "cells", "scales": [1.0, 1.5], "pooling": "max", "intermediate_layers": [2]},
            "scales need a graph that takes images of any size",
        ),
        ({"backbone": {"name": "cells", "features_at": "gone"}}, "cells:1 has no node 'gone'"),
        ({"backbone": "ir"}, "ir:1 came in OpenVINO's format.*; import the ONNX file that it was made of"),
        ({"backbone": ["cells", {"name": "ir", "features_at": "x"}]}, "ir:1 came in OpenVINO's format"),
    ],
)
def test_what_a_backbone_can_not_do_is_refused_before_anything_is_read(
    options: dict[str, Any], message: str, tmp_path: Path, store: ModelStore
) -> None:
    with pytest.raises(JobRefused, match=message):
        trained(tmp_path, store, Recipe(network="lenet5", height_px=SIDE, width_px=SIDE, **options), "refused")


@pytest.mark.slow
def test_a_job_of_other_backbones_than_its_recipe_is_refused(tmp_path: Path, store: ModelStore) -> None:
    with pytest.raises(JobRefused, match="the recipe names 1 backbones, and the job 2"):
        trained(tmp_path, store, Recipe(backbone="cells"), "refused", "cells", "lenet")
