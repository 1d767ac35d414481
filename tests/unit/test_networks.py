"""Networks: their specs, both padding conventions against plain numpy, and what a cell returns."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vision.errors import VisionError
from vision.networks.spec import NetworkSpec

mindspore = pytest.importorskip("mindspore")

from mindspore import Tensor  # noqa: E402

from vision.networks.lenet5 import LUMA_RGB  # noqa: E402
from vision.networks.served import FeatureExtractor, Scaling, ServedNetwork, build_network, build_served  # noqa: E402
from vision.weights import get_weights  # noqa: E402

mindspore.set_context(mode=mindspore.GRAPH_MODE)

LENET = NetworkSpec(name="lenet5", classes=10, height_px=32, width_px=32)
MOBILENET = NetworkSpec(name="mobilenet_v2", classes=5, height_px=32, width_px=32)


def test_a_spec_survives_json() -> None:
    spec = replace(MOBILENET, convention="torch", pooling="max", dropout=0.2, head_bias=False, temperature=1.5)

    assert NetworkSpec.from_json(spec.to_json()) == spec


def test_scaling_follows_the_convention_unless_it_is_given() -> None:
    torch = NetworkSpec(name="mobilenet_v2", classes=0, height_px=224, width_px=224, convention="torch")
    given = NetworkSpec(
        name="mobilenet_v2", classes=0, height_px=224, width_px=224, scale=(1 / 128,) * 3, offset=(-1.0,) * 3
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
        ({"name": "resnet"}, r"name is 'resnet'; it must be one of lenet5, mobilenet_v2"),
        ({"classes": -1}, r"classes is -1; it must be an integer from 0"),
        ({"classes": True}, r"classes is True"),
        ({"classes": 2.0}, r"classes is 2.0"),
        ({"height_px": 4}, r"height_px is 4; it must be an integer from 8 to 1024"),
        ({"width_px": 1025}, r"width_px is 1025"),
        ({"name": "lenet5", "height_px": 8}, r"height_px is 8; it must be an integer from 16"),
        ({"convention": "keras"}, r"convention is 'keras'; it must be one of tf, torch"),
        ({"pooling": ["mean"]}, r"pooling is \['mean'\]"),
        ({"dropout": 1.0}, r"dropout is 1.0; it must be at least 0 and below 1"),
        ({"temperature": float("nan")}, r"temperature is nan; it must be a finite number"),
        ({"temperature": 0}, r"temperature is 0; it must be above 0"),
        ({"head_bias": 1}, r"head_bias is 1"),
        ({"scale": [1, 2]}, r"scale is \[1, 2\]; it must be three numbers"),
        ({"scale": [1, 2, float("inf")]}, r"scale is inf; it must be a finite number"),
        ({"scale": [1, 2, 0]}, r"a zero would blank that channel"),
        ({"width": 3}, r"missing keys: none; unknown keys: width"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(VisionError, match=message):
        NetworkSpec.from_json(MOBILENET.to_json() | change)


def test_a_spec_with_a_key_left_out_is_refused() -> None:
    value = MOBILENET.to_json()
    del value["scale"]

    with pytest.raises(VisionError, match="missing keys: scale"):
        NetworkSpec.from_json(value)
    with pytest.raises(VisionError, match="expected a JSON object, got list"):
        NetworkSpec.from_json([])


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


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_features_are_pooled_over_the_last_map(pooling: str) -> None:
    backbone = build_network(replace(MOBILENET, pooling=pooling)).set_train(False).backbone
    image = Tensor(np.random.default_rng(5).normal(size=(1, 3, 64, 64)).astype(np.float32))

    maps = backbone.features(image).asnumpy()

    assert maps.shape == (1, 1280, 2, 2)
    expected = maps.max((2, 3)) if pooling == "max" else maps.mean((2, 3))
    np.testing.assert_allclose(backbone(image).asnumpy(), expected, rtol=1e-5, atol=1e-6)


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
