"""A foreign ONNX file: what it takes and gives, what in it is refused, and the served form that is wrapped around it.

The served form takes uint8 (N, H, W, 3) RGB and gives float32 probabilities (N, classes), as all graphs here do.
Nothing of the foreign graph is changed but its batch size; scaling comes before it, a missing softmax behind it.

Needs the onnx package, whose protocol buffers and those of MindSpore 2.8 are not for one process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from base.install import pip_install
from vision.imported.description import LOGITS, Description, ImportRefused
from vision.imported.outliers import FLOOR, OUTLIER, POWER, OutlierScore
from vision.imported.running import RE_EXPORT, open_reference

if TYPE_CHECKING:
    import onnx

MAX_BYTES: Final = 2_000_000_000  # of a graph with its tensors; a protocol buffer can't hold more
MAX_NODES: Final = 100_000
OLDEST_OPSET: Final = 7  # from here on numbers are broadcast as we write them
CLIP_BY_INPUTS: Final = 11  # from here on bounds are inputs
SUM_BY_INPUTS: Final = 13  # from here on axes are an input
CONTROL_FLOW: Final = ("If", "Loop", "Scan", "SequenceMap")
PASSING: Final = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout")
SCALING: Final = ("Identity", "Cast", "Mul", "Div", "Sub", "Add")
INPUT, OUTPUT = "sortline_images", "sortline_probabilities"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignGraph:
    """A graph that passed the checks, its tensors inside.

    Attributes:
        input, outputs: their names in the graph.
        dtype: of the input: "float32", "float16" or "uint8".
        layout: "NCHW" or "NHWC"; None where the graph does not show it.
        size: (height, width) in pixels; None for a side that may be any.
        properties: the metadata in the file.
        last: the operators that the outputs come from, by output.
    """

    model: onnx.ModelProto
    input: str
    outputs: tuple[str, ...]
    dtype: str
    layout: str | None
    size: tuple[int, int] | None
    properties: dict[str, str]
    last: dict[str, str]

    def to_bytes(self) -> bytes:
        """Return the graph as one file."""
        return bytes(self.model.SerializeToString())

    def open(self) -> Any:
        """Return the graph as it came, ready to run."""
        return open_reference(self.to_bytes())

    def open_served(self, served: bytes) -> Any:
        """Return a served form, ready to run."""
        return open_reference(served)

    def wrap(
        self, facts: Description, output: str, dimensions: int, batch: int = 0, score: OutlierScore | None = None
    ) -> bytes:
        """Return the served form, as the bytes of an ONNX file.

        Args:
            output: the foreign output that holds a number a class.
            dimensions: of that output; behind the first two all are 1.
            batch: images at a time; 0 is any number.
            score: becomes a second output.
        """
        return _wrapped(self, facts, output, dimensions, batch or "N", score)


def read_graph(path: Path) -> ForeignGraph:
    """Return the graph of an ONNX file.

    Raises:
        ImportRefused: it is no ONNX graph, or holds what can't be served; the message names it and the cure.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportRefused(f"ONNX files need the onnx package here: {pip_install('sortline[import]')}") from error
    if path.stat().st_size > MAX_BYTES:
        raise ImportRefused(
            f"{path.name} has {path.stat().st_size:,} bytes; graphs of at most {MAX_BYTES:,} are served"
        )
    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # protocol buffers' DecodeError, and whatever else their readers let through
        raise ImportRefused(f"{path.name} is not an ONNX file, or a damaged one: {error}") from error
    if not model.graph.node:
        raise ImportRefused(f"{path.name} is not an ONNX file, or one without a graph")
    _check_operators(model, path.name)
    _read_external_data(model, path)
    if model.functions:
        _check_functions(model, path.name)
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    return _described(model, path.name)


def _described(model: onnx.ModelProto, name: str) -> ForeignGraph:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        listed = ", ".join(value.name for value in inputs) or "none"
        raise ImportRefused(f"{name} has {len(inputs)} inputs ({listed}); a classifier of images takes one")
    dtype = _dtype(inputs[0], name)
    dims = inputs[0].type.tensor_type.shape.dim
    sides = [side.dim_value if side.HasField("dim_value") else 0 for side in dims]
    layout, size = layout_of(sides, name, _layout_of_convolution(model, inputs[0].name))
    makers = {output: node for node in model.graph.node for output in node.output}
    outputs = tuple(value.name for value in model.graph.output)
    if not outputs:
        raise ImportRefused(f"{name} has no output")
    return ForeignGraph(
        model=model,
        input=inputs[0].name,
        outputs=outputs,
        dtype=dtype,
        layout=layout,
        size=size,
        properties={entry.key: entry.value for entry in model.metadata_props},
        last={output: _last_operator(output, makers) for output in outputs},
    )


def _last_operator(output: str, makers: Mapping[str, onnx.NodeProto]) -> str:
    """Return the operator that an output comes from, behind those that only pass values on."""
    for _ in makers:
        node = makers.get(output)
        if node is None or node.op_type not in PASSING:
            return node.op_type if node is not None else ""
        output = node.input[0] if node.input else ""
    return ""


def _dtype(value: onnx.ValueInfoProto, name: str) -> str:
    import onnx

    kinds: dict[int, str] = {
        onnx.TensorProto.FLOAT: "float32",
        onnx.TensorProto.FLOAT16: "float16",
        onnx.TensorProto.UINT8: "uint8",
    }
    kind = value.type.tensor_type.elem_type
    if kind not in kinds:
        shown = onnx.helper.tensor_dtype_to_string(kind).removeprefix("TensorProto.").lower() if kind else "no tensor"
        raise ImportRefused(f"{name} takes {shown}; images are float32, float16 or uint8")
    return kinds[kind]


def layout_of(sides: list[int], name: str, seen: str | None = None) -> tuple[str | None, tuple[int, int] | None]:
    """Return layout and (height, width) of an input with these sides, where 0 and less stand for any.

    Args:
        seen: the layout that is taken where the sides allow both.

    Raises:
        ImportRefused: they are not those of images of three colours.
    """
    places = {"NCHW": 1, "NHWC": 3} if len(sides) == 4 else {}
    found = [layout for layout, place in places.items() if sides[place] == 3]
    found = found or [layout for layout, place in places.items() if sides[place] <= 0]  # exporters may leave all open
    if not found:
        shown = " x ".join(str(side) if side > 0 else "any" for side in sides)
        raise ImportRefused(
            f"{name} takes {shown or 'a shape that it does not state'}; images are N x 3 x H x W or N x H x W x 3"
        )
    layout = found[0] if len(found) == 1 else seen
    if layout is None:
        return None, None
    height, width = (sides[2], sides[3]) if layout == "NCHW" else (sides[1], sides[2])
    return layout, (height, width) if height > 0 and width > 0 else None


def _layout_of_convolution(model: onnx.ModelProto, images: str) -> str | None:
    """Return the layout that shows where the images first come to a convolution, which takes NCHW, or are turned."""
    scaled = {images}
    for node in model.graph.node:
        if not scaled.intersection(node.input):
            continue
        if node.op_type == "Conv":
            return "NCHW"
        if node.op_type == "Transpose" and [0, 3, 1, 2] in (list(attribute.ints) for attribute in node.attribute):
            return "NHWC"
        if node.op_type in SCALING:
            scaled.update(node.output)
    return None


def _check_operators(model: onnx.ModelProto, name: str) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    flow: set[str] = set()
    foreign: set[str] = set()
    for count, node in enumerate(_nodes([model.graph, *model.functions]), 1):
        if count > MAX_NODES:
            raise ImportRefused(f"{name} has more than {MAX_NODES:,} nodes")
        if node.op_type in CONTROL_FLOW:
            flow.add(node.op_type)
        elif node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) not in own:
            foreign.add(f"{node.domain}.{node.op_type}")
    if foreign:
        raise ImportRefused(
            f"{name} uses operators that are not of the ONNX standard: {', '.join(sorted(foreign)[:10])}; export it "
            "without optimisations for one runtime, or quantise it here afterwards"
        )
    if flow:
        raise ImportRefused(
            f"{name} uses control flow ({', '.join(sorted(flow))}), which the engines can't prove equal; export the "
            "network in inference mode, for a fixed size, without detection or decoding parts"
        )
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < OLDEST_OPSET:
        raise ImportRefused(f"{name} is of opset {opset}; {OLDEST_OPSET} or newer is needed: {RE_EXPORT}")


def _check_functions(model: onnx.ModelProto, name: str) -> None:
    """Refuse functions that never end, or make too many nodes, once they are written out."""
    calls = {
        (function.domain, function.name): Counter((node.domain, node.op_type) for node in _nodes([function]))
        for function in model.functions
    }
    sizes: dict[tuple[str, str], int] = {}
    try:
        for key in TopologicalSorter(
            {key: called.keys() & calls.keys() for key, called in calls.items()}
        ).static_order():
            sizes[key] = sum(times * sizes.get(called, 1) for called, times in calls[key].items())
    except CycleError as error:
        raise ImportRefused(f"{name} has functions that call each other without an end") from error
    if sum(sizes.get((node.domain, node.op_type), 1) for node in _nodes([model.graph])) > MAX_NODES:
        raise ImportRefused(f"{name} has more than {MAX_NODES:,} nodes, with its functions written out")


def _nodes(graphs: Iterable[Any]) -> Iterator[onnx.NodeProto]:
    """Yield all nodes of graphs or functions, also of graphs within nodes."""
    left = list(graphs)
    while left:
        for node in left.pop().node:
            yield node
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    left.append(attribute.g)
                left.extend(attribute.graphs)


def _read_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Bring tensors in that lie in files beside the graph, and nowhere else."""
    from onnx import external_data_helper

    folder = path.resolve().parent
    total = path.stat().st_size
    tensors = [t for t in external_data_helper._get_all_tensors(model) if external_data_helper.uses_external_data(t)]
    for tensor in tensors:
        facts = {entry.key: entry.value for entry in tensor.external_data}
        location = facts.get("location", "")
        file = (folder / location).resolve()
        if not location or file.parent != folder or not file.is_file():
            raise ImportRefused(f"{path.name} keeps tensors in {location!r}, which is no file beside it")
        try:
            start, length = int(facts.get("offset", 0)), int(facts.get("length", file.stat().st_size))
        except ValueError as error:
            raise ImportRefused(f"{path.name} has no number where a tensor of {location!r} starts or ends") from error
        total += length
        if start < 0 or length < 0 or start + length > file.stat().st_size or total > MAX_BYTES:
            raise ImportRefused(
                f"{path.name} claims {length:,} bytes at {start:,} of {location!r}, which it has not, or too many"
            )
    for tensor in tensors:
        external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")


def _wrapped(
    graph: ForeignGraph, facts: Description, output: str, dimensions: int, batch: int | str, score: OutlierScore | None
) -> bytes:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    body = model.graph
    before: list[Any] = []
    last = INPUT

    def then(operator: str, *constants: tuple[str, Any], **attributes: Any) -> None:
        nonlocal last
        made = f"sortline_{operator.lower()}_{len(before)}"
        names = []
        for name, value in constants:
            body.initializer.append(numpy_helper.from_array(value, f"{made}_{name}"))
            names.append(f"{made}_{name}")
        before.append(helper.make_node(operator, [last, *names], [made], name=made, **attributes))
        last = made

    scale, mean, std = facts.get("scale", 1.0), np.array(facts.get("mean", 0.0)), np.array(facts.get("std", 1.0))
    if graph.dtype != "uint8":
        then("Cast", to=TensorProto.FLOAT)
        then("Mul", ("factor", np.broadcast_to(scale / std, 3).astype(np.float32).reshape(1, 1, 1, 3)))
        then("Sub", ("offset", np.broadcast_to(mean / std, 3).astype(np.float32).reshape(1, 1, 1, 3)))
    if facts.get("colours", "RGB") == "BGR":
        then("Gather", ("order", np.array([2, 1, 0], np.int64)), axis=3)
    if graph.layout == "NCHW":
        then("Transpose", perm=[0, 3, 1, 2])
    if graph.dtype == "float16":
        then("Cast", to=TensorProto.FLOAT16)
    before.append(helper.make_node("Identity", [last], [graph.input], name="sortline_input"))

    after: list[Any] = []
    last = output
    for operator, wanted, attributes in (
        ("Flatten", dimensions != 2, {"axis": 1}),
        ("Cast", True, {"to": TensorProto.FLOAT}),
        ("Softmax", facts.get("outputs") == LOGITS, {"axis": 1}),
    ):
        if wanted:
            after.append(helper.make_node(operator, [last], [f"sortline_out_{operator.lower()}"], **attributes))
            last = f"sortline_out_{operator.lower()}"
    after.append(helper.make_node("Identity", [last], [OUTPUT], name="sortline_output"))
    if score is not None:
        after += _scoring(model, score)

    nodes = [*before, *body.node, *after]
    del body.node[:], body.value_info[:], body.output[:]
    body.node.extend(nodes)
    kept = [value for value in body.input if value.name != graph.input]
    del body.input[:]
    height, width = facts.get("size")
    images = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [batch, height, width, 3])
    body.input.extend([images, *kept])
    classes = len(facts.get("labels"))
    body.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [batch, classes]))
    if score is not None:
        body.output.append(helper.make_tensor_value_info(OUTLIER, TensorProto.FLOAT, [batch, 1]))
    return bytes(model.SerializeToString())


def _scoring(model: onnx.ModelProto, score: OutlierScore) -> list[onnx.NodeProto]:
    """Return the nodes that make the outlier score of the probabilities; the model gets their constants."""
    from onnx import helper, numpy_helper

    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    values = {
        "floor": FLOOR, "ceiling": 1 - FLOOR, "one": 1, "power": POWER, "lowest": score.lowest, "part": 1 / score.width
    }  # fmt: skip
    constants = {name: np.array(value, np.float32) for name, value in values.items()} | {"axes": np.array([1])}
    names = {name: f"sortline_score_{name}" for name in constants}
    model.graph.initializer.extend(numpy_helper.from_array(value, names[name]) for name, value in constants.items())
    nodes: list[onnx.NodeProto] = []

    def then(operator: str, *inputs: str, made: str = "", **attributes: Any) -> str:
        made = made or f"sortline_score_{len(nodes)}"
        nodes.append(helper.make_node(operator, [names.get(name, name) for name in inputs], [made], **attributes))
        return made

    if opset >= CLIP_BY_INPUTS:
        bounded = then("Clip", OUTPUT, "floor", "ceiling")
    else:
        bounded = then("Clip", OUTPUT, min=FLOOR, max=1 - FLOOR)
    powers = then("Pow", then("Mul", bounded, then("Sub", "one", bounded)), "power")
    if opset >= SUM_BY_INPUTS:
        entropy = then("ReduceSum", powers, "axes", keepdims=1)
    else:
        entropy = then("ReduceSum", powers, axes=[1], keepdims=1)
    then("Relu", then("Mul", then("Sub", entropy, "lowest"), "part"), made=OUTLIER)
    return nodes
