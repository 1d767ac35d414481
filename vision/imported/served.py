"""A foreign graph in the form that engines serve, with the preprocessing and the reference it is held to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vision.images import Pixels, Preprocessing
from vision.imported.description import Description, ImportRefused
from vision.imported.graph import INPUT, OUTPUT, ForeignGraph
from vision.imported.ir import IrGraph
from vision.imported.outliers import OUTLIER, OutlierScore
from vision.imported.reference import Outputs, Reference
from vision.imported.samples import preprocessing_of
from vision.serving import PROBABILITIES, GraphSpec, ModelFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a version needs of a foreign graph; ``reference`` is the graph as it came."""

    files: ModelFiles
    preprocessing: Preprocessing
    reference: Reference
    score: OutlierScore | None = None

    def expected(self, images: Pixels) -> Outputs:
        """Return what an engine should answer, by the graph as it came."""
        probabilities = self.reference(images)
        if self.score is None:
            return probabilities
        return np.column_stack([probabilities, self.score.of(probabilities)]).astype(np.float32)

    def scored(self, score: OutlierScore) -> Served:
        """Return the same with an outlier score."""
        spec, it = self.files.graph, self.reference
        wrapped = it.graph.wrap(it.facts, it.output, it.dimensions, spec.max_batch, score)
        return replace(self, files=_files(wrapped, replace(spec, outlier_name=OUTLIER)), score=score)


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
    return Served(files=_files(wrapped, spec), preprocessing=preprocessing_of(facts), reference=reference)


def _files(wrapped: bytes | tuple[bytes, bytes], spec: GraphSpec) -> ModelFiles:
    if isinstance(wrapped, bytes):
        return ModelFiles(onnx=wrapped, graph=spec)
    return ModelFiles(onnx=b"", ir=wrapped, graph=spec)


def _of_any_batch(graph: ForeignGraph | IrGraph, reference: Reference) -> bytes | tuple[bytes, bytes] | None:
    """Return the served form for any number of images at a time; None where one is built in."""
    try:
        wrapped = graph.wrap(reference.facts, reference.output, reference.dimensions)
    except RuntimeError:  # OpenVINO's, whose graphs are checked when they are made
        return None
    return wrapped if reference.takes_several(wrapped) else None
