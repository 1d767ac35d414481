"""A foreign graph in the form that engines serve, with the preprocessing and the reference it is held to."""

from __future__ import annotations

from dataclasses import dataclass

from vision.images import Preprocessing
from vision.imported.description import Description
from vision.imported.graph import INPUT, OUTPUT, ForeignGraph, wrap
from vision.imported.reference import Reference
from vision.imported.samples import preprocessing_of
from vision.serving import PROBABILITIES, GraphSpec, ModelFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a version needs of a foreign graph; ``reference`` is the graph as it came."""

    files: ModelFiles
    preprocessing: Preprocessing
    reference: Reference


def serve(graph: ForeignGraph, facts: Description) -> Served:
    """Return the served form of a graph. What its run shows of its outputs is added to ``facts``.

    Raises:
        ImportRefused: its answers are not those of a classifier, or not what the facts say.
    """
    reference = Reference(graph, facts)
    onnx = wrap(graph, facts, reference.output, reference.dimensions)
    several = reference.takes_several(onnx)
    if not several:
        onnx = wrap(graph, facts, reference.output, reference.dimensions, batch=1)
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
    files = ModelFiles(onnx=onnx, graph=spec)
    return Served(files=files, preprocessing=preprocessing_of(facts), reference=reference)
