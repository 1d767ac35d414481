"""Small ONNX classifiers as other frameworks write them, and what their own pipeline answers, made without our code."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mindspore  # noqa: F401 - before onnx: loaded after it, MindSpore's export ends the process
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

__all__ = [
    "LABELS",
    "MEAN",
    "SIDE",
    "STD",
    "TensorProto",
    "answers",
    "convolving",
    "helper",
    "network",
    "onnx",
    "photos",
]

SIDE = 32
LABELS = ["glass", "metal", "paper", "wood"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CELL = 8  # the network averages squares of so many pixels, so answers depend on where colours are


def weights(classes: int = len(LABELS)) -> NDArray[np.float32]:
    cells = 3 * (SIDE // CELL) ** 2
    return np.random.default_rng(3).normal(0, 2.0, (classes, cells)).astype(np.float32)


def network(
    path: Path,
    *,
    layout: str = "NCHW",
    dtype: int = TensorProto.FLOAT,
    batch: Any = "N",
    side: Any = SIDE,
    ending: str = "",
    more: Any = None,
    outputs: list[Any] | None = None,
    opset: int = 17,
    properties: dict[str, str] | None = None,
    channels: Any = 3,
) -> Path:
    """Write a classifier of mean colours by place; ``ending`` is an operator behind its logits."""
    matrix = numpy_helper.to_array(numpy_helper.from_array(weights(), "w"))
    nodes, last = [], "images"
    shape = [batch, channels, side, side] if layout == "NCHW" else [batch, side, side, channels]
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [last], ["turned"], perm=[0, 3, 1, 2]))
        last = "turned"
    if dtype == TensorProto.UINT8:
        nodes += [
            helper.make_node("Cast", [last], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["float", "part"], ["scaled"]),
        ]
        last = "scaled"
    kind = TensorProto.FLOAT16 if dtype == TensorProto.FLOAT16 else TensorProto.FLOAT
    number = np.float16 if dtype == TensorProto.FLOAT16 else np.float32
    constants = [
        numpy_helper.from_array(matrix.astype(number), "weights"),
        numpy_helper.from_array(np.array(1 / 255, np.float32), "part"),
        numpy_helper.from_array(np.zeros(len(LABELS), number), "none"),
    ]
    nodes.append(helper.make_node("AveragePool", [last], ["cells"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]))
    if batch == 1:  # as exporters write what they saw
        constants.append(numpy_helper.from_array(np.array([1, -1], np.int64), "shape"))
        nodes.append(helper.make_node("Reshape", ["cells", "shape"], ["row"]))
    else:
        nodes.append(helper.make_node("Flatten", ["cells"], ["row"]))
    nodes.append(helper.make_node("Gemm", ["row", "weights", "none"], ["logits"], transB=1))
    last = "logits"
    if ending:
        attributes = {"axis": 1} if ending == "Softmax" else {}
        nodes.append(helper.make_node(ending, [last], ["ended"], **attributes))
        last = "ended"
    if more is not None:
        nodes += more(last)
        last = nodes[-1].output[0]
    given = outputs or [helper.make_tensor_value_info(last, kind, None)]
    images = helper.make_tensor_value_info("images", dtype, shape)
    graph = helper.make_graph(nodes, "classifier", [images], given, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    helper.set_model_props(model, properties or {})
    onnx.save(model, path)
    return path


def convolving(path: Path, **options: Any) -> Path:
    """Write a classifier that pools the map of a convolution, or of ``depth`` ones, and so takes images of any size."""
    random = np.random.default_rng(8)
    constants = [
        numpy_helper.from_array(random.normal(0, 0.3, (6, 3, 3, 3)).astype(np.float32), "kernels"),
        numpy_helper.from_array(random.normal(0, 1, (6, len(LABELS))).astype(np.float32), "weights"),
    ]
    nodes = [
        helper.make_node("Conv", ["images", "kernels"], ["map"], name="last_map", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["row"]),
        helper.make_node("MatMul", ["row", "weights"], ["logits"], name="head"),
    ]
    for number in range(1, options.get("depth", 1)):
        kernels = random.normal(0, 0.2, (6, 6, 3, 3)).astype(np.float32)
        constants.append(numpy_helper.from_array(kernels, f"kernels {number}"))
        nodes[-3:-3] = [
            helper.make_node("Relu", [nodes[-4].output[0]], [f"bent {number}"]),
            helper.make_node("Conv", [f"bent {number}", f"kernels {number}"], [f"map {number}"], pads=[1, 1, 1, 1]),
        ]
        nodes[-3].input[0] = f"map {number}"
    if options.get("positions"):  # a number for each place of the map, as transformers have them
        constants.append(numpy_helper.from_array(np.zeros((1, 6, SIDE, SIDE), np.float32), "positions"))
        nodes[1:2] = [
            helper.make_node("Add", ["map", "positions"], ["placed"]),
            helper.make_node("GlobalAveragePool", ["placed"], ["pooled"]),
        ]
    sides: list[Any] = [3, SIDE, SIDE]
    if options.get("open"):  # as optimum exports
        sides = ["C", "H", "W"]
        nodes[0].input[:] = ["halved", "turned"]
        nodes[:0] = [
            helper.make_node("Transpose", ["kernels"], ["turned"], perm=[0, 3, 1, 2]),
            helper.make_node("Mul", ["images", "half"], ["halved"]),
        ]
        constants.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", *sides])
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(LABELS)])]
    graph = helper.make_graph(nodes, "convolving", [images], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", options.get("opset", 17))], ir_version=9)
    onnx.save(model, path)
    return path


def photos(folder: Path, count: int = 12) -> list[Path]:
    """Write images of mixed sizes and formats, full of edges."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(5)
    paths = []
    for number in range(count):
        height, width = random.integers(40, 300, 2)
        small = random.integers(0, 256, (height // 7 + 2, width // 7 + 2, 3), np.uint8)
        path = folder / f"{number:02}{('.png', '.bmp', '.webp')[number % 3]}"
        Image.fromarray(small).resize((int(width), int(height)), Image.Resampling.NEAREST).save(path)
        paths.append(path)
    return paths


def answers(
    paths: list[Path],
    *,
    short: int | None = 36,
    size: tuple[int, int] | None = None,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
    scale: float = 1 / 255,
    mean: Any = MEAN,
    std: Any = STD,
    bgr: bool = False,
    floor: bool = False,
    softmaxes: int = 1,
) -> NDArray[np.float64]:
    """Return the probabilities of the network above, as torchvision and numpy compute them."""
    rows = []
    for path in paths:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        width, height = image.size
        if short is not None:
            longer = int(short * max(width, height) / min(width, height))
            target = (short, longer) if width <= height else (longer, short)
        else:
            assert size is not None
            target = size
        image = image.resize(target, resample)
        left, top = ((side - SIDE) / 2 for side in image.size)
        left, top = (math.floor(left), math.floor(top)) if floor else (round(left), round(top))
        pixels = np.asarray(image.crop((left, top, left + SIDE, top + SIDE)), np.float64)
        values = (pixels * scale - np.array(mean)) / np.array(std)
        values = values[..., ::-1] if bgr else values
        cells = values.reshape(SIDE // CELL, CELL, SIDE // CELL, CELL, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
        row = weights().astype(np.float64) @ cells.reshape(-1)
        for _ in range(softmaxes):
            row = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        rows.append(row)
    return np.array(rows)
