"""Exports: each format read by its own library answers as published; a wrong one is refused and leaves nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import mindspore
import numpy as np
import onnxruntime
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from model_store.errors import ChecksumError, ModelNotFound
from model_store.manifest import ClassEntry
from model_store.store import ModelStore, ModelVersion
from producer.__main__ import run
from producer.commands.models import ExportFormat
from producer.errors import FAILURE, OK, USAGE
from tests.conftest import mostly_long
from tests.unit.seeded import seeded_network
from vision.errors import EngineError, WeightsError
from vision.images.preprocess import Preprocessing
from vision.networks.lenet5 import LeNet5Spec
from vision.networks.mobilenet_v2 import MobileNetV2Spec
from vision.networks.network import build_network, build_served
from vision.networks.registry import spec_from_json
from vision.networks.spec import NetworkSpec
from vision.networks.weights import backbone_only, get_weights, read_foreign, set_weights
from vision.serving.engines.openvino import import_openvino
from worker.models.exporting import FORMATS, ExportRefused, export_version
from worker.models.importing import import_file
from worker.models.publish import Publication, graph_of, publish

mindspore.set_context(mode=mindspore.GRAPH_MODE)

ROOT = Path(__file__).resolve().parents[2]
LABELS = ("plastic bottle", "Glasflasche, grün", "易拉罐", 'a "quoted" \\ one')
SPECS = {
    "lenet": LeNet5Spec(classes=4, height_px=32, width_px=32, temperature=1.7),
    "mobilenet": MobileNetV2Spec(convention="tf", classes=4, height_px=32, width_px=40, temperature=0.6),
    "features": MobileNetV2Spec(classes=0, height_px=32, width_px=32, convention="torch"),
}
Images = NDArray[np.uint8]
Outputs = NDArray[np.float32]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """``lenet:1`` in production, and ``lenet:2`` with other weights."""
    store = ModelStore(tmp_path_factory.mktemp("exporting") / "store")
    publish_seeded(store, "lenet", seed=7)
    publish_seeded(store, "lenet", seed=8)
    return store


@pytest.fixture(scope="module")
def full_store(store: ModelStore) -> ModelStore:
    """The same with ``mobilenet:1`` and ``features:1``, which take MindSpore seconds to compile."""
    publish_seeded(store, "mobilenet", seed=7)
    publish_seeded(store, "features", seed=7)
    return store


def publish_seeded(store: ModelStore, name: str, seed: int) -> None:
    publish_as(store, name, seeded_network(SPECS[name], seed))


def publish_as(store: ModelStore, name: str, network: Any) -> None:
    spec = network.spec
    size = spec.height_px, spec.width_px
    publication = Publication(
        graph=graph_of(network),
        preprocessing=Preprocessing(height_px=spec.height_px, width_px=spec.width_px, fit="pad"),
        golden_images=np.random.default_rng(0).integers(0, 256, (5, *size, 3), dtype=np.uint8),
        classes=[ClassEntry(label=label, folder=label) for label in LABELS[: spec.classes]],
    )
    version = publish(store, name, publication)
    if version.version == 1:
        store.set_alias(name, "production", 1, who="tests", why="the first")


def golden(store: ModelStore, name: str) -> tuple[Images, Outputs]:
    with np.load(store.resolve(name).folder / "golden.npz", allow_pickle=False) as arrays:
        return arrays["images"], arrays["outputs"]


# Each library on its own, as somebody without Sortline would use it.
def by_onnx_runtime(path: Path, spec: NetworkSpec, images: Images) -> Outputs:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["outputs"], {"images": images})[0]


def by_openvino(path: Path, spec: NetworkSpec, images: Images) -> Outputs:
    core = import_openvino().Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled({"images": images})["outputs"])


def by_mindir(path: Path, spec: NetworkSpec, images: Images) -> Outputs:
    network = mindspore.nn.GraphCell(mindspore.load(str(path)))
    return network(mindspore.Tensor(images)).asnumpy()


def by_safetensors(path: Path, spec: NetworkSpec, images: Images) -> Outputs:
    network = build_network(spec)
    set_weights(network, safetensors.numpy.load_file(path))
    return build_served(network)(mindspore.Tensor(images)).asnumpy()


def by_checkpoint(path: Path, spec: NetworkSpec, images: Images) -> Outputs:
    """Names by hand: MindSpore's cells put "features" between a block and its convolution or batch norm."""
    network, head = build_network(spec), "head" if spec.name == "mobilenet_v2" else "fc3"
    stored = {name: parameter.asnumpy() for name, parameter in mindspore.load_checkpoint(str(path)).items()}
    for name, parameter in network.parameters_and_names():
        inner = re.sub(r"^head\.\w+", head, name.removeprefix("backbone."))
        block, _, rest = inner.rpartition(".")
        layer, _, place = block.rpartition(".")
        parts = layer.split(".")
        nested = (len(parts) == 2 and parts[0] == "features") or (len(parts) == 4 and parts[2] == "conv")
        parameter.set_data(mindspore.Tensor(stored.pop(f"{layer}.features.{place}.{rest}" if nested else inner)))
    assert stored == {}
    return build_served(network)(mindspore.Tensor(images)).asnumpy()


READERS: dict[str, Callable[[Path, NetworkSpec, Images], Outputs]] = {
    "onnx": by_onnx_runtime,
    "openvino": by_openvino,
    "mindir": by_mindir,
    "ckpt": by_checkpoint,
    "safetensors": by_safetensors,
}


# Each format once more for MobileNetV2, which takes MindSpore seconds to compile, as a classifier or as a backbone.
LARGE = [("mindir", "mobilenet"), ("openvino", "mobilenet"), ("ckpt", "mobilenet")]
LARGE += [("onnx", "features"), ("safetensors", "features")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file_format", "name"),
    [*((known, "lenet") for known in READERS), *(pytest.param(*pair, marks=pytest.mark.long) for pair in LARGE)],
)
def test_an_export_read_by_plain_library_code_answers_as_published(
    name: str, file_format: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    full_store = request.getfixturevalue("store" if name == "lenet" else "full_store")
    images, expected = golden(full_store, name)

    said = export_version(full_store, name, file_format, tmp_path)

    path = tmp_path / f"{name}-1{FORMATS[file_format].suffix}"
    outputs = READERS[file_format](path, SPECS[name], images)
    assert outputs.dtype == np.float32
    assert expected.std() > 0.01
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-4)
    files = {path.name, f"{name}-1.json"} | ({f"{name}-1.bin"} if file_format == "openvino" else set())
    assert {file.name for file in tmp_path.iterdir()} == files
    assert f"{name}:1 as {file_format}: {path}" in said
    assert "5 golden images: difference " in said


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["onnx", "openvino", "mindir"])
def test_an_exported_graph_takes_any_number_of_images(store: ModelStore, file_format: str, tmp_path: Path) -> None:
    images, expected = golden(store, "lenet")
    path = tmp_path / f"any{FORMATS[file_format].suffix}"

    export_version(store, "lenet", file_format, path)

    for count in (1, 3):
        outputs = READERS[file_format](path, SPECS["lenet"], images[:count])
        np.testing.assert_allclose(outputs, expected[:count], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", mostly_long(["lenet", "mobilenet", "features"], "lenet"))
def test_exported_safetensors_become_the_same_version_again(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    full_store = request.getfixturevalue("store" if name == "lenet" else "full_store")
    export_version(full_store, name, "safetensors", tmp_path / "mine.safetensors")
    labels = labels_file(tmp_path) if name != "features" else None

    import_file(full_store, tmp_path / "mine.safetensors", f"again-{name}", None, labels)

    first, again = full_store.resolve(name), full_store.resolve(f"again-{name}")
    assert_same_weights(first, again)
    assert again.manifest.network == first.manifest.network
    assert [entry.label for entry in again.manifest.classes] == [entry.label for entry in first.manifest.classes]
    assert again.manifest.preprocessing["fit"] == ("stretch" if name == "lenet" else "crop")  # says the network's file


@pytest.mark.slow
@pytest.mark.parametrize("name", mostly_long(["lenet", "mobilenet"], "lenet"))
def test_an_exported_checkpoint_is_imported_with_its_convention_and_labels(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    full_store = request.getfixturevalue("store" if name == "lenet" else "full_store")
    export_version(full_store, name, "ckpt", tmp_path / "mine.ckpt")
    about = json.loads((tmp_path / "mine.json").read_text(encoding="utf-8"))

    import_file(
        full_store, tmp_path / "mine.ckpt", f"ckpt-{name}", about["network"].get("convention"), labels_file(tmp_path)
    )

    first, again = full_store.resolve(name), full_store.resolve(f"ckpt-{name}")
    assert_same_weights(first, again)
    known, found = first.manifest.network or {}, again.manifest.network or {}
    assert found.get("convention") == known.get("convention")
    assert found["temperature"] == 1.0  # a checkpoint has no place for it, as the docs say


@pytest.mark.long
def test_a_widened_classifier_on_rbf_units_is_exported_and_becomes_a_widened_backbone_again(
    store: ModelStore, tmp_path: Path
) -> None:
    spec = MobileNetV2Spec(
        convention="tf",
        classes=4,
        height_px=32,
        width_px=32,
        intermediate_layers=(15,),
        scales=(0.75,),
        hellinger=True,
        rbf_centers=5,
        outlier_distance=0.1,
    )
    network = seeded_network(spec)
    arrays = get_weights(network)
    near = (
        np.random.default_rng(0).uniform(0, 0.04, (5, spec.features)).astype(np.float32)
    )  # as large as Hellinger features
    set_weights(network, arrays | {"rbf.centers": near})
    publish_as(store, "rbf", network)

    export_version(store, "rbf", "safetensors", tmp_path / "mine.safetensors")
    export_version(store, "rbf", "ckpt", tmp_path / "mine.ckpt")
    export_version(store, "rbf", "onnx", tmp_path / "mine.onnx")
    described = json.loads((tmp_path / "mine.json").read_text())["graph"]
    assert (described["output"]["shape"], described["outlier"]["name"]) == ([None, 4], "outlier")
    import_file(store, tmp_path / "mine.safetensors", "widened", None, None)

    again = read_foreign(tmp_path / "mine.safetensors")
    assert again.spec == spec
    assert np.array_equal(again.arrays["rbf.centers"], near)
    backbone = store.resolve("widened")
    known = read_foreign(backbone.folder / "weights.safetensors")
    assert known.spec == spec_from_json(backbone.manifest.network) == replace(spec, classes=0)
    for name, array in backbone_only(arrays, spec).items():
        assert np.array_equal(known.arrays[name], array), name
    # A checkpoint has no place for intermediate layers, so it can't become a network again.
    with pytest.raises(WeightsError, match=r"rbf.centers is float32\[5, 2240\], not float32\[5, 1280\]"):
        read_foreign(tmp_path / "mine.ckpt")


@pytest.mark.parametrize(
    ("file_format", "runner"),
    [("onnx", ""), ("openvino", "")]
    + [pytest.param(name, "MindSpore answers ", marks=pytest.mark.slow) for name in ("mindir", "ckpt", "safetensors")],
)
def test_a_file_of_another_version_is_refused_and_leaves_nothing(
    store: ModelStore, file_format: str, runner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap_weights(monkeypatch)

    refused = rf"lenet:1 as .*{runner}.* a difference of .* \(allowed: 0.001\); nothing was written"
    with pytest.raises(EngineError, match=refused):
        export_version(store, "lenet", file_format, tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_refused_export_leaves_the_old_files_as_they_were(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_version(store, "lenet", "openvino", tmp_path)
    before = contents(tmp_path)
    swap_weights(monkeypatch)

    with pytest.raises(EngineError, match="nothing was written"):
        export_version(store, "lenet", "openvino", tmp_path, force=True)

    assert contents(tmp_path) == before


@pytest.mark.long
def test_an_export_with_other_outputs_is_refused(
    full_store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ModelStore.open_file

    def graph_of_the_backbone(self: ModelStore, name: str, version: int, file: str) -> bytes:
        return real(self, "features" if file == "serving.onnx" else name, version, file)

    monkeypatch.setattr(ModelStore, "open_file", graph_of_the_backbone)

    with pytest.raises(EngineError, match=r"with \(5, 1280\), published is \(5, 4\); nothing was written"):
        export_version(full_store, "lenet", "openvino", tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_version_whose_files_were_changed_is_not_exported(store: ModelStore, tmp_path: Path) -> None:
    damaged = ModelStore(tmp_path / "store")
    subprocess.run(["cp", "-r", str(store.root), str(damaged.root)], check=True)
    path = damaged.resolve("lenet").folder / "serving.onnx"
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    (tmp_path / "out").mkdir()

    with pytest.raises(ChecksumError, match=r"serving.onnx is not what was published"):
        export_version(damaged, "lenet", "onnx", tmp_path / "out")

    assert list((tmp_path / "out").iterdir()) == []


def test_an_existing_file_is_replaced_only_by_force(store: ModelStore, tmp_path: Path) -> None:
    target = tmp_path / "lenet-1.onnx"
    target.write_text("mine")

    with pytest.raises(ExportRefused, match=r"lenet-1.onnx exists; pass --force to replace it"):
        export_version(store, "lenet", "onnx", tmp_path)
    assert contents(tmp_path) == {"lenet-1.onnx": b"mine"}

    export_version(store, "lenet", "onnx", tmp_path, force=True)
    assert target.read_bytes() == store.open_file("lenet", 1, "serving.onnx")


@pytest.mark.parametrize("taken", ["net.json", "net.bin"])
def test_what_lies_beside_the_file_is_not_overwritten_either(store: ModelStore, taken: str, tmp_path: Path) -> None:
    (tmp_path / taken).write_text("mine")

    with pytest.raises(ExportRefused, match=rf"{taken} exists; pass --force"):
        export_version(store, "lenet", "openvino", tmp_path / "net.xml")

    assert contents(tmp_path) == {taken: b"mine"}


def test_two_formats_of_one_version_share_their_description(store: ModelStore, tmp_path: Path) -> None:
    export_version(store, "lenet", "onnx", tmp_path)
    export_version(store, "lenet", "openvino", tmp_path)
    assert set(contents(tmp_path)) == {"lenet-1.onnx", "lenet-1.xml", "lenet-1.bin", "lenet-1.json"}

    with pytest.raises(ExportRefused, match=r"lenet-1.json exists; pass --force"):
        export_version(store, "lenet:2", "onnx", tmp_path / "lenet-1.onnx")


def test_the_description_holds_what_somebody_else_needs(store: ModelStore, tmp_path: Path) -> None:
    export_version(store, "lenet", "onnx", tmp_path / "net.onnx")

    text = (tmp_path / "net.json").read_text(encoding="utf-8")
    about = json.loads(text)
    manifest = store.resolve("lenet").manifest
    assert about["labels"] == list(LABELS)
    assert "易拉罐" in text  # readable, not \u6613
    assert (about["model"], about["digest"]) == ("lenet:1", manifest.digest)
    assert about["preprocessing"].pop("steps").startswith("turn upright by the EXIF orientation; scale the whole image")
    assert about["preprocessing"] == manifest.preprocessing
    given, made = about["graph"]["input"], about["graph"]["output"]
    assert (given["name"], given["shape"], given["dtype"], given["colours"]) == (
        "images",
        [None, 32, 32, 3],
        "uint8",
        "RGB",
    )
    assert (made["name"], made["shape"], made["temperature"]) == ("outputs", [None, 4], 1.7)
    assert about["network"] == manifest.network


@pytest.mark.long
def test_a_backbones_description_speaks_of_features(full_store: ModelStore, tmp_path: Path) -> None:
    export_version(full_store, "features", "onnx", tmp_path / "net.onnx")

    about = json.loads((tmp_path / "net.json").read_text(encoding="utf-8"))
    assert (about["kind"], about["labels"]) == ("backbone", [])
    assert about["graph"]["output"] == {
        "name": "outputs",
        "shape": [None, 1280],
        "dtype": "float32",
        "meaning": "features to train on, no probabilities",
    }
    assert about["weights"]["padding"] == "1 on every side of a 3x3 convolution"


@pytest.mark.slow
@pytest.mark.parametrize("file_format", mostly_long(READERS, "onnx", "openvino", "safetensors"))
def test_paths_may_hold_spaces_and_any_letters(store: ModelStore, file_format: str, tmp_path: Path) -> None:
    folder = tmp_path / "zwei Wörter 模型"
    folder.mkdir()
    path = folder / f"größe v1.0{FORMATS[file_format].suffix}"
    images, expected = golden(store, "lenet")

    export_version(store, "lenet", file_format, path)

    np.testing.assert_allclose(READERS[file_format](path, SPECS["lenet"], images), expected, rtol=0, atol=1e-4)
    assert (folder / "größe v1.0.json").exists()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("net.bin", r"--output net.bin: a file of format openvino ends in .xml"),
        ("nowhere/net.xml", r"--output: no such folder: .*nowhere; make it first"),
    ],
)
def test_an_output_that_can_not_be_is_refused(store: ModelStore, output: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match=message):
        export_version(store, "lenet", "openvino", tmp_path / output)

    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_not_replaced_by_force(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "net.json").mkdir()

    with pytest.raises(ExportRefused, match=r"net.json is a folder; pass another --output"):
        export_version(store, "lenet", "onnx", tmp_path / "net.onnx", force=True)


def test_an_unknown_version_is_named_with_those_there_are(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"model lenet has no version 9 \(it has 1, 2\)"):
        export_version(store, "lenet:9", "onnx", tmp_path)


def test_the_command_and_the_worker_know_the_same_formats() -> None:
    assert set(get_args(ExportFormat)) == FORMATS.keys() == READERS.keys()


def test_an_unknown_format_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "export", "lenet", "--format", "pickle"]) == USAGE

    assert "'pickle' is not one of 'onnx', 'mindir', 'ckpt'" in " ".join(
        capsys.readouterr().err.replace("│", "").split()
    )


@pytest.mark.slow
def test_graphs_are_exported_where_only_openvino_is_installed(store: ModelStore, tmp_path: Path) -> None:
    program = (
        "import sys\nsys.modules.update(mindspore=None, onnxruntime=None)\nfrom worker.models.__main__ import main\n"
        "print([main(['export', 'lenet', '--format', name, '--output', sys.argv[1]]) for name in sys.argv[2:]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), "onnx", "openvino", "mindir", "ckpt", "safetensors"],
        env=environment(tmp_path, store), cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip

    assert done.stdout.splitlines()[-1] == "[0, 0, 1, 1, 1]"
    assert "proven with openvino on 5 golden images" in done.stdout
    assert done.stderr.splitlines() == [
        f'sortline: the format {name} needs MindSpore here: {sys.executable} -m pip install "sortline[train]"'
        for name in ("mindir", "ckpt", "safetensors")
    ]
    assert set(contents(tmp_path)) == {"lenet-1.onnx", "lenet-1.xml", "lenet-1.bin", "lenet-1.json"}


@pytest.mark.slow
def test_the_command_writes_into_the_current_folder_and_ends_with_the_usual_codes(
    store: ModelStore, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "producer", "models", "export", *arguments],
            env={**environment(tmp_path / "home", store), "PYTHONPATH": str(ROOT)},
            cwd=here, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    first, again, forced, unknown = (
        command("lenet@production", "--format", "onnx"),
        command("lenet:1", "--format", "onnx"),
        command("lenet:1", "--format", "onnx", "--force"),
        command("cats", "--format", "onnx"),
    )

    assert (first.returncode, again.returncode, forced.returncode, unknown.returncode) == (OK, USAGE, OK, FAILURE)
    assert first.stdout.startswith(
        f"lenet:1 as onnx: {here / 'lenet-1.onnx'}\n  beside it: lenet-1.json\n  proven with "
    )
    assert (
        again.stderr == f"sortline: {here / 'lenet-1.onnx'} exists; pass --force to replace it, or another --output\n"
    )
    assert unknown.stderr.startswith("sortline: no model 'cats' in ")
    assert first.stderr == forced.stderr == ""
    assert set(contents(here)) == {"lenet-1.onnx", "lenet-1.json"}


def swap_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the store give ``lenet:1`` the network of ``lenet:2``, as an exporter that mixes up weights would."""
    real = ModelStore.open_file

    def open_file(self: ModelStore, name: str, version: int, file: str) -> bytes:
        return real(self, name, version if file == "golden.npz" else 2, file)

    monkeypatch.setattr(ModelStore, "open_file", open_file)


def assert_same_weights(first: ModelVersion, again: ModelVersion) -> None:
    one, other = (safetensors.numpy.load_file(version.folder / "weights.safetensors") for version in (first, again))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[key], other[key]) for key in one)


def labels_file(folder: Path) -> Path:
    path = folder / "labels.txt"
    path.write_text("\n".join(LABELS), encoding="utf-8")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def environment(home: Path, store: ModelStore) -> dict[str, Any]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SORTLINE_")}
    return {**clean, "SORTLINE_HOME": str(home), "SORTLINE_STORE": str(store.root), "NO_COLOR": "1"}
