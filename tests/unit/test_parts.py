"""Networks in two parts: both together are the whole, and training changes what it should and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
import pytest
from mindspore import Tensor
from numpy.typing import NDArray

from configs.recipe import Recipe
from tests.conftest import mostly_long
from tests.unit.seeded import seeded_network
from tests.unit.test_train import OPTIONS
from vision.errors import VisionError
from vision.networks.lenet5 import LeNet5Spec
from vision.networks.mobilenet_v2 import MobileNetV2Spec
from vision.networks.network import build_network
from vision.networks.spec import NetworkSpec
from vision.networks.weights import Arrays, get_weights, set_weights
from vision.serving.engines import ModelFiles, open_engine
from vision.serving.export import export_onnx, graph_spec_of
from vision.training.fitting import fit, predict_logits
from vision.training.options import FitOptions
from vision.training.parts import build_frozen, build_trained, cut_of, frozen_spec
from vision.training.samples import Samples

mindspore.set_context(mode=mindspore.GRAPH_MODE)

SPEC = MobileNetV2Spec(convention="tf", classes=3, height_px=32, width_px=40)
LENET = LeNet5Spec(classes=3, height_px=32, width_px=32)
STEP = replace(
    OPTIONS, epochs=1, batch_size=8, optimizer="sgd", lr_schedule="constant", lr_max=1.0, warmup_steps=0, seed=1
)


@pytest.fixture
def step_by_step() -> Iterator[None]:
    """Let MindSpore compute one operation after the other: nothing is compiled, which would take seconds."""
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    yield
    mindspore.set_context(mode=mindspore.GRAPH_MODE)


def pictures(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, SPEC.height_px, SPEC.width_px, 3), np.uint8)


def is_trained(name: str, first: int) -> bool:
    """Whether an array of ours belongs to layer ``first``, a later one, or the head."""
    found = re.match(r"features\.(\d+)\.", name)
    return found is None or int(found[1]) >= first


@pytest.mark.usefixtures("step_by_step")
@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("freeze", ["features.1", "features.8", "features.15", "features.18", "backbone", "none"])
def test_both_parts_together_are_the_whole_network(freeze: str, pooling: str) -> None:
    spec = replace(SPEC, pooling=pooling)
    network, images = seeded_network(spec), Tensor(pictures(2))
    expected = build_trained(seeded_network(spec), "none", batch_norm_frozen=True).set_train(False)(images).asnumpy()

    inputs = images if freeze == "none" else build_frozen(network, freeze)(images)
    logits = build_trained(network, freeze, batch_norm_frozen=True).set_train(False)(inputs).asnumpy()

    assert freeze == "none" or inputs.shape == (2, frozen_spec(spec, freeze).outputs)
    assert expected.std() > 0.01
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.usefixtures("step_by_step")
def test_a_widened_backbone_is_frozen_with_all_that_widens_it() -> None:
    spec = replace(
        SPEC, intermediate_layers=(15,), scales=(1.0, 0.5), flip_averaging=True, hellinger=True, rbf_centers=5
    )
    network, images = seeded_network(spec), Tensor(pictures(2))

    features = build_frozen(network, "backbone")(images)

    assert features.shape == (2, spec.features) == (2, frozen_spec(spec, "backbone").outputs)
    whole = build_trained(network, "none", batch_norm_frozen=True).set_train(False)
    np.testing.assert_allclose(features.asnumpy(), whole.body(images).asnumpy(), atol=1e-5)
    with pytest.raises(VisionError, match=r"intermediate_layers, .* are for whole backbones, not"):
        build_frozen(network, "features.15")


@pytest.mark.usefixtures("step_by_step")
@pytest.mark.parametrize("freeze", ["features.3", "backbone"])
def test_the_frozen_part_holds_copies(freeze: str) -> None:
    network, images = seeded_network(SPEC), Tensor(pictures(1))
    frozen = build_frozen(network, freeze)
    before = frozen(images).asnumpy()

    set_weights(network, get_weights(seeded_network(SPEC, seed=8)))

    assert np.array_equal(frozen(images).asnumpy(), before)
    assert not np.allclose(build_frozen(network, freeze)(images).asnumpy(), before)


def test_the_frozen_part_is_the_same_for_every_head() -> None:
    other = replace(SPEC, classes=9, head_bias=False, temperature=2.0, rbf_centers=7)

    assert frozen_spec(other, "backbone") == frozen_spec(SPEC, "backbone")
    assert frozen_spec(replace(SPEC, pooling="max"), "features.3") == frozen_spec(SPEC, "features.3")
    assert frozen_spec(replace(SPEC, pooling="max"), "backbone") != frozen_spec(SPEC, "backbone")


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        ("backbone", lambda name: name.startswith("classifier")),
        ("features.15", lambda name: is_trained(name, 15)),
        ("none", lambda name: True),
    ],
)
@pytest.mark.parametrize("batch_norm_frozen", [True, False])
def test_what_is_not_frozen_is_trained(freeze: str, expected: Any, batch_norm_frozen: bool) -> None:
    network = build_network(SPEC)
    names = {
        id(parameter): name for name, parameter in zip(get_weights(network), network.get_parameters(), strict=True)
    }

    part = build_trained(network, freeze, batch_norm_frozen=batch_norm_frozen)

    trained = {names[id(parameter)] for parameter in part.trainable_params()}
    assert trained == {name for name in names.values() if expected(name) and "running" not in name}
    held = [parameter.name for parameter in part.get_parameters()]
    assert len(held) == len(set(held))  # checkpoints go by these


def test_a_layer_that_is_not_there_can_not_be_frozen() -> None:
    for freeze in ("features.0", "features.19", "head"):
        with pytest.raises(
            VisionError, match=f"freeze is '{freeze}'; for mobilenet_v2 it .* features.1 to features.18$"
        ):
            build_frozen(build_network(SPEC), freeze)
    with pytest.raises(VisionError, match=r"freeze is 'features.2'; for lenet5 it must be backbone, none$"):
        build_frozen(build_network(LENET), "features.2")


def test_recipes_and_parts_know_the_same_words() -> None:
    words = ["backbone", "none", "", "all", "head", "xbackbone", "backbone\n", "none "]
    words += [
        f"{stem}{number}" for stem, number in product(("features.", "features"), ("", *range(25), "01", "1.conv"))
    ]

    def in_recipe(freeze: str) -> bool:
        try:
            return bool(Recipe(backbone="b", freeze=freeze))
        except ValueError:
            return False

    def in_network(spec: NetworkSpec, freeze: str) -> bool:
        try:
            return cut_of(spec, freeze) >= 0
        except VisionError:
            return False

    known = {word for word in words if in_network(SPEC, word)}
    assert known == {"backbone", "none", *(f"features.{number}" for number in range(1, 19))}
    assert {word for word in words if in_network(LENET, word)} == {"backbone", "none"}
    # A recipe does not know how many layers its network has.
    assert {word for word in words if in_recipe(word)} == known | {f"features.{number}" for number in range(19, 25)}


@pytest.fixture(scope="module")
def maps() -> Samples:
    """Inputs of the trained part from layer 16 on."""
    inputs = build_frozen(seeded_network(SPEC), "features.16")(Tensor(pictures(16))).asnumpy()
    return Samples(inputs=inputs, targets=np.arange(16) % 3)


def trained(maps: Samples, options: FitOptions, *, batch_norm_frozen: bool) -> tuple[Arrays, Any, Any]:
    """Return the weights before training, the network, and its trained part."""
    network = seeded_network(SPEC)
    before = get_weights(network)
    part = build_trained(network, "features.16", batch_norm_frozen=batch_norm_frozen)
    fit(part, maps, maps, 3, options)
    return before, network, part


def changed(before: Arrays, network: Any) -> set[str]:
    after = get_weights(network)
    return {name for name, array in before.items() if not np.array_equal(after[name], array)}


@pytest.mark.slow
def test_frozen_batch_norm_keeps_its_statistics_and_passes_the_right_gradient(maps: Samples) -> None:
    """One step of plain gradient descent; the gradients are compared with differences of the loss."""
    one = Samples(inputs=maps.inputs[:8], targets=maps.targets[:8])

    before, network, _ = trained(one, replace(STEP, lr_max=0.01), batch_norm_frozen=True)

    expected = {name for name in before if is_trained(name, 16) and "running" not in name}
    assert changed(before, network) == expected
    after = get_weights(network)
    for name in ("features.16.conv.1.1.weight", "features.16.conv.1.1.bias", "features.17.conv.0.1.weight"):
        gradient = (before[name] - after[name]) / 0.01
        place = int(np.abs(gradient).argmax())
        difference = slope(before, name, place, one)
        assert gradient[place] == pytest.approx(difference, rel=0.03), name


def slope(weights: Arrays, name: str, place: int, data: Samples) -> float:
    """Return the loss's slope along one weight, from two evaluations in inference mode."""
    losses, step = [], 2e-2
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    for sign in (1, -1):
        moved = {key: array.copy() for key, array in weights.items()}
        moved[name].flat[place] += sign * step
        network = build_network(SPEC)
        set_weights(network, moved)
        part = build_trained(network, "features.16", batch_norm_frozen=True)
        logits = predict_logits(part, data.inputs, 8)
        own = logits[np.arange(len(data)), data.targets]
        losses.append(float((np.log(np.exp(logits).sum(1)) - own).mean()))
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    return (losses[0] - losses[1]) / (2 * step)


@pytest.mark.slow
def test_trained_batch_norm_moves_its_statistics_and_the_frozen_part_stays_as_it_was(maps: Samples) -> None:
    network = seeded_network(SPEC)
    before, frozen = get_weights(network), build_frozen(network, "features.16")
    part = build_trained(network, "features.16", batch_norm_frozen=False)

    fit(part, maps, maps, 3, replace(STEP, lr_max=0.01))

    # A shift that the next batch norm takes out again has no gradient.
    expected = {name for name in before if is_trained(name, 16)} - {"features.16.conv.3.bias"}
    assert changed(before, network) - {"features.16.conv.3.bias"} == expected
    np.testing.assert_array_equal(frozen(Tensor(pictures(16))).asnumpy(), np.asarray(maps.inputs))
    # What is published is the network: both parts must be in it.
    logits = predict_logits(part, maps.inputs, 8)
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    copy = build_network(SPEC)
    set_weights(copy, get_weights(network))
    whole = build_trained(copy, "none", batch_norm_frozen=False).set_train(False)
    np.testing.assert_allclose(whole(Tensor(pictures(16))).asnumpy(), logits, atol=1e-4)
    mindspore.set_context(mode=mindspore.GRAPH_MODE)


@pytest.mark.slow
@pytest.mark.parametrize("freeze", mostly_long(["features.2", "features.17", "features.18", "backbone"], "backbone"))
def test_engines_give_the_frozen_part_s_outputs(freeze: str, tmp_path: Path) -> None:
    spec = MobileNetV2Spec(convention="tf", classes=3, height_px=33, width_px=48)
    frozen = build_frozen(seeded_network(spec), freeze)
    images = np.random.default_rng(0).integers(0, 256, (5, 33, 48, 3), np.uint8)
    export_onnx(frozen, tmp_path / "frozen.onnx")
    files = ModelFiles(onnx=(tmp_path / "frozen.onnx").read_bytes(), graph=graph_spec_of(frozen_spec(spec, freeze)))
    expected = frozen(Tensor(images)).asnumpy()

    for name in ("openvino", "onnxruntime"):
        engine = open_engine(files, engine=name, device="cpu", precision="f32")
        np.testing.assert_allclose(engine.predict(images), expected, rtol=1e-3, atol=1e-3)
        engine.close()
