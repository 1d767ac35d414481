"""Classifiers of other frameworks: what their files say, what is asked for, the proof by samples, what is refused."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model_store import ModelStore
from tests.conftest import environment, sortline
from tests.foreign_graphs import (
    LABELS,
    MEAN,
    SIDE,
    STD,
    TensorProto,
    answers,
    convolving,
    helper,
    network,
    onnx,
    photos,
)
from tests.unit.test_quantise import bits_of
from vision.errors import VisionError
from vision.images import Preprocessing, load_image
from vision.images.resize import Resize, resized_as
from vision.imported import Description, ImportRefused, gather, read_graph, read_labels, read_samples, serve
from vision.imported import graph as graphs
from vision.imported.graph import layout_of
from vision.imported.sources import (
    folder,
    hugging_face_labels,
    hugging_face_pixels,
    preset,
    standard,
    timm,
    ultralytics,
)
from vision.serving import import_openvino, open_engine, precisions
from worker.models.__main__ import main
from worker.models.files import read_files

SAID = ["--preset", "imagenet-torch"]
FACTS = {"size": SIDE, "resize": 36, "filter": "bilinear", "scale": "1/255", "mean": MEAN, "std": STD, "labels": LABELS}


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LABELS), encoding="utf-8")
    return path


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    monkeypatch.setenv("SORTLINE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)  # of the process of all tests
    return ModelStore(tmp_path / "store")


def samples(path: Path, paths: list[Path], rows: NDArray[np.float64], *, whole: bool = True) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *LABELS] if whole else ["path", "label", "confidence"])
        for image, row in zip(paths, rows, strict=True):
            writer.writerow([image, *row] if whole else [image, LABELS[int(row.argmax())], row.max()])
    return path


def import_(path: Path, *more: object) -> int:
    return main(["graph", str(path), "--name", "foreign", *map(str, more)])


def description(**facts: object) -> Description:
    return Description().state("test", **{**FACTS, **facts})


# Resizing


@pytest.mark.parametrize("name", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_an_image_is_resized_and_cut_as_pillow_does_it(name: str) -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        height, width, short = (int(number) for number in random.integers(33, 400, 3))
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        target = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
        whole = np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling[name.upper()]))
        left, top = round((target[0] - SIDE) / 2), round((target[1] - SIDE) / 2)
        expected = whole[top : top + SIDE, left : left + SIDE]
        found = resized_as(pixels, Resize(filter=name, short_px=short), SIDE, SIDE)  # type: ignore[arg-type]
        assert np.array_equal(found, expected)


TORCH = {  # sha256 of what torchvision 0.28.0 with torch 2.13.0 makes of `ripples`, by its filter, antialiased
    "torch-nearest": "a22da8af0d7af906a14d1b4fb00e2896b38a9049208a5ed1bc58b0c8c0847f68",
    "torch-bilinear": "eb2c0eada99e3b8dede6b519e57fb8deb3613bb872114fa7027a2a365acfe907",
    "torch-bicubic": "7fe91ad9b52f089a3dd611677218dc1f619702ec4a067b0387d17c250a43a8c8",
    "torch-lanczos": "99a98cf4c67189147aa5fd020aece800386473541c4d1d27422e7b8648a15d50",
}


def ripples(height: int, width: int) -> NDArray[np.uint8]:
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    return ((x * x * (c + 2) + y * y * 7 + x * y * 3) % 256).astype(np.uint8)


@pytest.mark.parametrize("name", TORCH)
def test_an_image_is_resized_as_torch_does_it_to_the_bit(name: Any) -> None:
    found = hashlib.sha256()
    for old, height, width in (((97, 130), 64, 86), ((30, 41), 64, 87), ((211, 50), 270, 64), ((64, 300), 64, 40)):
        whole = resized_as(ripples(*old), Resize(filter=name, height_px=height, width_px=width), height, width)
        found.update(whole.tobytes())
        part = resized_as(ripples(*old), Resize(filter=name, height_px=height, width_px=width), 32, 32)
        top, left = round((height - 32) / 2), round((width - 32) / 2)
        assert np.array_equal(part, whole[top : top + 32, left : left + 32])
    assert found.hexdigest() == TORCH[name]


def test_half_a_pixel_goes_where_the_library_puts_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (35, 35, 3), np.uint8)
    rounded = resized_as(pixels, Resize(filter="bilinear", short_px=35), SIDE, SIDE)
    floored = resized_as(pixels, Resize(filter="bilinear", short_px=35, cut_at="floor"), SIDE, SIDE)
    assert np.array_equal(rounded, pixels[2:34, 2:34])
    assert np.array_equal(floored, pixels[1:33, 1:33])


def test_an_image_smaller_than_the_network_lies_on_black() -> None:
    found = resized_as(np.full((10, 10, 3), 255, np.uint8), Resize(filter="bilinear", short_px=10), 16, 16)
    assert found[3:13, 3:13].min() == 255
    assert found.sum() == 255 * 300


@pytest.mark.parametrize(
    ("fit", "size", "side", "inner", "corner"),
    [
        ("pad", (60, 30), 32, (32, 16), (0, 8)),
        ("pad", (30, 61), 32, (16, 32), (8, 0)),
        ("pad", (30, 64), 32, (15, 32), (8, 0)),
        # As Model API 0.4.7 rounds: 16.5 to the even 16, and in float32 7.5000005 to 8.
        ("pad", (64, 33), 32, (32, 16), (0, 8)),
        ("pad", (22, 88), 30, (8, 30), (11, 0)),
        ("pad", (900, 1), 32, (32, 1), (0, 15)),
        ("pad-corner", (60, 30), 32, (32, 16), (0, 0)),
    ],
)
def test_a_whole_image_lies_in_its_letterbox(
    fit: Any, size: tuple[int, int], side: int, inner: tuple[int, int], corner: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), np.uint8)
    expected = Image.new("RGB", (side, side), (114, 114, 114))
    expected.paste(Image.fromarray(pixels).resize(inner, Image.Resampling.BILINEAR), corner)
    how = Resize(filter="bilinear", height_px=side, width_px=side, fit=fit, padding=114)
    assert np.array_equal(resized_as(pixels, how, side, side), np.asarray(expected))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fit": "fill"}, "fit"),
        ({"filter": "smooth"}, "filter"),
        ({"cut_at": "ceil"}, "cut_at"),
        ({"padding": 256}, "padding"),
        ({"height_px": 0}, "height_px"),
        ({"width_px": None}, "it must name short_px, or height_px and width_px"),
    ],
)
def test_a_record_of_a_resize_that_can_not_be_is_refused(change: dict[str, Any], message: str) -> None:
    record = asdict(Resize(filter="bilinear", height_px=SIDE, width_px=SIDE))
    with pytest.raises(VisionError, match=message):
        Resize.from_json(record | change)


def test_the_largest_centred_part_is_cut_before_it_is_resized() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 91, 3), np.uint8)
    expected = Image.fromarray(pixels[:, 25:65]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    how = Resize(filter="bicubic", height_px=SIDE, width_px=SIDE, fit="crop")
    assert np.array_equal(resized_as(pixels, how, SIDE, SIDE), np.asarray(expected))
    narrow = Resize(filter="bicubic", height_px=SIDE, width_px=SIDE // 4, fit="crop")
    line = np.full((2, 40, 3), 9, np.uint8)  # of which a quarter of two pixels is still a pixel
    assert np.array_equal(resized_as(line, narrow, SIDE, SIDE // 4), np.full((SIDE, SIDE // 4, 3), 9))


def test_a_letterbox_needs_both_sides() -> None:
    with pytest.raises(VisionError, match='fit "pad" needs height_px and width_px'):
        Resize(filter="bilinear", short_px=32, fit="pad")
    with pytest.raises(ImportRefused, match="fit=pad needs two sides"):
        description(fit="pad").check_complete()
    with pytest.raises(ImportRefused, match="padding is '300': it must be a whole number"):
        description(padding="300")
    found = description(fit="pad", resize="32x32", padding="114").resize()
    assert (found.fit, found.padding) == ("pad", 114)


@pytest.mark.parametrize("name", ["bicubic", "torch-nearest", "torch-bicubic", "opencv-linear", "openvino-linear"])
@pytest.mark.parametrize("how", [{"short_px": 256}, {"height_px": 256, "width_px": 256}])
@pytest.mark.parametrize("shape", [(1, 1_000_000), (1_000_000, 1), (1_000_000, 9)])
def test_an_image_of_a_million_columns_takes_little_memory(
    name: Any, how: dict[str, Any], shape: tuple[int, int]
) -> None:
    tracemalloc.start()
    try:
        found = resized_as(np.full((*shape, 3), 7, np.uint8), Resize(filter=name, **how), 224, 224)
        assert tracemalloc.get_traced_memory()[1] < 600e6
    finally:
        tracemalloc.stop()
    assert found.shape == (224, 224, 3)
    assert found.min() == found.max() == 7


def test_preprocessing_with_a_resize_survives_json_and_decodes_jpegs_whole(tmp_path: Path) -> None:
    how = Preprocessing(height_px=SIDE, width_px=SIDE, resize=Resize(filter="bicubic", height_px=40, width_px=44))
    assert Preprocessing.from_json(json.loads(json.dumps(how.to_json()))) == how

    photo = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (640, 480, 3), np.uint8)).save(photo, quality=90)
    with Image.open(photo) as opened:
        whole = np.asarray(opened.convert("RGB").resize((44, 40), Image.Resampling.BICUBIC))
    assert np.abs(whole[4:36, 6:38].astype(int) - load_image(photo, how).pixels).max() <= 1


# What graphs are served, and how


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({}, {}),
        ({"layout": "NHWC"}, {}),
        ({"batch": 1}, {}),
        ({"ending": "Softmax"}, {}),
        ({"side": "S"}, {"size": SIDE}),
        ({"side": "S", "channels": "C"}, {"size": SIDE, "layout": "NCHW"}),
        ({"side": "S", "channels": "C", "layout": "NHWC"}, {"size": SIDE}),  # the graph turns them
        ({"opset": 9, "ending": "Softmax"}, {}),
    ],
    ids=str,
)
def test_a_graph_answers_as_its_framework_does(
    made: dict[str, Any], said: dict[str, object], tmp_path: Path, labels: Path, store: ModelStore
) -> None:
    path, paths = network(tmp_path / "model.onnx", **made), photos(tmp_path / "photos")
    expected = answers(paths)
    options = [text for name, value in said.items() for text in ("--preprocess", f"{name}={value}")]
    check = samples(tmp_path / "samples.csv", paths, expected)
    assert import_(path, *SAID, *options, "--labels", labels, "--check", check) == 0

    version = store.resolve("foreign")
    assert version.manifest.network is None
    assert [entry.label for entry in version.manifest.classes] == LABELS
    preprocessing = Preprocessing.from_json(version.manifest.preprocessing)
    pixels = np.stack([load_image(photo, preprocessing).pixels for photo in paths])
    for name in ("openvino", "onnxruntime"):
        engine = open_engine(read_files(store, version), engine=name, device="cpu", precision="f32")
        assert np.abs(engine.predict(pixels) - expected).max() < 1e-5
        engine.close()


@pytest.mark.slow
def test_a_graph_is_imported_without_mindspore(tmp_path: Path, labels: Path) -> None:
    path = network(tmp_path / "model.onnx")
    code = "import sys; sys.modules['mindspore'] = None; from worker.models.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "graph", str(path), "--name", "foreign", *SAID, "--labels", str(labels)]
    subprocess.run(command, env=environment(tmp_path), check=True, timeout=120)


def test_16_bit_inputs_bgr_and_pictures_that_scale_themselves(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    cells = pixels.reshape(3, 4, 8, 4, 8, 3).mean(axis=(2, 4)) / 255
    for dtype, facts, order in (
        (TensorProto.FLOAT16, description(mean=0, std=1), [0, 1, 2]),
        (TensorProto.FLOAT, description(mean=0, std=1, colours="BGR"), [2, 1, 0]),
    ):
        graph = read_graph(network(tmp_path / "m.onnx", dtype=dtype))
        served = serve(graph, facts.state("graph", layout="NCHW"))
        found, expected = run(served.files.onnx, pixels), expected_of(graph, cells[..., order])
        assert np.abs(found - expected).max() < (5e-3 if dtype == TensorProto.FLOAT16 else 1e-5)
    graph = read_graph(network(tmp_path / "m.onnx", dtype=TensorProto.UINT8))
    facts = gather(
        graph, said=Description().state("user", resize=36, filter="bilinear"), labels=str(tmp_labels(tmp_path))
    )
    assert np.abs(run(serve(graph, facts).files.onnx, pixels) - expected_of(graph, cells)).max() < 1e-5


def test_one_of_several_outputs_is_used_and_named(tmp_path: Path) -> None:
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("row", "logits")]
    facts = description()
    served = serve(read_graph(network(tmp_path / "m.onnx", outputs=given)), facts.state("graph", layout="NCHW"))
    assert served.reference.output == "logits"
    assert any("logits is used of row (1 x 48), logits (1 x 4)" in line for line in facts.lines())


def test_an_output_with_sides_of_one_is_flattened(tmp_path: Path) -> None:
    def more(last: str) -> list[Any]:
        axes = helper.make_node("Constant", [], ["axes"], value_ints=[2, 3])
        return [axes, helper.make_node("Unsqueeze", [last, "axes"], ["wide"])]

    facts = description().state("graph", layout="NCHW")
    served = serve(read_graph(network(tmp_path / "m.onnx", more=more)), facts)
    assert run(served.files.onnx, np.zeros((2, SIDE, SIDE, 3), np.uint8)).shape == (2, 4)


def test_a_graph_with_a_batch_of_one_inside_is_run_one_by_one(tmp_path: Path) -> None:
    facts = description().state("graph", layout="NCHW")
    served = serve(read_graph(network(tmp_path / "m.onnx", batch=1)), facts)
    assert served.files.graph.max_batch == 1
    assert any("one image at a time" in line for line in facts.lines())
    served = serve(read_graph(network(tmp_path / "m.onnx")), description().state("graph", layout="NCHW"))
    assert served.files.graph.max_batch == 0


# The proof by samples: each of the usual mistakes is refused, and named


@pytest.mark.parametrize(
    ("truth", "cause"),
    [
        ({"bgr": True}, "colours=BGR"),
        ({"scale": 1 / 127.5, "mean": 1.0, "std": 1.0}, "scale=1/127.5 mean=1 std=1"),
        ({"mean": 0.0, "std": 1.0}, "scale=1/255 mean=0 std=1"),
        ({"short": SIDE}, f"resize={SIDE}"),
        ({"short": None, "size": (SIDE, SIDE)}, f"resize={SIDE}x{SIDE}"),
        ({"resample": Image.Resampling.NEAREST}, "filter=nearest"),
        ({"resample": Image.Resampling.BICUBIC}, "filter=bicubic"),
        ({"mean": 0.0, "std": 1.0, "short": SIDE}, f"scale=1/255 mean=0 std=1 and resize={SIDE}"),
    ],
    ids=str,
)
def test_samples_of_another_pipeline_are_refused_with_the_likeliest_mistake(
    truth: dict[str, Any],
    cause: str,
    tmp_path: Path,
    labels: Path,
    store: ModelStore,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, paths = network(tmp_path / "model.onnx"), photos(tmp_path / "photos")
    check = samples(tmp_path / "samples.csv", paths, answers(paths, **truth))
    assert import_(path, *SAID, "--labels", labels, "--check", check) == 1
    message = capsys.readouterr().err
    assert "the samples are answered differently" in message
    assert f"likeliest cause: with --preprocess {cause}, 12 of 12 labels equal" in message
    assert not (store.root / "foreign").exists()


def test_labels_shifted_by_one_are_named(tmp_path: Path, labels: Path, store: ModelStore, capsys: Any) -> None:
    path, paths = network(tmp_path / "model.onnx"), photos(tmp_path / "photos")
    check = samples(tmp_path / "samples.csv", paths, np.roll(answers(paths), 1, axis=1), whole=False)
    assert import_(path, *SAID, "--labels", labels, "--check", check) == 1
    assert "the labels are shifted by one" in capsys.readouterr().err


def test_softmax_twice_is_named(tmp_path: Path, labels: Path, store: ModelStore, capsys: Any) -> None:
    path, paths = network(tmp_path / "model.onnx", ending="Softmax"), photos(tmp_path / "photos")
    check = samples(tmp_path / "samples.csv", paths, answers(paths, softmaxes=2))
    assert import_(path, *SAID, "--labels", labels, "--check", check) == 1
    assert "likeliest cause: with --preprocess outputs=logits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.png,glass\n", "needs columns path, label and confidence"),
        ("path,label,confidence\n", "has 0 samples"),
        ("path,label,confidence\na.png,stone,0.5\n", "line 2: 'stone' is no label"),
        ("path,label,confidence\na.png,glass,many\n", "line 2"),
        ("path,label,confidence\na.png,glass,nan\n", "not finite"),
        ("path,label,confidence\nmissing.png,glass,0.5\n", "missing.png can't be read"),
    ],
)
def test_samples_that_make_no_sense_are_refused(
    text: str, message: str, tmp_path: Path, labels: Path, store: ModelStore, capsys: Any
) -> None:
    (tmp_path / "samples.csv").write_text(text)
    path = network(tmp_path / "model.onnx")
    assert import_(path, *SAID, "--labels", labels, "--check", tmp_path / "samples.csv") == 1
    assert message in capsys.readouterr().err


# Facts: where they come from, and what is asked for


def test_what_no_file_says_is_asked_for_by_name(tmp_path: Path, labels: Path, store: ModelStore, capsys: Any) -> None:
    path = network(tmp_path / "model.onnx")
    assert import_(path) == 1
    message = capsys.readouterr().err
    for name in ("labels", "resize", "filter", "scale", "mean", "std"):
        assert f"\n  {name}: " in message
    assert "\n  size: " not in message  # the graph says it
    (tmp_path / "facts.toml").write_text('resize = 36\nfilter = "bilinear"\nscale = 0.00392156862745098\nmean = 0.5\n')
    assert import_(path, "--labels", labels, "--preprocess", tmp_path / "facts.toml", "--preprocess", "std=0.5") == 0
    lines = capsys.readouterr().out
    assert "resize: short side 36 (facts.toml)" in lines
    assert "std: 0.5, 0.5, 0.5 (--preprocess)" in lines
    assert "outputs: logits (the graph ends in Gemm and was run)" in lines


def test_a_graph_that_leaves_all_sides_open_shows_its_layout_or_is_asked_for_it(
    tmp_path: Path, labels: Path, store: ModelStore, capsys: Any
) -> None:
    path = convolving(tmp_path / "model.onnx", open=True)
    assert read_graph(path).layout == "NCHW"
    assert import_(path, *SAID, "--preprocess", f"size={SIDE}", "--labels", labels) == 0
    assert "layout: NCHW (the graph)" in capsys.readouterr().out

    path = network(tmp_path / "other.onnx", side="S", channels="C")
    assert import_(path, *SAID, "--preprocess", f"size={SIDE}", "--labels", labels) == 1
    assert "layout: order of the sides of what the graph takes: NCHW" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sides", "seen", "expected"),
    [
        ([0, 3, 0, 0], None, ("NCHW", None)),
        ([1, 30, 40, 3], "NCHW", ("NHWC", (30, 40))),
        ([0, 0, 30, 40], None, ("NCHW", (30, 40))),
        ([0, 30, 40, -1], None, ("NHWC", (30, 40))),
        ([0, 0, 30, 0], "NCHW", ("NCHW", None)),
        ([0, 0, 30, 0], None, (None, None)),
        ([1, 3, 3, 3], "NHWC", ("NHWC", (3, 3))),
        ([1, 3, 3, 3], None, (None, None)),
    ],
)
def test_sides_show_the_layout(sides: list[int], seen: str | None, expected: Any) -> None:
    assert layout_of(sides, "m.onnx", seen) == expected


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("colour=RGB", "'colour' is unknown; there are labels, size"),
        ("filter=smooth", "filter is 'smooth': it must be one of"),
        ("std=0", "nothing can be divided by 0"),
        ("resize=stretch", "a side in pixels, such as 256"),
        ("scale=1/0", "a number, such as 0.5 or 1/255"),
        ("mean=grey", "a number, such as 0.5 or 1/255"),
        ("padding=nan", "a whole number from 0 to 255"),
        ("mean=1,2", "one number, or three"),
        ("resize=0", "sides are from 1 to"),
        ("resize=9999999", "sides are from 1 to"),
        ("size=64", "the graph takes (32, 32)"),
        ("layout=NHWC", "the graph takes NCHW"),
        ("outputs=probabilities", "do not add up to 1; they are logits"),
        ("output=other", "the graph has no output 'other'"),
    ],
)
def test_a_fact_that_can_t_be_right_is_refused(
    said: str, message: str, tmp_path: Path, labels: Path, store: ModelStore, capsys: Any
) -> None:
    path = network(tmp_path / "model.onnx")
    assert import_(path, *SAID, "--labels", labels, "--preprocess", said) == 1
    assert message in capsys.readouterr().err


def test_logits_stated_of_probabilities_are_refused(
    tmp_path: Path, labels: Path, store: ModelStore, capsys: Any
) -> None:
    path = network(tmp_path / "model.onnx", ending="Softmax")
    assert import_(path, *SAID, "--labels", labels, "--preprocess", "outputs=logits") == 1
    assert "softmax would be applied twice" in capsys.readouterr().err


def test_sigmoid_outputs_are_refused(tmp_path: Path, labels: Path, store: ModelStore, capsys: Any) -> None:
    path = network(tmp_path / "model.onnx", ending="Sigmoid")
    assert import_(path, *SAID, "--labels", labels) == 1
    assert "several labels, which is not supported" in capsys.readouterr().err


HF_VIT = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({}, {"size": (224, 224), "resize": (224, 224), "filter": "bilinear", "mean": (0.5, 0.5, 0.5)}),
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
            {"size": (224, 224), "resize": 256, "cut_at": "floor"},
        ),
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224},
            {"size": (224, 224), "resize": 256},
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.875},
            {"size": (224, 224), "resize": 256},
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
            {"size": (384, 384), "resize": (384, 384)},
        ),
        ({"do_normalize": False}, {"mean": (0, 0, 0), "std": (1, 1, 1)}),
        ({"do_rescale": False}, {"scale": 1.0}),
        ({"rescale_factor": 1 / 127.5}, {"scale": 1 / 127.5}),
        ({"resample": 3}, {"filter": "bicubic"}),
    ],
    ids=str,
)
def test_a_hugging_face_processor_is_read(changes: dict[str, Any], facts: dict[str, Any]) -> None:
    found = hugging_face_pixels({**HF_VIT, **changes})
    assert {name: found.get(name) for name in facts} == facts


@pytest.mark.parametrize(
    "changes", [{"do_resize": False}, {"resample": 9}, {"size": {"max_height": 3, "max_width": 3}}, {"size": "large"}]
)
def test_a_processor_that_is_not_supported_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ImportRefused, match=r"preprocessor_config\.json"):
        hugging_face_pixels({**HF_VIT, **changes})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["ViTForMaskedImageModeling"]}, "only networks for image classification"),
        ({"problem_type": "multi_label_classification"}, "several labels an image"),
        ({"id2label": {"0": "a", "2": "b"}}, "not numbered from 0 to 1"),
        ({"id2label": {"0": "a", "1": 5, "x": "b"}}, "no numbered names"),
    ],
)
def test_configs_that_are_no_classifier_s_are_refused(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ImportRefused, match=message):
        folder(tmp_path)


def test_fast_processors_resize_by_torch(tmp_path: Path) -> None:
    def read(kind: str, release: str, **changes: Any) -> tuple[Any, Any]:
        (tmp_path / "config.json").write_text(json.dumps({"transformers_version": release}))
        config = {**HF_VIT, "image_processor_type": kind, **changes}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
        found = folder(tmp_path)
        return found.get("filter"), found.get("cut_at")

    assert read("ViTImageProcessor", "4.57.1") == ("bilinear", "floor")
    assert read("ViTImageProcessorFast", "4.57.1") == ("torch-bilinear", "round")
    assert read("ViTImageProcessor", "5.0.0", resample=3) == ("torch-bicubic", "floor")
    assert read("ViTImageProcessor", "5.0.0", resample=0) == ("torch-nearest", "floor")
    assert read("ViTImageProcessorFast", "4.57.1", resample=4) == ("box", "round")


def hugging_face_folder(path: Path) -> None:
    config = {"architectures": ["XForImageClassification"], "id2label": dict(enumerate(LABELS))}
    processor = {
        "image_processor_type": "XImageProcessor",
        "size": {"shortest_edge": 37},
        "do_center_crop": True,
        "crop_size": {"height": SIDE, "width": SIDE},
        "resample": 3,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (path / "config.json").write_text(json.dumps(config))
    (path / "preprocessor_config.json").write_text(json.dumps(processor))


def timm_folder(path: Path) -> None:
    pipeline = {"input_size": [3, SIDE, SIDE], "crop_pct": 0.864, "interpolation": "bicubic", "mean": MEAN, "std": STD}
    (path / "config.json").write_text(json.dumps({"label_names": LABELS, "pretrained_cfg": pipeline}))


@pytest.mark.parametrize(("made", "floor"), [(hugging_face_folder, True), (timm_folder, False)])
def test_a_folder_says_all_that_is_needed(
    made: Callable[[Path], None], floor: bool, tmp_path: Path, store: ModelStore, capsys: Any
) -> None:
    network(tmp_path / "model.onnx")
    made(tmp_path)
    paths = photos(tmp_path / "photos")
    expected = answers(paths, short=37, resample=Image.Resampling.BICUBIC, floor=floor)
    assert import_(tmp_path, "--check", samples(tmp_path / "samples.csv", paths, expected)) == 0
    assert "check: 12 of 12 labels equal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("properties", "facts"),
    [
        ({"Image.BitmapPixelFormat": "Bgr8"}, {"colours": "BGR", "scale": None}),
        ({"Image.NominalPixelRange": "NominalRange_0_255"}, {"scale": 1.0, "mean": (0, 0, 0), "std": (1, 1, 1)}),
        ({"Image.NominalPixelRange": "Normalized_0_1"}, {"scale": 1 / 255, "mean": (0, 0, 0), "std": (1, 1, 1)}),
        ({"Image.NominalPixelRange": "Normalized_1_1"}, {"scale": 1 / 127.5, "mean": (1, 1, 1), "std": (1, 1, 1)}),
        ({"Image.NominalPixelRange": "odd", "Image.BitmapPixelFormat": "odd"}, {"scale": None, "colours": None}),
    ],
)
def test_standard_metadata_of_images_is_read(properties: dict[str, str], facts: dict[str, Any], tmp_path: Path) -> None:
    found = standard(read_graph(network(tmp_path / "m.onnx", properties=properties)).properties)
    assert {name: found.get(name) for name in facts} == facts


@pytest.mark.parametrize(
    ("name", "resize", "values"),
    [
        ("imagenet-torch", 256, (-2.118, 2.640)),  # of black and of white, blue last
        ("imagenet-tf", (224, 224), (-1, 1)),
        ("ultralytics", 224, (0, 1)),
        ("clip", 224, (-1.792, 2.146)),
    ],
)
def test_presets_are_the_usual_pipelines(name: str, resize: object, values: tuple[float, float]) -> None:
    found = preset(name, (224, 224))
    scale, mean, std = (found.get(fact) for fact in ("scale", "mean", "std"))
    assert found.get("resize") == resize
    assert ((0 * scale - mean[0]) / std[0], (255 * scale - mean[2]) / std[2]) == pytest.approx(values, abs=1e-3)


def test_a_timm_config_is_read_for_the_size_of_the_graph() -> None:
    config = {
        "label_names": ["n1", "n2"],
        "label_descriptions": {"n1": "tench"},
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            "test_input_size": [3, 288, 288],
            "crop_pct": 0.95,
            "test_crop_pct": 1.0,
            "interpolation": "bicubic",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
    }
    found = timm(config, (224, 224))
    assert (found.get("size"), found.get("resize"), found.get("filter")) == ((224, 224), 235, "bicubic")
    assert found.get("labels") == ["tench", "n2"]
    assert timm(config, (288, 288)).get("resize") == 288
    config["pretrained_cfg"]["crop_mode"] = "squash"  # type: ignore[index]
    assert timm(config, (224, 224)).get("resize") == (235, 235)
    config["pretrained_cfg"]["crop_mode"] = "border"  # type: ignore[index]
    with pytest.raises(ImportRefused, match="crop_mode 'border'"):
        timm(config, (224, 224))


def test_ultralytics_metadata_is_read_as_literals() -> None:
    names = {"task": "classify", "names": "{0: 'glass', 1: 'metal'}", "imgsz": "[32, 32]"}
    found = ultralytics(names, None)
    assert (found.get("labels"), found.get("size"), found.get("resize")) == (["glass", "metal"], (32, 32), 32)
    assert (found.get("scale"), found.get("mean"), found.get("outputs")) == (1 / 255, (0, 0, 0), "probabilities")
    with pytest.raises(ImportRefused, match="only classify"):
        ultralytics({**names, "task": "detect"}, None)
    with pytest.raises(ImportRefused, match="is no literal"):
        ultralytics({**names, "names": "__import__('os').system('true')"}, None)
    with pytest.raises(ImportRefused, match="is no literal"):
        ultralytics({**names, "names": "[" * 100_000}, None)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("l.txt", "b\n\na\r\n", ["b", "a"]),
        ("l.csv", "index,label\n1,b\n0,a\n", ["a", "b"]),
        ("l.csv", "label;group\na;x\nb;y\n", ["a", "b"]),
        ("l.json", '["a", "b"]', ["a", "b"]),
        ("l.json", '{"1": "b", "0": "a"}', ["a", "b"]),
        ("l.txt", "crane\ncrane\n", ["crane", "crane (2)"]),
        ("l.txt", "crane\ncrane (2)\ncrane\n", ["crane", "crane (2)", "crane (3)"]),
    ],
)
def test_labels_are_read_as_people_keep_them(name: str, text: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read_labels(tmp_path / name) == expected


def test_the_list_of_imagenet_ships() -> None:
    labels = read_labels("imagenet")
    assert len(labels) == len(set(labels)) == 1000
    assert labels[0].startswith("tench")


@pytest.mark.parametrize("count", [3, 5])
def test_a_wrong_number_of_labels_is_refused(count: int, tmp_path: Path, store: ModelStore, capsys: Any) -> None:
    (tmp_path / "l.txt").write_text("\n".join(map(str, range(count))))
    assert import_(network(tmp_path / "m.onnx"), *SAID, "--labels", tmp_path / "l.txt") == 1
    message = capsys.readouterr().err
    assert f"there are {count} labels, and the graph's outputs are logits (1 x 4)" in message
    assert ("for the background" in message) == (count == 3)


def test_labels_that_stand_twice_in_a_config_and_in_samples_mean_a_class_each(tmp_path: Path) -> None:
    found = hugging_face_labels({"id2label": {"0": "crane", "1": "ox", "2": "crane"}}).get("labels")
    assert found == ["crane", "ox", "crane (2)"]
    (tmp_path / "samples.csv").write_text("path,crane,ox,crane\na.png,0.1,0.2,0.7\n")
    assert read_samples(tmp_path / "samples.csv", found).labels.tolist() == [2]


def test_labels_with_html_and_line_breaks_are_one_line_each() -> None:
    found = Description().state("test", labels=["<b>\nbold", "=1+1"])
    assert found.get("labels") == ["<b> bold", "=1+1"]
    with pytest.raises(ImportRefused, match="is empty or longer"):
        Description().state("test", labels=["a", " \n"])


# What is no classifier of images, or hostile


def _if_node(last: str) -> list[Any]:
    branch = helper.make_graph(
        [helper.make_node("Identity", [last], ["y"])],
        "b",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    condition = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True]))
    return [condition, helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)]


def _huge_constant(last: str) -> list[Any]:
    size = helper.make_node("Constant", [], ["s"], value_ints=[1 << 40])
    made = helper.make_node("ConstantOfShape", ["s"], ["big"])
    total = helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0)
    return [size, made, total, helper.make_node("Add", [last, "sum"], ["z"])]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"more": _if_node}, "control flow \\(If\\)"),
        ({"more": lambda last: [helper.make_node("Odd", [last], ["z"], domain="com.acme")]}, "com.acme.Odd"),
        ({"dtype": TensorProto.INT64}, "takes int64; images are float32"),
        ({"channels": 1}, "images are N x 3 x H x W"),
        ({"opset": 6}, "opset 6; 7 or newer"),
    ],
)
def test_a_graph_that_can_t_be_served_is_refused(made: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match=message):
        read_graph(network(tmp_path / "m.onnx", **made))


def test_what_a_newer_exporter_wrote_is_refused_with_the_cure(tmp_path: Path) -> None:
    for change in ({"opset": 99}, {"ir_version": 99}):
        model = onnx.load(network(tmp_path / "m.onnx"))
        model.opset_import[0].version = change.get("opset", 17)
        model.ir_version = change.get("ir_version", 9)
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(ImportRefused, match="export it again with opset 17"):
            serve(read_graph(tmp_path / "m.onnx"), description().state("graph", layout="NCHW"))


def test_nodes_that_go_in_a_circle_are_refused(tmp_path: Path) -> None:
    def circle(last: str) -> list[Any]:
        return [helper.make_node("Identity", ["b"], ["a"]), helper.make_node("Identity", ["a"], ["b"])]

    path = network(tmp_path / "m.onnx", more=circle)
    with pytest.raises(ImportRefused):
        serve(read_graph(path), description().state("graph", layout="NCHW"))


def with_functions(path: Path, calls: dict[str, list[str]]) -> Path:
    """Write the network with functions of its own, each of which calls others; the graph calls the first."""
    first = next(iter(calls))
    model = onnx.load(network(path, more=lambda last: [helper.make_node(first, [last], ["z"], domain="own")]))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for name, called in calls.items():
        places = ["x", *(f"v{place}" for place in range(1, len(called))), "y"]
        body = [
            helper.make_node(other, [before], [after], domain="own" if other in calls else "")
            for other, before, after in zip(called, places[:-1], places[1:], strict=True)
        ]
        model.functions.append(helper.make_function("own", name, ["x"], ["y"], body, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    path.write_bytes(model.SerializeToString())
    return path


def test_functions_of_a_graph_are_written_out(tmp_path: Path) -> None:
    path = with_functions(tmp_path / "m.onnx", {"f": ["g", "g"], "g": ["Identity", "Softmax"]})
    graph = read_graph(path)
    assert not graph.model.functions
    assert set(graph.last.values()) == {"Softmax"}


def test_functions_without_an_end_or_that_multiply_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="functions that call each other without an end"):
        read_graph(with_functions(tmp_path / "m.onnx", {"f": ["g"], "g": ["f"]}))
    doubling = {f"f{depth}": [f"f{depth + 1}"] * 2 for depth in range(40)} | {"f40": ["Identity"]}
    with pytest.raises(ImportRefused, match="more than 100,000 nodes, with its functions written out"):
        read_graph(with_functions(tmp_path / "m.onnx", doubling))


@pytest.mark.parametrize("data", [b"", b"\x00" * 100, b"PK\x03\x04" + b"x" * 50, b"<xml/>"])
def test_a_file_that_is_no_graph_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ImportRefused, match="not an ONNX file"):
        read_graph(tmp_path / "m.onnx")


def test_a_cut_graph_is_refused(tmp_path: Path) -> None:
    whole = network(tmp_path / "whole.onnx").read_bytes()
    for length in range(50, len(whole), len(whole) // 7):
        (tmp_path / "m.onnx").write_bytes(whole[:length])
        with pytest.raises(ImportRefused):
            serve(read_graph(tmp_path / "m.onnx"), description().state("graph", layout="NCHW"))


def test_too_many_nodes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MAX_NODES", 2)
    with pytest.raises(ImportRefused, match="more than 2 nodes"):
        read_graph(network(tmp_path / "m.onnx"))


def external(path: Path, change: Callable[[Any], None]) -> Path:
    model = onnx.load(network(path))
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        change(tensor)
    path.write_bytes(model.SerializeToString())
    return path


def test_tensors_in_a_file_beside_the_graph_are_brought_in(tmp_path: Path) -> None:
    graph = read_graph(external(tmp_path / "m.onnx", lambda tensor: None))
    assert not any(tensor.external_data for tensor in graph.model.graph.initializer)
    assert serve(graph, description().state("graph", layout="NCHW")).files.graph.outputs == 4


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("location", "../weights.bin", "no file beside it"),
        ("location", "/etc/passwd", "no file beside it"),
        ("location", "link.bin", "no file beside it"),
        ("location", "missing.bin", "no file beside it"),
        ("length", "99999999999999", "which it has not"),
        ("offset", "-4", "which it has not"),
        ("offset", "many", "no number"),
    ],
)
def test_tensors_elsewhere_are_refused(key: str, value: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"0" * 10_000)
    (tmp_path / "inside" / "link.bin").symlink_to(tmp_path / "weights.bin")

    def change(tensor: Any) -> None:
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = value

    with pytest.raises(ImportRefused, match=message):
        read_graph(external(tmp_path / "inside" / "m.onnx", change))


def test_faster_precisions_are_judged_on_photos(tmp_path: Path, labels: Path, store: ModelStore, capsys: Any) -> None:
    path, paths = convolving(tmp_path / "model.onnx"), photos(tmp_path / "photos" / LABELS[0])
    said = [*SAID, "--labels", labels, "--calibrate"]

    assert import_(path, *said, tmp_path) == 0  # and another file than photos is passed over

    proofs = store.resolve("foreign").manifest.precisions
    reduced = ["onnxruntime/f16", *(f"openvino/{name}" for name in precisions("openvino", None) if name != "f32")]
    assert sorted(proofs) == sorted(reduced)
    assert all(proof.images == len(paths) for proof in proofs.values())
    assert capsys.readouterr().out.count("of 12 photos labelled as in f32") == len(reduced)
    (tmp_path / "none").mkdir()
    assert import_(path, *said, tmp_path / "none") == 1
    assert "there are no images" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_calibrate_makes_a_graph_of_8_bits_and_serves_it_if_it_labels_as_f32(
    suffix: str, tmp_path: Path, labels: Path, store: ModelStore, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without VNNI it only answers a little less like f32.
    for module in ("quantisation", "engines.openvino"):
        monkeypatch.setattr(f"vision.serving.{module}.has_vnni", lambda: True)
    path, paths = convolving(tmp_path / "model.onnx", depth=8), photos(tmp_path / "photos")
    openvino = import_openvino()
    if suffix == ".xml":
        openvino.save_model(openvino.convert_model(path), path.with_suffix(suffix), compress_to_fp16=False)

    assert import_(path.with_suffix(suffix), *SAID, "--labels", labels, "--calibrate", tmp_path / "photos") == 0

    version = store.resolve("foreign")
    proof = version.manifest.precisions["openvino/int8"]
    assert (proof.images, proof.equal, proof.passed) == (len(paths), 1.0, True)
    assert "openvino/int8: 100.0% of 12 photos labelled as in f32; passed, may serve" in capsys.readouterr().out
    files = read_files(store, version)
    assert files.int8 is not None
    nodes = openvino.Core().read_model(*files.int8).get_ordered_ops()
    bits = [bits_of(node) for node in nodes if node.get_type_name() in ("Convolution", "MatMul")]
    assert bits == [32] + [8] * 3 + [32] * 5  # the first convolution, the last four and the head stay in float
    preprocessing = Preprocessing.from_json(version.manifest.preprocessing)
    pixels = np.stack([load_image(photo, preprocessing).pixels for photo in paths])
    found = []
    for precision in ("f32", "int8"):
        engine = open_engine(files, engine="openvino", device="cpu", precision=precision)
        found.append(engine.predict(pixels))
        engine.close()
    assert 0 < np.abs(found[1] - found[0]).max() < 0.1


@pytest.mark.slow
def test_a_constant_of_a_terabyte_is_refused_within_bounded_memory(tmp_path: Path, labels: Path) -> None:
    path = network(tmp_path / "m.onnx", more=_huge_constant)
    done = sortline("models", "import", str(path), *SAID, "--labels", str(labels), home=tmp_path, code=1)
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("sortline: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("net.pt", "PyTorch file; make an ONNX file of it"),
        ("net.h5", "Keras file"),
        ("net.torchscript", "TorchScript file"),
        ("pytorch_model.bin", "PyTorch file"),
        ("net.keras", 'network.export("model.onnx", format="onnx")'),
        ("net.pb", "TensorFlow file"),
        ("net.tflite", "python -m tf2onnx.convert --tflite"),
        ("folder", "holds no .onnx file; export one into it"),
        ("saved_model.pb", "is a SavedModel; make an ONNX file of it"),
    ],
)
def test_files_of_other_frameworks_are_named_with_their_export(
    name: str, message: str, tmp_path: Path, store: ModelStore, capsys: Any
) -> None:
    (tmp_path / "given").mkdir()
    if name != "folder":
        (tmp_path / "given" / name).write_bytes(b"x")
    whole = name in ("folder", "saved_model.pb")
    assert import_(tmp_path / "given" if whole else tmp_path / "given" / name) == 1
    assert message in capsys.readouterr().err


def expected_of(graph: Any, cells: NDArray[np.float64]) -> NDArray[np.float64]:
    tensor = next(one for one in graph.model.graph.initializer if one.name == "weights")
    matrix = np.asarray(onnx.numpy_helper.to_array(tensor), np.float64)
    row = np.exp(cells.transpose(0, 3, 1, 2).reshape(len(cells), -1) @ matrix.T)
    return np.asarray(row / row.sum(axis=1, keepdims=True))


def tmp_labels(folder: Path) -> Path:
    (folder / "labels.txt").write_text("\n".join(LABELS))
    return folder / "labels.txt"


def run(data: bytes, pixels: NDArray[np.uint8]) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(data).run(None, {graphs.INPUT: pixels})[0]
