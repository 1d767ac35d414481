"""Networks: their specs, padding and features against plain numpy, and what a cell returns."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
import pytest
from mindspore import Tensor
from numpy.typing import NDArray
from PIL import Image

from base.networks import NETWORKS
from tests.unit.seeded import seeded_network
from vision.errors import VisionError
from vision.networks.layered import resampling
from vision.networks.lenet5 import LUMA_RGB, LeNet5Spec
from vision.networks.mobilenet_v2 import MobileNetV2Spec
from vision.networks.network import (
    FeatureExtractor,
    Head,
    RbfUnits,
    Scaling,
    ServedNetwork,
    as_array,
    build_network,
    build_served,
)
from vision.networks.registry import network_kinds, own_options, spec_from_json
from vision.networks.spec import NetworkSpec
from vision.networks.weights import get_weights
from vision.serving.engines import ModelFiles, open_engine
from vision.serving.export import export_onnx, graph_spec_of
from vision.training.parts import build_frozen
from vision.training.rbf import choose_rbf_centers, set_rbf_head

mindspore.set_context(mode=mindspore.GRAPH_MODE)

LENET = LeNet5Spec(classes=10, height_px=32, width_px=32)
MOBILENET = MobileNetV2Spec(convention="tf", classes=5, height_px=32, width_px=32)
WIDENED = replace(
    MOBILENET, intermediate_layers=(3, 15), scales=(1.25, 0.5), flip_averaging=True, hellinger=True, width_px=40
)


@pytest.fixture
def step_by_step() -> Iterator[None]:
    """Let MindSpore compute one operation after the other: nothing is compiled, which would take seconds."""
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    yield
    mindspore.set_context(mode=mindspore.GRAPH_MODE)


@pytest.mark.parametrize(
    "spec",
    [
        replace(MOBILENET, convention="torch", pooling="max", head_bias=False, temperature=1.5),
        replace(WIDENED, rbf_centers=300),
        replace(MOBILENET, classes=0, cut=15),
        LENET,
    ],
)
def test_a_spec_survives_json(spec: NetworkSpec) -> None:
    assert spec_from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_intermediate_layers_and_scales_are_kept_in_one_order_and_once() -> None:
    unsorted: dict[str, Any] = {"intermediate_layers": [15, 3, 15], "scales": [0.5, 1, 0.75, 0.5]}

    spec = replace(MOBILENET, **unsorted)

    assert (spec.intermediate_layers, spec.scales) == ((3, 15), (1.0, 0.75, 0.5))
    assert spec == replace(MOBILENET, intermediate_layers=(3, 15), scales=(1.0, 0.75, 0.5))


def test_scaling_follows_the_convention_unless_it_is_given() -> None:
    torch = MobileNetV2Spec(classes=0, height_px=224, width_px=224, convention="torch")
    given = MobileNetV2Spec(
        convention="tf", classes=0, height_px=224, width_px=224, scale=(1 / 128,) * 3, offset=(-1.0,) * 3
    )

    assert np.allclose(MOBILENET.scale, 1 / 127.5)
    assert np.allclose(torch.scale, 1 / 255 / np.array([0.229, 0.224, 0.225]))
    assert np.allclose(torch.offset, -np.array([0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])
    assert given.scale == (1 / 128,) * 3
    assert (torch.batch_norm_epsilon, given.batch_norm_epsilon) == (1e-5, 1e-3)
    assert (torch.features, LENET.features, torch.outputs, LENET.outputs) == (1280, 84, 1280, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "resnet"}, r"name is 'resnet'; it must be one of efficientnet_lite0, .*, lenet5, mobilenet_v2"),
        ({"classes": -1}, r"classes is -1; it must be an integer from 0"),
        ({"classes": True}, r"classes is True"),
        ({"classes": 2.0}, r"classes is 2.0"),
        ({"height_px": 4}, r"height_px is 4; it must be an integer from 8 to 1024"),
        ({"width_px": 1025}, r"width_px is 1025"),
        ({"name": "lenet5"}, r"unknown keys: convention, cut, flip_averaging, hellinger, intermediate_layers"),
        ({"convention": "keras"}, r"convention is 'keras'; it must be one of tf, torch"),
        ({"pooling": ["mean"]}, r"pooling is \['mean'\]"),
        ({"temperature": float("nan")}, r"temperature is nan; it must be a finite number"),
        ({"temperature": 0}, r"temperature is 0; it must be above 0"),
        ({"head_bias": 1}, r"head_bias is 1"),
        ({"scale": [1, 2]}, r"scale is \[1, 2\]; it must be three numbers"),
        ({"scale": [1, 2, float("inf")]}, r"scale is inf; it must be a finite number"),
        ({"scale": [1, 2, 0]}, r"a zero would blank that channel"),
        ({"width": 3}, r"missing keys: none; unknown keys: width"),
        ({"intermediate_layers": [1]}, r"intermediate_layers is 1; it must be an integer from 2 to 17"),
        ({"intermediate_layers": [3, 18]}, r"intermediate_layers is 18; it must be an integer from 2 to 17"),
        ({"intermediate_layers": [3.0]}, r"intermediate_layers is 3.0; it must be an integer"),
        ({"intermediate_layers": 3}, r"intermediate_layers is 3; it must be a list"),
        ({"intermediate_layers": None}, r"intermediate_layers is None; it must be a list"),
        ({"scales": [1, 0]}, r"scales is 0; it must be above 0 and at most 4"),
        ({"scales": [4.5]}, r"scales is 4.5; it must be above 0 and at most 4"),
        ({"scales": [True]}, r"scales is True; it must be a finite number"),
        ({"scales": [float("nan")]}, r"scales is nan; it must be a finite number"),
        ({"scales": []}, r"scales is empty; \[1.0\] is the picture as it comes"),
        ({"scales": 0.5}, r"scales is 0.5; it must be a list"),
        ({"flip_averaging": 1}, r"flip_averaging is 1; it must be true or false"),
        ({"hellinger": "yes"}, r"hellinger is 'yes'; it must be true or false"),
        ({"rbf_centers": -1}, r"rbf_centers is -1; it must be an integer from 0 to 4096"),
        ({"cut": 19, "classes": 0}, r"cut is 19; it must be an integer from 0 to 18"),
        ({"cut": 3}, r"cut is for a backbone without a head"),
        ({"cut": 3, "classes": 0, "intermediate_layers": [5]}, r"intermediate_layers, .* are for whole backbones, not"),
        ({"cut": 3, "classes": 0, "rbf_centers": 5}, r"and rbf_centers are for whole backbones, not"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(VisionError, match=message):
        spec_from_json(MOBILENET.to_json() | change)


def test_every_network_is_called_as_in_the_table_and_has_its_names_in_order() -> None:
    for name, kind in zip(NETWORKS, network_kinds(), strict=True):
        assert kind.name == name
        head = {f"{kind.head_name}.weight", f"{kind.head_name}.bias"}
        for naming in kind.namings().values():
            assert head <= {array.ours for array in naming.arrays}
            assert len({array.foreign for array in naming.arrays}) == len(naming.arrays)
        assert kind.checkpoint_naming in kind.namings()


def test_a_network_has_limits_and_options_of_its_own() -> None:
    with pytest.raises(VisionError, match="height_px is 8; it must be an integer from 16"):
        replace(LENET, height_px=8)
    plain = {"height_px": 32, "pooling": "mean", "intermediate_layers": (), "scales": (1.0,), "hellinger": False}
    assert own_options(LeNet5Spec, plain) == {"height_px": 32}
    assert own_options(MobileNetV2Spec, plain) == plain
    with pytest.raises(VisionError, match="lenet5 has no hellinger and no pooling; leave them out"):
        own_options(LeNet5Spec, {**plain, "pooling": "max", "hellinger": True})


def test_a_spec_with_a_key_left_out_is_refused() -> None:
    value = MOBILENET.to_json()
    del value["scale"]

    with pytest.raises(VisionError, match="missing keys: scale"):
        spec_from_json(value)
    with pytest.raises(VisionError, match="expected a JSON object, got list"):
        spec_from_json([])


@pytest.mark.parametrize("size_px", [8, 9])
@pytest.mark.parametrize("convention", ["tf", "torch"])
def test_stride_2_convolutions_pad_as_their_convention_says(convention: str, size_px: int) -> None:
    network = build_network(replace(MOBILENET, convention=convention))
    convolution = network.backbone.features[0][0].set_train(False)
    image = np.random.default_rng(0).normal(size=(1, 3, size_px, size_px)).astype(np.float32)
    weight = get_weights(network)["features.0.0.weight"]
    # TensorFlow's SAME: as little as the last window needs, an odd rest at bottom and right.
    before = 1 if convention == "torch" or size_px % 2 else 0

    expected = convolve(image, weight, before=before, after=1, stride=2)

    np.testing.assert_allclose(convolution(Tensor(image)).asnumpy(), expected, atol=1e-5)


@pytest.mark.slow
def test_the_conventions_differ_in_stride_2_padding_and_nowhere_else() -> None:
    tf, torch = (build_network(replace(MOBILENET, convention=convention)) for convention in ("tf", "torch"))

    def convolutions(network: Any) -> dict[str, Any]:
        return {name: cell for name, cell in network.cells_and_names() if isinstance(cell, mindspore.nn.Conv2d)}

    strided = {name for name, cell in convolutions(tf).items() if cell.stride[-1] == 2}

    assert len(strided) == 5  # the stem and the depthwise layers of blocks 2, 4, 7 and 14
    impulse = np.zeros((1, 1, 8, 8), np.float32)
    impulse[0, 0, 0, 0] = 1
    for name, cell in convolutions(tf).items():
        if cell.kernel_size[-1] == 1 or cell.weight.shape[0] > 150 or name == "backbone.features.0.0":
            continue
        cell.weight.set_data(convolutions(torch)[name].weight)
        maps = Tensor(np.repeat(impulse, cell.in_channels, axis=1))
        same = np.allclose(cell(maps).asnumpy(), convolutions(torch)[name](maps).asnumpy(), atol=1e-6)
        assert same == (name not in strided), name


def test_mobilenet_has_the_published_number_of_parameters() -> None:
    arrays = get_weights(build_network(replace(MOBILENET, classes=1000)))
    trainable = [array for name, array in arrays.items() if "running" not in name]

    assert sum(array.size for array in trainable) == 3_504_872  # torchvision's mobilenet_v2
    assert len(arrays) == 262


def test_lenet_sees_luma_only() -> None:
    network = build_network(LENET).set_train(False)
    image = np.random.default_rng(1).uniform(size=(1, 3, 32, 32)).astype(np.float32)
    grey = np.repeat(np.tensordot(LUMA_RGB, image, (0, 1)).astype(np.float32)[:, None], 3, axis=1)

    np.testing.assert_allclose(network(Tensor(image)).asnumpy(), network(Tensor(grey)).asnumpy(), atol=1e-6)


def test_lenet_takes_sides_that_differ() -> None:
    spec = replace(LENET, height_px=28, width_px=40)
    served = build_served(build_network(spec))

    assert served(Tensor(np.zeros((2, 28, 40, 3), np.uint8))).shape == (2, 10)


def test_scaling_maps_rgb_channels_by_the_spec() -> None:
    spec = replace(MOBILENET, scale=(1.0, 2.0, 3.0), offset=(0.0, 10.0, 20.0))
    image = np.zeros((1, 2, 2, 3), np.uint8)
    image[0, 0, 1] = (255, 200, 100)

    planes = Scaling(spec)(Tensor(image)).asnumpy()

    assert planes.shape == (1, 3, 2, 2)
    assert planes[0, :, 0, 1].tolist() == [255, 410, 320]
    assert planes[0, :, 1, 0].tolist() == [0, 10, 20]


def test_served_networks_return_probabilities_softened_by_the_temperature() -> None:
    mindspore.set_seed(3)
    network = build_network(LENET)
    images = Tensor(np.random.default_rng(2).integers(0, 256, (3, 32, 32, 3), np.uint8))

    plain = ServedNetwork(network)(images).asnumpy()
    network.spec = replace(LENET, temperature=2.0)
    soft = ServedNetwork(network)(images).asnumpy()

    roots = np.sqrt(plain)
    np.testing.assert_allclose(plain.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(soft, roots / roots.sum(1, keepdims=True), atol=1e-6)


def test_a_network_of_0_classes_serves_features() -> None:
    served = build_served(build_network(replace(LENET, classes=0)))

    assert isinstance(served, FeatureExtractor)
    assert served(Tensor(np.zeros((2, 32, 32, 3), np.uint8))).shape == (2, 84)


def test_the_same_seed_gives_the_same_network() -> None:
    def seeded(seed: int) -> NDArray[np.float32]:
        mindspore.set_seed(seed)
        return get_weights(build_network(LENET))["fc3.weight"]

    assert np.array_equal(seeded(1), seeded(1))
    assert not np.array_equal(seeded(1), seeded(2))


@pytest.mark.usefixtures("step_by_step")
@pytest.mark.parametrize("convention", ["tf", "torch"])
@pytest.mark.parametrize("size", [(32, 40), (33, 47), (8, 9)])
def test_the_spec_knows_the_shape_of_every_map(convention: str, size: tuple[int, int]) -> None:
    spec = MobileNetV2Spec(
        classes=0, height_px=size[0], width_px=size[1], convention=convention, intermediate_layers=(2, 4, 17)
    )
    network = build_network(spec).set_train(False)
    maps = Tensor(np.zeros((1, 3, *size), np.float32))
    for number, layer in enumerate(network.backbone.features.cell_list):
        if number:
            assert maps.shape[1:] == spec.map_before(number), number
        if 2 <= number <= 17:
            assert layer.intermediate(maps).shape[1] == spec.intermediate_channels(number), number
        maps = layer(maps)

    features = network(Tensor(np.zeros((2, 3, *size), np.float32)))
    part = build_frozen(build_network(replace(spec, intermediate_layers=(), classes=3)), "features.5")

    assert features.shape == (2, spec.features) == (2, spec.outputs)
    assert part(Tensor(np.zeros((2, *size, 3), np.uint8))).shape == (2, part.spec.outputs)
    assert part.spec.feature_shape == spec.map_before(5)


@pytest.mark.parametrize(("side_px", "scale"), [(224, 0.75), (47, 0.5), (33, 0.9), (40, 0.31), (31, 1.5)])
def test_pictures_are_scaled_as_pillow_scales_them(side_px: int, scale: float) -> None:
    weights = resampling(side_px, scale, 8)
    picture = np.random.default_rng(0).normal(size=(side_px, side_px)).astype(np.float32)

    expected = Image.fromarray(picture).resize((len(weights), len(weights)), Image.Resampling.BICUBIC)

    assert len(weights) == round(side_px * scale)
    np.testing.assert_allclose(weights @ picture @ weights.T, np.asarray(expected), atol=1e-5)


def test_scale_1_changes_nothing_and_no_picture_gets_smaller_than_a_network_takes() -> None:
    assert np.array_equal(resampling(37, 1.0, 8), np.eye(37))
    assert resampling(20, 0.1, 8).shape == (8, 20)


@pytest.mark.slow
@pytest.mark.usefixtures("step_by_step")
def test_widened_features_are_those_of_plain_networks_put_together() -> None:
    pictures = images(WIDENED, 3)
    planes = pictures.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - 1

    found = FeatureExtractor(seeded_network(WIDENED))(Tensor(pictures)).asnumpy()

    parts = []
    for scaled in (resized(planes, 40, 50), resized(planes, 16, 20)):
        ours, mirrored = pooled_maps(scaled), pooled_maps(scaled[:, :, :, ::-1])
        for one, other in zip(ours, mirrored, strict=True):
            mean = (one + other) / 2
            parts.append(np.sqrt(mean / np.abs(mean).sum(1, keepdims=True)))
            assert np.abs(one - other).max() > 0.1  # numbers that a mistake would change
    assert [part.shape[1] for part in parts] == [
        WIDENED.intermediate_channels(3),
        WIDENED.intermediate_channels(15),
        MobileNetV2Spec.last_channels,
    ] * 2
    np.testing.assert_allclose(found, np.concatenate(parts, axis=1), atol=2e-4)
    np.testing.assert_allclose((found**2).sum(1), 6, rtol=1e-5)
    assert found.shape == (3, WIDENED.features)


@pytest.mark.slow
@pytest.mark.usefixtures("step_by_step")
def test_each_widening_works_alone() -> None:
    pictures = images(WIDENED, 2)
    planes = pictures.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - 1
    plain = replace(WIDENED, intermediate_layers=(), scales=(1.0,), flip_averaging=False, hellinger=False)
    maps, largest = pooled_maps(planes), pooled_maps(planes, largest=True)
    turned = pooled_maps(planes[:, :, :, ::-1], largest=True)

    for spec, expected in (
        (replace(plain, intermediate_layers=(15,)), np.concatenate([maps[1], maps[2]], axis=1)),
        (replace(plain, scales=(0.5,)), pooled_maps(resized(planes, 16, 20))[2]),
        (replace(plain, flip_averaging=True, pooling="max"), (largest[2] + turned[2]) / 2),
        (replace(plain, hellinger=True), np.sqrt(maps[2] / maps[2].sum(1, keepdims=True))),
    ):
        found = FeatureExtractor(seeded_network(spec))(Tensor(pictures)).asnumpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-4)


@pytest.mark.usefixtures("step_by_step")
def test_a_map_of_zeros_has_a_root_of_zeros() -> None:
    backbone = build_network(replace(MOBILENET, hellinger=True)).backbone

    assert backbone.finished(Tensor(np.zeros((2, 1280), np.float32))).asnumpy().max() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(replace(WIDENED, classes=0), marks=pytest.mark.long),
        replace(WIDENED, rbf_centers=4, convention="torch", scales=(0.75,), height_px=35, outlier_distance=0.1),
    ],
    ids=["features", "classifier on RBF units, torch, odd"],
)
def test_widened_networks_answer_equally_on_every_engine_and_in_any_batch(spec: NetworkSpec, tmp_path: Path) -> None:
    network, pictures = seeded_network(spec), images(spec, 6)
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    if spec.rbf_centers:
        features = FeatureExtractor(network)(Tensor(pictures)).asnumpy()
        solved = np.random.default_rng(0).normal(size=(spec.rbf_centers, spec.classes))
        set_rbf_head(network, choose_rbf_centers(features, spec.rbf_centers, 0), solved)
    expected = as_array(build_served(network)(Tensor(pictures)))
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    export_onnx(build_served(network), tmp_path / "network.onnx")
    files = ModelFiles(onnx=(tmp_path / "network.onnx").read_bytes(), graph=graph_spec_of(spec))

    assert expected.shape == (6, files.graph.columns) == (6, spec.outputs + spec.gives_outlier)
    assert expected.std(0).max() > 0.01
    if spec.gives_outlier:
        centers = network.head.rbf.centers.asnumpy().astype(np.float64)
        away = ((features[:, None].astype(np.float64) - centers[None]) ** 2).sum(2)
        np.testing.assert_allclose(expected[:, -1], away.min(axis=1) / spec.outlier_distance, atol=1e-3)
        assert files.graph.parted(expected)[0].sum(axis=1) == pytest.approx(np.ones(6), abs=1e-5)
    for name in ("openvino", "onnxruntime"):
        engine = open_engine(files, engine=name, device="cpu", precision="f32")
        for count in (6, 1, 4):
            np.testing.assert_allclose(engine.predict(pictures[:count]), expected[:count], rtol=1e-3, atol=1e-4)
        engine.close()


@pytest.mark.usefixtures("step_by_step")
@pytest.mark.parametrize("bias", [True, False])
def test_a_head_of_radial_units_follows_its_formula(bias: bool) -> None:
    head = Head(replace(MOBILENET, rbf_centers=7, head_bias=bias))
    centers = set_centers(head.rbf)
    features = centers[np.arange(4)] + np.random.default_rng(1).uniform(0, 0.2, (4, 1280)).astype(np.float32)
    features[0] = centers[0]
    weight = head.dense.weight.asnumpy()

    logits = head(Tensor(features)).asnumpy()

    distances = ((features[:, None].astype(np.float64) - centers[None]) ** 2).sum(2)
    scores = np.exp(-0.02 * distances) @ weight.T
    np.testing.assert_allclose(logits, np.log(np.maximum(scores, 0) + 0.1) + np.minimum(scores, 0), atol=1e-4)
    assert np.exp(-0.02 * distances)[0, 0] == 1
    assert [parameter.name for parameter in head.trainable_params()] == ["dense.weight", "dense.bias"][: 1 + bias]


@pytest.mark.usefixtures("step_by_step")
def test_the_likeness_of_equal_vectors_is_never_above_1() -> None:
    units = RbfUnits(replace(MOBILENET, rbf_centers=7))
    centers = set_centers(units, width=1e6)  # so large that a distance below 0 would overflow

    likeness = units(Tensor(centers)).asnumpy()

    assert np.isfinite(likeness).all()
    assert likeness.max() <= 1


def test_a_part_of_a_network_is_not_built_alone() -> None:
    with pytest.raises(VisionError, match="a network that ends before layer 5 can't be built alone"):
        build_network(replace(MOBILENET, classes=0, cut=5))


@pytest.mark.usefixtures("step_by_step")
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_features_are_pooled_over_the_last_map(pooling: str) -> None:
    backbone = build_network(replace(MOBILENET, pooling=pooling)).set_train(False).backbone
    image = Tensor(np.random.default_rng(5).normal(size=(1, 3, 64, 64)).astype(np.float32))

    maps = backbone.features(image).asnumpy()

    assert maps.shape == (1, 1280, 2, 2)
    expected = maps.max((2, 3)) if pooling == "max" else maps.mean((2, 3))
    np.testing.assert_allclose(backbone(image).asnumpy(), expected, rtol=1e-5, atol=1e-6)


def images(spec: NetworkSpec, count: int) -> NDArray[np.uint8]:
    """Return pictures of ramps and noise, which differ from their mirror images."""
    random = np.random.default_rng(3)
    shape = (count, spec.height_px, spec.width_px, 3)
    ramp = np.linspace(0, 1, spec.width_px)[None, None, :, None] * random.uniform(60, 150, (count, 1, 1, 3))
    return (ramp + random.uniform(0, 100, shape)).astype(np.uint8)


def resized(planes: NDArray[np.float32], height_px: int, width_px: int) -> NDArray[np.float32]:
    """Return (N, C, H, W) in another size, by Pillow."""
    flat = [
        np.asarray(Image.fromarray(plane).resize((width_px, height_px), Image.Resampling.BICUBIC))
        for plane in planes.reshape(-1, *planes.shape[2:])
    ]
    return np.stack(flat).reshape(*planes.shape[:2], height_px, width_px)


def pooled_maps(planes: NDArray[np.float32], *, largest: bool = False) -> list[NDArray[np.float32]]:
    """Return what a plain network's layers give, pooled: the expanded maps of blocks 3 and 15, and the last map."""
    spec = MobileNetV2Spec(convention="tf", classes=5, height_px=planes.shape[2], width_px=planes.shape[3])
    maps = Tensor(np.ascontiguousarray(planes))
    found = []
    for number, layer in enumerate(seeded_network(spec).backbone.features.cell_list):
        if number in (3, 15):
            found.append(layer.conv[0](maps).asnumpy())
        maps = layer(maps)
    found.append(maps.asnumpy())
    return [values.max((2, 3)) if largest else values.mean((2, 3)) for values in found]


def set_centers(units: Any, width: float = 0.02) -> NDArray[np.float32]:
    centers = np.random.default_rng(0).uniform(0, 0.5, units.centers.shape).astype(np.float32)
    units.centers.set_data(Tensor(centers))
    units.width.set_data(Tensor(np.array([width], np.float32)))
    return centers


def convolve(
    image: NDArray[np.float32], weight: NDArray[np.float32], *, before: int, after: int, stride: int
) -> NDArray[np.float64]:
    """Return the convolution of (N, C, H, W) by (O, C, k, k), written out window by window."""
    padded = np.pad(image.astype(np.float64), ((0, 0), (0, 0), (before, after), (before, after)))
    kernel = weight.shape[2]
    steps = range(0, padded.shape[2] - kernel + 1, stride)
    rows = [
        [np.tensordot(padded[:, :, y : y + kernel, x : x + kernel], weight, ((1, 2, 3), (1, 2, 3))) for x in steps]
        for y in steps
    ]
    return np.moveaxis(np.array(rows), (0, 1), (2, 3))
