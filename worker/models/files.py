"""The files of a model version, by name, and what engines need of them."""

from __future__ import annotations

from functools import partial
from typing import Final

from model_store import ModelStore, ModelVersion
from vision.serving import GraphSpec, MindSporeNetwork, ModelFiles

SERVING: Final = "serving.onnx"
WEIGHTS: Final = "weights.safetensors"
GOLDEN: Final = "golden.npz"
INT8: Final = ("serving.int8.xml", "serving.int8.bin")


def read_files(store: ModelStore, version: ModelVersion) -> ModelFiles:
    """Return what engines need of a version, verified. A network's weights are read for the engine that asks for them.

    Raises:
        ChecksumError: a file is missing or is not what was published.
    """
    read = partial(store.open_file, version.name, version.version)
    quantised = set(INT8) <= version.manifest.files.keys()
    network = version.manifest.network
    return ModelFiles(
        onnx=read(SERVING),
        graph=GraphSpec.from_json(version.manifest.graph),
        int8=(read(INT8[0]), read(INT8[1])) if quantised else None,
        mindspore=None if network is None else lambda: MindSporeNetwork(spec=network, weights=read(WEIGHTS)),
    )
