"""The files of a model version, by name, and what those need that open them."""

from __future__ import annotations

import io
from functools import partial
from typing import Final

import numpy as np

from base.install import pip_install
from model_store import ModelStore, ModelVersion
from vision import EngineError
from vision.serving import GraphSpec, Images, MindSporeNetwork, ModelFiles, Outputs

SERVING: Final = "serving.onnx"
SERVING_IR: Final = ("serving.xml", "serving.bin")  # instead of it, for a graph that came in OpenVINO's format
FIRST: Final = "first.onnx"  # the first stage of a cascade
WEIGHTS: Final = "weights.safetensors"
GOLDEN: Final = "golden.npz"
OUTPUTS: Final = {SERVING: "outputs", FIRST: "first_outputs"}  # of each graph, in the golden file
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
        onnx=read(SERVING) if SERVING in version.manifest.files else b"",
        ir=(read(SERVING_IR[0]), read(SERVING_IR[1])) if set(SERVING_IR) <= version.manifest.files.keys() else None,
        graph=GraphSpec.from_json(version.manifest.graph),
        int8=(read(INT8[0]), read(INT8[1])) if quantised else None,
        mindspore=None if network is None else lambda: MindSporeNetwork(spec=network, weights=read(WEIGHTS)),
    )


def read_golden(store: ModelStore, version: ModelVersion, graph: str = SERVING) -> tuple[Images, Outputs]:
    """Return the golden images and the outputs of the reference of ``graph`` for them, verified.

    Raises:
        ChecksumError: the file is missing or is not what was published.
    """
    data = store.open_file(version.name, version.version, GOLDEN)
    with np.load(io.BytesIO(data), allow_pickle=False) as golden:
        return golden["images"], golden[OUTPUTS[graph]]


def prepare_mindspore(what: str) -> None:
    """Have MindSpore compile whole graphs for the CPU; EngineError where it is missing: ``what`` needs it."""
    try:
        import mindspore
    except ImportError as error:
        raise EngineError(f"{what} needs MindSpore here: {pip_install('sortline[train]')}") from error
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    # Once a cell has run in this process, even setting the same device again is refused.
    if mindspore.get_context("device_target") != "CPU":
        mindspore.set_device("CPU")
