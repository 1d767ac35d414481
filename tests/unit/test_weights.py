"""Weights: strict loading, our own files, and files of other projects read back to the same network."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mindspore
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.seeded import seeded_network
from vision.errors import WeightsError
from vision.networks.foreign_spec import spec_metadata
from vision.networks.lenet5 import LeNet5Spec
from vision.networks.mobilenet_v2 import MobileNetV2Spec
from vision.networks.network import build_network, build_served
from vision.networks.spec import NetworkSpec
from vision.networks.weights import (
    Arrays,
    backbone_only,
    get_weights,
    read_foreign,
    read_safetensors,
    set_weights,
    to_safetensors,
)
from vision.serving.export import export_checkpoint

mindspore.set_context(mode=mindspore.GRAPH_MODE)

LENET = LeNet5Spec(classes=10, height_px=32, width_px=32)
MOBILENET = MobileNetV2Spec(convention="tf", classes=5, height_px=32, width_px=32)


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return get_weights(seeded_network(MOBILENET))


def test_weights_go_round_through_a_network_and_a_file(tmp_path: Path) -> None:
    written = get_weights(seeded_network(LENET))
    (tmp_path / "weights.safetensors").write_bytes(to_safetensors(written, {"note": "mine"}))

    read, metadata = read_safetensors((tmp_path / "weights.safetensors").read_bytes())
    other = build_network(LENET)
    set_weights(other, read)

    assert metadata["note"] == "mine"
    assert_same(get_weights(other), written)
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]


def test_half_precision_is_widened(arrays: Arrays) -> None:
    network = build_network(MOBILENET)

    set_weights(network, {name: array.astype(np.float16) for name, array in arrays.items()})

    assert_same(get_weights(network), {name: array.astype(np.float16) for name, array in arrays.items()})


def test_every_misfit_is_named_and_nothing_is_changed() -> None:
    network = seeded_network(LENET)
    before = get_weights(network)
    misfit = {name: array + 1 for name, array in before.items()}
    misfit["conv3.weight"] = misfit.pop("conv1.weight")
    misfit["fc1.bias"] = misfit["fc1.bias"][:5]
    misfit["fc2.bias"] = misfit["fc2.bias"].astype(np.float64)

    with pytest.raises(
        WeightsError, match=r"missing: conv1.weight; unexpected: conv3.weight; wrongly shaped: "
    ) as caught:
        set_weights(network, misfit)

    assert "fc1.bias is float32[5], not float32[120], fc2.bias is float64[84]" in str(caught.value)
    assert_same(get_weights(network), before)


def test_weights_that_are_not_finite_are_refused() -> None:
    network = build_network(LENET)
    weights = get_weights(network)
    weights["fc2.weight"][3, 4] = np.nan

    with pytest.raises(WeightsError, match=r"not finite .*: fc2.weight; the training"):
        set_weights(network, weights)


def test_a_missing_head_is_allowed_only_when_asked_for_and_only_whole() -> None:
    network = seeded_network(LENET)
    backbone = backbone_only(get_weights(seeded_network(LENET, seed=8)), LENET)
    head = get_weights(network)["fc3.weight"]

    with pytest.raises(WeightsError, match=r"missing: fc3.bias, fc3.weight"):
        set_weights(network, backbone)
    with pytest.raises(WeightsError, match=r"missing: fc3.bias"):
        set_weights(network, backbone | {"fc3.weight": head}, allow_missing_head=True)
    set_weights(network, backbone, allow_missing_head=True)

    assert_same(get_weights(network), backbone | {"fc3.weight": head, "fc3.bias": get_weights(network)["fc3.bias"]})


def test_a_damaged_safetensors_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(to_safetensors({"a": np.zeros(9, np.float32)}, {}))
    whole = (tmp_path / "a.safetensors").read_bytes()

    for data in (b"", whole[:20], whole[:-1], b"\x80\x04pickle"):
        with pytest.raises(WeightsError, match="not a safetensors file"):
            read_safetensors(data)


# How each project names our arrays, written down from the projects' own files and not from the tables under test.
def torchvision(name: str) -> str:
    return name


def timm(name: str) -> str:
    stages = [(stage, repeat) for stage, repeats in enumerate((1, 2, 3, 4, 3, 3, 1)) for repeat in range(repeats)]
    fixed = {"features.0.0": "conv_stem", "features.0.1": "bn1", "features.18.0": "conv_head", "features.18.1": "bn2"}
    parts = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
    layer, _, array = name.rpartition(".")
    if layer == "classifier.1":
        return f"classifier.{array}"
    if layer in fixed:
        return f"{fixed[layer]}.{array}"
    block, part = place(layer)
    stage, repeat = stages[block]
    first = {"conv_dw": "conv_dw", "bn2": "bn1", "conv_pwl": "conv_pw", "bn3": "bn2"}
    return f"blocks.{stage}.{repeat}.{first[parts[part]] if stage == 0 else parts[part]}.{array}"


def keras(name: str) -> str:
    fixed = {
        "features.0.0": "Conv1",
        "features.0.1": "bn_Conv1",
        "features.18.0": "Conv_1",
        "features.18.1": "Conv_1_bn",
    }
    layer, _, array = name.rpartition(".")
    if layer == "classifier.1":
        return f"predictions/{array.replace('weight', 'kernel')}"
    tf = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    if layer in fixed:
        return f"{fixed[layer]}/{'kernel' if layer.endswith('.0') else tf[array]}"
    block, part = place(layer)
    prefix = f"block_{block}" if block else "expanded_conv"
    cell = ("expand", "expand_BN", "depthwise", "depthwise_BN", "project", "project_BN")[part]
    kernel = "depthwise_kernel" if cell == "depthwise" else "kernel"
    return f"{prefix}_{cell}/{tf[array] if 'BN' in cell else kernel}"


def slim(name: str) -> str:
    path = keras(name).replace("predictions/kernel", "Logits/Conv2d_1c_1x1/weights")
    path = path.replace("predictions/bias", "Logits/Conv2d_1c_1x1/biases")
    path = path.replace("bn_Conv1/", "Conv/BatchNorm/").replace("Conv_1_bn/", "Conv_1/BatchNorm/")
    path = path.replace("Conv1/", "Conv/").replace("block_", "expanded_conv_")
    path = re.sub(r"_(expand|depthwise|project)_BN/", r"/\1/BatchNorm/", path)
    path = re.sub(r"_(expand|depthwise|project)/", r"/\1/", path)
    return "MobilenetV2/" + path.replace("depthwise_kernel", "depthwise_weights").replace("/kernel", "/weights")


def zoo(name: str) -> str:
    layer, _, array = name.rpartition(".")
    if layer == "classifier.1":
        return f"head.head.1.{array}"
    ends = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    part = 0 if layer.startswith(("features.0.", "features.18.")) else place(layer)[1]
    is_norm = layer in ("features.0.1", "features.18.1") or part % 2 == 1
    if part < 4:  # the cells ConvBNReLU, which hold "features"
        layer = re.sub(r"\.(\d)$", r".features.\1", layer)
    return f"backbone.{layer}.{ends[array] if is_norm else array}"


def place(layer: str) -> tuple[int, int]:
    """Return (block from 0, part) of a torchvision layer in a bottleneck; parts are 0 to 5 in the order of the pass."""
    block, inner = re.fullmatch(r"features\.(\d+)\.conv\.(.+)", layer).groups()  # type: ignore[union-attr]
    expand = 0 if block == "1" else 1
    order = ["0.0", "0.1", "1.0", "1.1", "2", "3"] if expand else ["-", "-", "0.0", "0.1", "1", "2"]
    return int(block) - 1, order.index(inner)


def for_tensorflow(name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
    if array.ndim == 2:
        return array.T
    if array.ndim < 4:
        return array
    return array.transpose(2, 3, 0, 1) if array.shape[1:] == (1, 3, 3) else array.transpose(2, 3, 1, 0)


def for_slim(name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
    return array.T[None, None] if array.ndim == 2 else for_tensorflow(name, array)


def for_torch(name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
    return array


Layout = Callable[[str, NDArray[np.float32]], NDArray[np.float32]]


@pytest.mark.parametrize(
    ("naming", "layout", "convention", "note"),
    [
        (torchvision, for_torch, "torch", "names: torchvision"),
        (timm, for_torch, "torch", "names: timm"),
        (keras, for_tensorflow, "tf", "names: Keras"),
        (slim, for_slim, "tf", "names: TF-Slim"),
    ],
)
def test_safetensors_of_other_projects_give_the_same_network(
    arrays: Arrays, tmp_path: Path, naming: Callable[[str], str], layout: Layout, convention: str, note: str
) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(to_safetensors({naming(name): layout(name, array) for name, array in arrays.items()}, {}))

    imported = read_foreign(path)

    assert (imported.spec.to_json()["convention"], imported.spec.classes) == (convention, 5)
    assert note in imported.notes
    assert_same(imported.arrays, arrays)


def test_names_are_those_of_the_projects_files() -> None:
    assert timm("features.1.conv.1.weight") == "blocks.0.0.conv_pw.weight"
    assert timm("features.2.conv.0.0.weight") == "blocks.1.0.conv_pw.weight"
    assert keras("features.2.conv.0.1.weight") == "block_1_expand_BN/gamma"
    assert slim("features.2.conv.1.0.weight") == "MobilenetV2/expanded_conv_1/depthwise/depthwise_weights"
    assert zoo("features.2.conv.0.1.running_var") == "backbone.features.2.conv.0.features.1.moving_variance"
    assert zoo("features.2.conv.3.weight") == "backbone.features.2.conv.3.gamma"


@pytest.mark.parametrize(
    ("stored", "plain"),
    [
        ("Conv1/Conv1/kernel:0", "Conv1/kernel"),
        ("mobilenetv2_1.00_224/block_1_expand_BN/gamma", "block_1_expand_BN/gamma"),
        ("block_3_depthwise/depthwise_kernel:0", "block_3_depthwise/kernel"),
        ("Logits/kernel", "predictions/kernel"),
        ("MobilenetV2/Conv/BatchNorm/gamma", "MobilenetV2/Conv/BatchNorm/gamma"),
        ("network.backbone.features.0.features.0.weight", "features.0.features.0.weight"),
        ("head.head.1.weight", "head.weight"),
        ("head.1.bias", "head.bias"),
        ("head.dense.weight", "head.weight"),
        ("dense.weight", "head.weight"),
        ("classifier.1.weight", "classifier.1.weight"),
    ],
)
def test_what_frameworks_wrap_around_names_is_taken_off(stored: str, plain: str) -> None:
    assert MobileNetV2Spec.plain_name(stored) == plain


@pytest.mark.parametrize("prefix", ["backbone.", ""])
def test_a_mindspore_checkpoint_gives_the_same_network(arrays: Arrays, tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "zoo.ckpt"
    named = {zoo(name).replace("backbone.", prefix): array for name, array in arrays.items()}
    named["moments.features.0.features.0.weight"] = np.zeros(3, np.float32)
    mindspore.save_checkpoint([{"name": n, "data": mindspore.Tensor(a)} for n, a in named.items()], str(path))

    imported = read_foreign(path)

    assert imported.spec.to_json()["convention"] == "torch"
    assert "names: MindSpore model zoo" in imported.notes
    assert any(note.startswith("left out moments.features") for note in imported.notes)
    assert_same(imported.arrays, arrays)


@pytest.mark.slow
@pytest.mark.parametrize("convention", ["tf", "torch"])
def test_a_folded_file_gives_equal_outputs(tmp_path: Path, convention: str) -> None:
    spec = replace(MOBILENET, convention=convention)
    network = seeded_network(spec)
    arrays = get_weights(network)
    (tmp_path / "folded.safetensors").write_bytes(to_safetensors(folded(arrays, spec.batch_norm_epsilon), {}))
    served = build_served(network)
    images = mindspore.Tensor(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8))
    expected = served(images).asnumpy()

    imported = read_foreign(tmp_path / "folded.safetensors", convention=convention)
    set_weights(network, imported.arrays)

    assert imported.notes[0] == "names: torchvision, batch norm folded"
    assert expected.std() > 0.01
    # Folding rounds otherwise in 52 convolutions: 1.1e-5 with AVX-512, less with AVX2.
    np.testing.assert_allclose(served(images).asnumpy(), expected, atol=3e-5)


def test_lenet_is_recognised_with_its_input_size(tmp_path: Path) -> None:
    spec = replace(LENET, height_px=44, width_px=44)
    written = get_weights(seeded_network(spec))
    (tmp_path / "lenet.safetensors").write_bytes(to_safetensors(written, {}))

    imported = read_foreign(tmp_path / "lenet.safetensors")

    assert (imported.spec.name, imported.spec.height_px, imported.spec.classes) == ("lenet5", 44, 10)
    assert_same(imported.arrays, written)


def test_our_own_files_state_their_spec(arrays: Arrays, tmp_path: Path) -> None:
    spec = replace(MOBILENET, pooling="max", temperature=1.5, scale=(1 / 128,) * 3, offset=(-1.0,) * 3)
    (tmp_path / "own.safetensors").write_bytes(to_safetensors(arrays, spec_metadata(spec)))

    assert read_foreign(tmp_path / "own.safetensors").spec == spec
    with pytest.raises(WeightsError, match="trained with convention tf, so it can't be read as torch"):
        read_foreign(tmp_path / "own.safetensors", convention="torch")


WIDENED = replace(
    MOBILENET, intermediate_layers=(3, 15), scales=(1.0, 0.5), flip_averaging=True, hellinger=True, rbf_centers=7
)


@pytest.mark.parametrize(
    "spec",
    [
        WIDENED,
        replace(WIDENED, head_bias=False, intermediate_layers=()),
        replace(WIDENED, rbf_centers=0),
        replace(WIDENED, classes=0),
        replace(WIDENED, classes=0, rbf_centers=0),
    ],
    ids=["RBF units", "no bias, no taps", "linear head", "backbone of RBF units", "backbone"],
)
def test_our_own_files_of_widened_networks_come_back_as_they_were(spec: NetworkSpec, tmp_path: Path) -> None:
    written = get_weights(seeded_network(spec))
    (tmp_path / "own.safetensors").write_bytes(to_safetensors(written, spec_metadata(spec)))

    imported = read_foreign(tmp_path / "own.safetensors")

    assert imported.spec == spec
    assert_same(imported.arrays, written)
    set_weights(build_network(spec), imported.arrays)
    # What a training on another data set takes over from it.
    other = build_network(replace(spec, classes=9, rbf_centers=3))
    set_weights(other, backbone_only(imported.arrays, spec), allow_missing_head=True)
    assert_same(backbone_only(get_weights(other), spec), backbone_only(written, spec))


def test_an_own_file_whose_head_does_not_fit_its_header_is_refused_by_name(tmp_path: Path) -> None:
    path, arrays = tmp_path / "own.safetensors", get_weights(seeded_network(WIDENED))

    def refused(changes: dict[str, NDArray[np.float32] | None], spec: NetworkSpec, message: str) -> None:
        changed = {name: array for name, array in (arrays | changes).items() if array is not None}
        path.write_bytes(to_safetensors(changed, spec_metadata(spec)))
        with pytest.raises(WeightsError, match=message):
            read_foreign(path)

    centers, dense = "rbf.centers", "classifier.1.weight"
    wide = np.zeros((5, 1280), np.float32)
    refused({dense: wide}, WIDENED, r"classifier.1.weight is float32\[5, 1280\], not float32\[5, 7\]")
    refused({centers: wide}, WIDENED, r"centers is float32\[5, 1280\], not float32\[7, 4768\]")
    refused({centers: None}, WIDENED, r"missing: rbf.centers\)")
    refused({"rbf.width": np.ones(2, np.float32)}, WIDENED, r"width is float32\[2\], not float32\[1\]")
    refused(
        {}, replace(WIDENED, rbf_centers=0),
        r"unexpected: rbf.centers, rbf.width; wrongly shaped: "
        r"classifier.1.weight is float32\[5, 7\], not float32\[5, 4768\]",
    )  # fmt: skip
    refused({}, replace(WIDENED, intermediate_layers=()), r"centers is float32\[7, 4768\], not float32\[7, 2560\]")


def test_our_own_checkpoint_of_rbf_units_is_read_back(tmp_path: Path) -> None:
    spec = MobileNetV2Spec(classes=5, height_px=224, width_px=224, convention="torch", rbf_centers=7)
    network = seeded_network(spec)
    export_checkpoint(network, tmp_path / "own.ckpt")

    imported = read_foreign(tmp_path / "own.ckpt")

    assert imported.spec == spec
    assert_same(imported.arrays, get_weights(network))


@pytest.mark.parametrize(
    ("metadata", "convention", "expected", "scale"),
    [
        ({"padding": "TF SAME: 0 top/left", "bn_epsilon": "0.001", "input": "RGB, (x-128)/128"}, None, "tf", 1 / 128),
        ({"padding": "1 on every side", "bn_epsilon": "1e-05", "input": "x/127.5-1"}, None, "torch", 1 / 127.5),
        ({"bn_epsilon": "0.001"}, None, "tf", 1 / 127.5),
        ({}, "tf", "tf", 1 / 127.5),
        ({"padding": "TF SAME"}, "torch", "torch", 1 / 255 / 0.229),
        ({}, None, "torch", 1 / 255 / 0.229),
    ],
)
def test_the_header_and_then_the_names_decide_convention_and_scaling(
    arrays: Arrays,
    tmp_path: Path,
    metadata: dict[str, str],
    convention: str | None,
    expected: str,
    scale: float,
) -> None:
    (tmp_path / "a.safetensors").write_bytes(to_safetensors(backbone_only(arrays, MOBILENET), metadata))

    spec = read_foreign(tmp_path / "a.safetensors", convention=convention).spec

    assert (spec.to_json()["convention"], spec.classes) == (expected, 0)
    assert spec.scale[0] == pytest.approx(scale)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"padding": "TF SAME", "bn_epsilon": "1e-05"}, "of no one convention"),
        ({"bn_epsilon": "0.01"}, "of no one convention"),
        ({"input": "x/200"}, "unknown input scaling 'x/200' in its header"),
        ({"network_spec": "{}"}, "its header holds no valid network spec: network spec: missing keys"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(
    arrays: Arrays, tmp_path: Path, metadata: dict[str, str], message: str
) -> None:
    (tmp_path / "a.safetensors").write_bytes(to_safetensors(arrays, metadata))

    with pytest.raises(WeightsError, match=message):
        read_foreign(tmp_path / "a.safetensors")


def test_a_wrong_file_is_refused_with_every_key_that_does_not_fit(arrays: Arrays, tmp_path: Path) -> None:
    named = {timm(name): array for name, array in arrays.items()}
    named["blocks.9.0.conv_pw.weight"] = named.pop("blocks.6.0.conv_pw.weight")
    named["conv_stem.weight"] = named["conv_stem.weight"][:16]
    del named["bn1.bias"]
    (tmp_path / "a.safetensors").write_bytes(to_safetensors(named, {}))

    with pytest.raises(WeightsError) as caught:
        read_foreign(tmp_path / "a.safetensors")

    assert "missing: blocks.6.0.conv_pw.weight, bn1.bias; unexpected: blocks.9.0.conv_pw.weight; " in str(caught.value)
    assert "conv_stem.weight is float32[16, 3, 3, 3], not float32[32, 3, 3, 3]" in str(caught.value)


def test_files_of_no_known_project_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(to_safetensors({"block7.weight": np.zeros(3, np.float32)}, {}))
    (tmp_path / "a.ckpt").write_bytes(b"no checkpoint")

    with pytest.raises(WeightsError, match=r"names of no known project \(it has block7.weight\)"):
        read_foreign(tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"a.ckpt: not a MindSpore checkpoint"):
        read_foreign(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.pth", "may run code when unpickled; convert it with safetensors.torch.save_file"),
        ("a.pkl", "may run code when unpickled"),
        ("a.h5", "reading HDF5 is not built in"),
        ("a.tar", "convert its arrays with safetensors.numpy.save_file"),
    ],
)
def test_other_kinds_of_files_are_refused_unread(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(
        WeightsError, match=rf"{name}: only .safetensors and MindSpore .ckpt files are read; .*{reason}"
    ):
        read_foreign(tmp_path / name)


def folded(arrays: Arrays, epsilon: float) -> Arrays:
    """Return the arrays with each batch norm folded into the convolution before it, under the names of such files."""
    found = {name: array for name, array in arrays.items() if name.startswith("classifier")}
    for name, array in arrays.items():
        if array.ndim == 4:
            layer, _, last = name.removesuffix(".weight").rpartition(".")
            norm = f"{layer}.{int(last) + 1}"
            gain = arrays[f"{norm}.weight"] / np.sqrt(arrays[f"{norm}.running_var"] + np.float32(epsilon))
            found[name] = array * gain[:, None, None, None]
            found[name.replace("weight", "bias")] = arrays[f"{norm}.bias"] - arrays[f"{norm}.running_mean"] * gain
    return found


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name], array), name
