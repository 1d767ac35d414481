"""All that is known of a graph before it runs: from itself, from files beside it, from a preset, from the user."""

from __future__ import annotations

from pathlib import Path

from vision.imported.description import Description, ImportRefused
from vision.imported.graph import ForeignGraph
from vision.imported.ir import IrGraph
from vision.imported.labels import read_labels
from vision.imported.sources import MODEL_INFO, folder, openvino, preset, standard, ultralytics


def gather(
    graph: ForeignGraph | IrGraph,
    beside: Path | None = None,
    *,
    preset_name: str | None = None,
    said: Description | None = None,
    labels: str | None = None,
) -> Description:
    """Return the facts of a graph, complete but for what running it will show.

    Args:
        beside: the folder of its configs.
        said: what the user says.
        labels: see `read_labels`.

    Raises:
        ImportRefused: a fact is missing, wrong, or contradicts the graph.
        TextError: the labels can't be read.
    """
    facts = standard(graph.properties).add(ultralytics(graph.properties, graph.size))
    facts.add(openvino(graph.properties, graph.size, graph.dtype))
    if beside is not None:
        facts.add(folder(beside, graph.size))
    said = said or Description()
    if preset_name is not None:
        facts.add(preset(preset_name, graph.size or said.get("size") or facts.get("size")))
    facts.add(said)
    if labels is not None:
        facts.state(labels, labels=read_labels(labels))
    _hold_to_graph(graph, facts)
    more = ["layout"] if graph.layout is None else []
    # Model API turns a program's BGR pictures round, or leaves them; then only the program knows their order.
    more += ["colours"] if any(name.startswith(MODEL_INFO) for name in graph.properties) else []
    facts.check_complete(more)
    return facts


def _hold_to_graph(graph: ForeignGraph | IrGraph, facts: Description) -> None:
    """State what the graph itself shows, unless somebody says otherwise, which can't be."""
    for name, value in (("size", graph.size), ("layout", graph.layout)):
        if value is None:
            continue
        if name in facts.facts and facts.get(name) != value:
            said = facts.facts[name]
            raise ImportRefused(f"{said.source} says that {name} is {said.value}, and the graph takes {value}")
        if name not in facts.facts:
            facts.state("the graph", **{name: value})
    if graph.dtype == "uint8":
        stated = [name for name in ("scale", "mean", "std") if name in facts.facts]
        if stated and (facts.get("scale", 1.0), facts.get("mean", 0.0)) != (1.0, (0.0, 0.0, 0.0)):
            raise ImportRefused(f"the graph takes uint8 and scales itself; leave out {', '.join(stated)}")
        facts.state("the graph takes uint8", scale=1.0, mean=0.0, std=1.0)
