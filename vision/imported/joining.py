"""Graphs -> one graph of features, and that graph with a head: what is trained on an imported backbone, or on several.

An imported graph is cut where its last linear layer begins. Whatever it is shown (the picture at another scale, its
mirror image) is computed in front of it, within the graph, so that every engine does the same.

Needs the onnx package, whose protocol buffers and those of MindSpore 2.8 are not for one process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from vision.errors import VisionError
from vision.images import bicubic_weights
from vision.imported.running import RE_EXPORT, open_reference, sentence

if TYPE_CHECKING:
    import onnx

INPUT, FEATURES, OUTPUT = "images", "features", "outputs"
LEAST_OPSET: Final = 13  # of a graph that something is added to: sums name their axes as an input from here on
MIN_SIDE_PX: Final = 8
TINY: Final = 1e-12  # as `vision.networks.layered` adds it
PASSING_CONSTANTS: Final = ("Identity", "Transpose", "Cast", "Reshape", "Squeeze", "Unsqueeze", "DequantizeLinear")
SHOWN: Final = 8  # nodes in a message


class JoinRefused(VisionError):
    """No graph of features can be made of these; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A backbone: a served graph, uint8 (N, H, W, 3) RGB in, and how it is used.

    Attributes:
        name: for messages.
        gives_features: its output are the features, at the size of the whole; nothing below applies.
        features_at: the node whose output are the features; "" finds the last linear layer.
        scales, flip_averaging, hellinger: as in a recipe.
    """

    name: str
    onnx: bytes
    gives_features: bool = False
    features_at: str = ""
    scales: tuple[float, ...] = (1.0,)
    flip_averaging: bool = False
    hellinger: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A graph uint8 (N, height, width, 3) RGB -> float32 (N, sum of ``widths``), the features of the parts in order.

    Attributes:
        max_batch: pictures at a time; 0 is any number.
        remarks: for the person who trains.
    """

    onnx: bytes
    widths: tuple[int, ...]
    max_batch: int
    remarks: tuple[str, ...]


def join(parts: Sequence[Part], height_px: int, width_px: int) -> Joined:
    """Return the features of all parts as one graph.

    Raises:
        JoinRefused: a part has no such features, or can't be shown pictures of these sizes.
    """
    loaded = [_load(part) for part in parts]
    opset = max(LEAST_OPSET if not all(part.gives_features for part in parts) else 0, *map(_opset, loaded))
    made = _Graph(_raised(loaded[0], opset, parts[0].name), height_px, width_px)
    widths, remarks = [], []
    found: list[str] = []
    for number, (part, model) in enumerate(zip(parts, loaded, strict=True)):
        body = _Body.of(part, _raised(model, opset, part.name), f"b{number}")
        sizes = body.sizes(height_px, width_px)
        if part.scales == (1.0,) and sizes != [(height_px, width_px)]:
            own = f"{body.height_px} x {body.width_px}"
            remarks.append(f"{part.name} takes {own} alone; images of {height_px} x {width_px} are resampled for it")
        names = [made.view(body, f"b{number}s{place}", size) for place, size in enumerate(sizes)]
        found += names
        widths.append(body.width * len(names))
        made.max_batch = 1 if body.is_alone else made.max_batch
    made.add("Concat" if len(found) > 1 else "Identity", found, FEATURES, **({"axis": 1} if len(found) > 1 else {}))
    data = made.to_bytes(FEATURES, sum(widths))
    return Joined(onnx=data, widths=tuple(widths), max_batch=made.max_batch, remarks=tuple(remarks))


def with_head(body: bytes, head: bytes) -> bytes:
    """Return the graph of ``body``'s pictures and ``head``'s outputs; the head takes what the body gives.

    The first of them is called "outputs", another keeps its name.
    """
    import onnx

    below, above = onnx.load_model_from_string(body), onnx.load_model_from_string(head)
    opset = max(_opset(below), _opset(above))
    below, above = _raised(below, opset, "the backbone"), _raised(above, opset, "the head")
    renamed = {above.graph.input[0].name: below.graph.output[0].name}
    _copy_into(below.graph, above.graph, above.graph.node, "head.", renamed)
    batch = below.graph.output[0].type.tensor_type.shape.dim[0]
    del below.graph.output[:]
    for place, output in enumerate(above.graph.output):
        name = output.name if place else OUTPUT
        below.graph.node.append(onnx.helper.make_node("Identity", [renamed[output.name]], [name], name=f"head.{name}"))
        output.name = name
        output.type.tensor_type.shape.dim[0].CopyFrom(batch)
        below.graph.output.append(output)
    return bytes(below.SerializeToString())


@dataclass(slots=True, kw_only=True)
class _Body:
    """What of a graph comes before its features.

    Attributes:
        tag: what the names of its constants begin with, which all its copies share.
        model: as it came, of the common opset.
        nodes: those that the features need.
        features: the tensor.
        is_map: whether they are maps (N, C, h, w), which are pooled.
        width: of the features, once they are pooled.
        height_px, width_px: of its own pictures.
        is_alone: whether it takes one picture at a time.
    """

    tag: str
    part: Part
    model: onnx.ModelProto
    nodes: list[onnx.NodeProto]
    features: str
    height_px: int
    width_px: int
    is_alone: bool
    is_map: bool = False
    width: int = 0

    @classmethod
    def of(cls, part: Part, model: onnx.ModelProto, tag: str) -> _Body:
        features = model.graph.output[0].name if part.gives_features else _find_features(model, part)
        batch, height_px, width_px, _ = (side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim)
        body = cls(
            tag=tag,
            part=part,
            model=model,
            nodes=_needed(model, features),
            features=features,
            height_px=height_px,
            width_px=width_px,
            is_alone=batch == 1,
        )
        shape = body.run(height_px, width_px)
        if len(shape) not in (2, 4) or shape[0] != body.pictures:
            listed = " x ".join(map(str, shape))
            raise JoinRefused(
                f"{part.name}: {part.features_at or 'what goes into its last linear layer'} is {listed} for "
                f"{body.pictures} images, not a row or maps an image; name a node that gives such: --features-at NODE"
            )
        body.is_map, body.width = len(shape) == 4, shape[1]
        return body

    @property
    def pictures(self) -> int:
        """Pictures that it is tried with."""
        return 1 if self.is_alone else 2

    def run(self, height_px: int, width_px: int) -> tuple[int, ...]:
        """Return the shape of the features for pictures of this size.

        Raises:
            JoinRefused: the graph does not take them.
        """
        import onnx

        made = _Graph(self.model, height_px, width_px)
        made.max_batch = 1 if self.is_alone else 0
        last = made.place(self, "tried.", INPUT)
        made.add("Cast", [last], FEATURES, to=onnx.TensorProto.FLOAT)
        noise = np.random.default_rng(0).integers(0, 256, (self.pictures, height_px, width_px, 3), np.uint8)
        try:
            session = open_reference(made.to_bytes(FEATURES, None))
            return tuple(np.shape(session.run([FEATURES], {INPUT: noise})[0]))
        except Exception as error:  # ONNX Runtime's exceptions share no base
            why = sentence(error).removesuffix(f"; {RE_EXPORT}")
            raise JoinRefused(f"{self.part.name} does not run on images of {height_px} x {width_px}: {why}") from error

    def sizes(self, height_px: int, width_px: int) -> list[tuple[int, int]]:
        """Return the size at which it sees a picture of this one, for each scale, the largest scale first.

        Raises:
            JoinRefused: the recipe asks for scales, and the graph takes one size.
        """
        if self.part.gives_features:
            return [(height_px, width_px)]
        scales = sorted(set(self.part.scales), reverse=True)
        wanted = [tuple(max(MIN_SIDE_PX, round(side * scale)) for side in (height_px, width_px)) for scale in scales]
        refusal = [why for height, width in wanted if (why := self._refusal(height, width))]
        if not refusal:
            return [(height, width) for height, width in wanted]
        if scales != [1.0]:
            raise JoinRefused(
                f"scales need a graph that takes images of any size; {refusal[0]}; set scales = [1.0] for this backbone"
            )
        return [(self.height_px, self.width_px)]

    def _refusal(self, height_px: int, width_px: int) -> str:
        """Return why it can't see pictures of another size; "" where it can."""
        if (height_px, width_px) == (self.height_px, self.width_px):
            return ""
        try:
            shape = self.run(height_px, width_px)
        except VisionError as error:
            return str(error)
        fits = shape[:2] == (self.pictures, self.width) and len(shape) == (4 if self.is_map else 2)
        return (
            "" if fits else f"{self.part.name} gives {shape[1]} features of {height_px} x {width_px}, not {self.width}"
        )

    @property
    def takes_floats(self) -> bool:
        """Whether pictures may come as floats: all that reads them makes floats of them."""
        name = self.model.graph.input[0].name
        return all(node.op_type == "Cast" for node in self.nodes if name in node.input)


@dataclass(slots=True)
class _Graph:
    """The graph in the making; its input are pictures uint8 (N, H, W, 3)."""

    like: onnx.ModelProto  # of its opset and IR version
    height_px: int
    width_px: int
    max_batch: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node, once; return its output."""
        from onnx import helper

        if output not in self.made:
            self.made.add(output)
            self.nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.tensors[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def view(self, body: _Body, prefix: str, size: tuple[int, int]) -> str:
        """Add a body that sees the picture at one size; return the name of its features."""
        part = body.part
        plain = self._features(body, f"{prefix}.", self._picture(size, body, flipped=False))
        if part.gives_features:
            return plain
        if part.flip_averaging:
            other = self._features(body, f"{prefix}f.", self._picture(size, body, flipped=True))
            both = self.add("Add", [plain, other], f"{prefix}:both")
            plain = self.add("Mul", [both, self.constant("half", np.array(0.5, np.float32))], f"{prefix}:mean")
        return self._hellinger(plain, prefix) if part.hellinger else plain

    def place(self, body: _Body, prefix: str, picture: str) -> str:
        """Copy the body's nodes, with ``picture`` as their input; return the name of its features as they come."""
        names = {body.model.graph.input[0].name: picture}
        _copy_into(self, body.model.graph, body.nodes, prefix, names, shared=f"{body.tag}.")
        return names[body.features]

    def _features(self, body: _Body, prefix: str, picture: str) -> str:
        """Return the body's features as float32 (N, width)."""
        import onnx

        last = self.place(body, prefix, picture)
        if body.part.gives_features:
            return last
        last = self.add("Cast", [last], f"{prefix}:float", to=onnx.TensorProto.FLOAT)
        if not body.is_map:
            return last
        pooled = self.add("GlobalAveragePool", [last], f"{prefix}:pooled")
        return self.add("Flatten", [pooled], f"{prefix}:flat", axis=1)

    def _hellinger(self, features: str, prefix: str) -> str:
        """Return the signed roots of features, brought to length 1; see `vision.networks.layered`."""
        size = self.add("Abs", [features], f"{prefix}:size")
        axis = self.constant("one", np.array([1], np.int64))
        total = self.add("ReduceSum", [size, axis], f"{prefix}:total", keepdims=1)
        above = self.add("Add", [total, self.constant("tiny", np.array(TINY, np.float32))], f"{prefix}:above")
        root = self.add("Sqrt", [self.add("Div", [size, above], f"{prefix}:part")], f"{prefix}:root")
        return self.add("Mul", [self.add("Sign", [features], f"{prefix}:sign"), root], f"{prefix}:hellinger")

    def _picture(self, size: tuple[int, int], body: _Body, *, flipped: bool) -> str:
        """Return the picture at a size, (N, h, w, 3), mirrored or not; in floats where it is resampled."""
        import onnx

        (height, width), picture = size, INPUT
        at = f"picture.{height}x{width}"
        if size != (self.height_px, self.width_px):
            planes = self.add("Cast", [INPUT], "picture.float", to=onnx.TensorProto.FLOAT)
            planes = self.add("Transpose", [planes], "picture.planes", perm=[0, 3, 1, 2])
            rows = self.constant(f"rows.{height}", bicubic_weights(self.height_px, height))
            columns = self.constant(f"columns.{width}", bicubic_weights(self.width_px, width).T)
            planes = self.add("MatMul", [rows, planes], f"{at}.rows")
            planes = self.add("MatMul", [planes, columns], f"{at}.columns")
            picture = self.add("Transpose", [planes], at, perm=[0, 2, 3, 1])
            if not body.takes_floats:
                ends = [self.constant(name, np.array(value, np.float32)) for name, value in (("low", 0), ("high", 255))]
                clipped = self.add("Round", [self.add("Clip", [picture, *ends], f"{at}.clipped")], f"{at}.round")
                picture = self.add("Cast", [clipped], f"{at}.uint8", to=onnx.TensorProto.UINT8)
        if flipped:
            order = self.constant(f"backwards.{width}", np.arange(width - 1, -1, -1, dtype=np.int64))
            picture = self.add("Gather", [picture, order], f"{picture}.flipped", axis=2)
        return picture

    def to_bytes(self, output: str, width: int | None) -> bytes:
        """Return the ONNX file; ``width`` of its output, where it is known."""
        from onnx import TensorProto, helper

        batch: int | str = self.max_batch or "N"
        images = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [batch, self.height_px, self.width_px, 3])
        shape = None if width is None else [batch, width]
        features = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, "sortline", [images], [features], list(self.tensors.values()))
        model = helper.make_model(graph, opset_imports=self.like.opset_import, ir_version=self.like.ir_version)
        if model.ByteSize() >= 2**31:
            raise JoinRefused("the backbones have more than 2 GB together, more than one ONNX file holds")
        return bytes(model.SerializeToString())


def _load(part: Part) -> onnx.ModelProto:
    """Return a part's graph, its constants all in one place."""
    import onnx

    model = onnx.load_model_from_string(part.onnx)
    constants = [node for node in model.graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    for node in constants:
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        model.graph.node.remove(node)
    return model


def _opset(model: onnx.ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def _raised(model: onnx.ModelProto, opset: int, name: str) -> onnx.ModelProto:
    """Return the model with the operators of a newer opset."""
    from onnx import version_converter

    if _opset(model) == opset:
        return model
    try:
        return version_converter.convert_version(model, opset)
    except Exception as error:  # of C++
        raise JoinRefused(
            f"{name} is of ONNX opset {_opset(model)} and can't be brought to {opset}, which is needed beside others: "
            f"{' '.join(str(error).split())[:200]}; export it again with opset {max(opset, 17)}, and import that"
        ) from error


def _needed(model: onnx.ModelProto, tensor: str) -> list[onnx.NodeProto]:
    """Return the nodes that a tensor is computed by, in their order."""
    wanted, found = {tensor}, []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            found.append(node)
            wanted.update(node.input)
    return found[::-1]


def _find_features(model: onnx.ModelProto, part: Part) -> str:
    """Return the tensor that the recipe names, or that goes into the last linear layer before the output."""
    nodes = _needed(model, model.graph.output[0].name)
    if part.features_at:
        for node in nodes:
            if part.features_at in (node.name, *node.output):
                return str(node.output[0])
        raise JoinRefused(f"{part.name} has no node {part.features_at!r}; its last ones are {_listed(nodes)}")
    linear = list(_linear(model, nodes))
    if not linear:
        raise JoinRefused(
            f"{part.name} has no linear layer before which features could be taken; name the node that gives them with "
            f"--features-at NODE; its last ones are {_listed(nodes)}"
        )
    return str(linear[-1].input[0])


def _linear(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that multiply features by weights that are constant: dense layers, and convolutions of 1 x 1."""
    makers = {output: node for node in nodes for output in node.output}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}

    def is_constant(name: str) -> bool:
        node = makers.get(name)
        if node is None:
            return name in weights or not name
        return node.op_type == "Constant" or (node.op_type in PASSING_CONSTANTS and all(map(is_constant, node.input)))

    for node in nodes:
        if node.op_type in ("Gemm", "MatMul") and is_constant(node.input[1]) and not is_constant(node.input[0]):
            yield node
        elif node.op_type == "Conv" and node.input[1] in weights:
            group = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            if group == 1 and set(weights[node.input[1]].dims[2:]) == {1}:
                yield node


def _listed(nodes: Sequence[onnx.NodeProto]) -> str:
    return ", ".join(f"{node.name or node.output[0]} ({node.op_type})" for node in nodes[-SHOWN:])


def _copy_into(
    graph: Any, source: onnx.GraphProto, nodes: Sequence[onnx.NodeProto], prefix: str, names: dict[str, str],
    shared: str = "",
) -> None:  # fmt: skip
    """Append nodes of ``source``, their tensors renamed by ``names``, which gets what is renamed here.

    Made tensors get ``prefix``, and constant ones ``shared``, so that several copies have them once.
    """
    import onnx

    constants = {tensor.name: tensor for tensor in source.initializer}
    target = graph.nodes if isinstance(graph, _Graph) else graph.node
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for place, name in enumerate(node.input):
            if name and name not in names:
                names[name] = f"{shared or prefix}{name}"
                tensor = onnx.TensorProto()
                tensor.CopyFrom(constants[name])
                tensor.name = names[name]
                if isinstance(graph, _Graph):
                    graph.tensors[tensor.name] = tensor
                else:
                    graph.initializer.append(tensor)
            copy.input[place] = names.get(name, "")
        for place, name in enumerate(node.output):
            if name:
                names[name] = copy.output[place] = f"{prefix}{name}"
        copy.name = f"{prefix}{node.name}" if node.name else ""
        target.append(copy)
