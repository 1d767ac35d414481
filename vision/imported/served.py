"""A foreign graph in the form that engines serve, with the preprocessing and the reference it is held to."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vision.images import Preprocessing
from vision.imported.description import Description, ImportRefused
from vision.imported.graph import INPUT, OUTPUT, ForeignGraph
from vision.imported.ir import IrGraph
from vision.imported.reference import Reference
from vision.imported.samples import preprocessing_of
from vision.serving import PROBABILITIES, GraphSpec, ModelFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a version needs of a foreign graph; ``reference`` is the graph as it came."""

    files: ModelFiles
    preprocessing: Preprocessing
    reference: Reference


def serve(graph: ForeignGraph | IrGraph, facts: Description) -> Served:
    """Return the served form of a graph. What its run shows of its outputs is added to ``facts``.

    Raises:
        ImportRefused: its answers are not those of a classifier, or not what the facts say.
    """
    graph = replace(graph, layout=graph.layout or facts.get("layout"))
    reference = Reference(graph, facts)
    wrapped = _of_any_batch(graph, reference)
    several = wrapped is not None
    if wrapped is None:
        try:
            wrapped = graph.wrap(facts, reference.output, reference.dimensions, batch=1)
        except RuntimeError as error:
            raise ImportRefused(f"the graph does not take one image at a time: {error}") from error
        facts.remarks.append("batch: one image at a time is built into the graph; a dynamic batch would be faster")
    height, width = facts.get("size")
    spec = GraphSpec(
        height_px=height,
        width_px=width,
        outputs=len(facts.get("labels")),
        kind=PROBABILITIES,
        input_name=INPUT,
        output_name=OUTPUT,
        max_batch=0 if several else 1,
    )
    if isinstance(wrapped, bytes):
        files = ModelFiles(onnx=wrapped, graph=spec)
    else:
        files = ModelFiles(onnx=b"", ir=wrapped, graph=spec)
    return Served(files=files, preprocessing=preprocessing_of(facts), reference=reference)


def _of_any_batch(graph: ForeignGraph | IrGraph, reference: Reference) -> bytes | tuple[bytes, bytes] | None:
    """Return the served form for any number of images at a time; None where one is built in."""
    try:
        wrapped = graph.wrap(reference.facts, reference.output, reference.dimensions)
    except RuntimeError:  # OpenVINO's, whose graphs are checked when they are made
        return None
    return wrapped if reference.takes_several(wrapped) else None
