"""The network that a job trains: built as the recipe says, on the job's backbone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vision.networks import (
    backbone_only,
    build_network,
    get_weights,
    network_kind,
    own_options,
    read_safetensors,
    set_weights,
    spec_from_json,
)
from vision.training import cut_of
from worker.errors import JobRefused
from worker.models.files import WEIGHTS
from worker.train.training import Training

# What of a recipe is the network's: fields of its spec.
SHAPE = set({
    "height_px", "width_px", "pooling", "intermediate_layers", "scales", "flip_averaging", "hellinger", "rbf_centers",
    "head_bias",
})  # fmt: skip


def build(training: Training, classes: int) -> Any:
    """Return the network for so many classes, with the backbone's weights.

    Raises:
        JobRefused: the backbone is another than the recipe or the producer means, or is no network.
    """
    recipe, pin, store = training.recipe, training.job.backbone, training.runtime.store
    shape = {"classes": classes, **recipe.model_dump(include=SHAPE)}
    kind = network_kind(recipe.network)
    if pin is None:
        return build_network(kind(**own_options(kind, shape)))
    version = store.resolve(str(pin))
    if version.manifest.digest != pin.digest:
        raise JobRefused(f"the worker's store holds another {pin} than the producer saw; use one store for both")
    if version.manifest.network is None:
        raise JobRefused(f"{pin} came as a graph without a network, so nothing can be trained on it")
    spec = spec_from_json(version.manifest.network)
    if spec.name != recipe.network:
        raise JobRefused(f"the backbone {pin} is a {spec.name}, the recipe wants {recipe.network}")
    arrays, _ = read_safetensors(store.open_file(pin.name, pin.version, WEIGHTS))
    network = build_network(replace(spec, temperature=1.0, **own_options(kind, shape)))
    cut_of(network.spec, recipe.freeze)
    set_weights(network, backbone_only(arrays, spec), allow_missing_head=True)
    return network


def with_new_head(training: Training, network: Any, images: int) -> Any:
    """Return a copy of ``network`` with a new head, of as many RBF centers as there are ``images``, at most."""
    fresh = build_network(replace(network.spec, rbf_centers=min(network.spec.rbf_centers, images)))
    if training.job.backbone is not None:
        set_weights(fresh, backbone_only(get_weights(network), network.spec), allow_missing_head=True)
    return fresh
