"""Networks as files of other formats, and those files loaded again and run.

Graphs (ONNX, OpenVINO, MindIR) take uint8 (any N, H, W, 3) RGB and return float32 (N, outputs), scaling and softmax
inside; some have a second output, outlier scores (N, 1). Every writer's file appears by one rename. MindSpore, where it
is needed at all, is imported at the call: ONNX and OpenVINO files are copied, converted and run without it. It refuses
to write to paths with spaces or letters beyond ASCII, so it writes to a folder of ours first; reading them it minds
neither.

Writers raise VisionError where MindSpore can't express the network in that format, and OSError where ``path`` can't be
written; cells stay in inference mode. What runs a file raises EngineError where the engine is not installed or refuses
the file, and WeightsError for weights that do not fit.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from base.files import write_file
from vision.errors import EngineError, VisionError, WeightsError
from vision.networks import SPEC_KEY, Arrays, NetworkSpec, get_weights, read_safetensors, set_weights, spec_from_json
from vision.serving.engines import Images, ModelFiles, Outputs, open_engine
from vision.serving.engines.openvino import import_openvino
from vision.serving.engines.protocol import FEATURES, PROBABILITIES, GraphSpec

if TYPE_CHECKING:
    from mindspore import nn

OUTLIER = "outlier"  # the name of the output


def graph_spec_of(spec: NetworkSpec) -> GraphSpec:
    """Return what serving must know of the graph that ``export_onnx`` makes of a network."""
    kind = PROBABILITIES if spec.classes else FEATURES
    outlier_name = OUTLIER if spec.gives_outlier else ""
    return GraphSpec(
        height_px=spec.height_px, width_px=spec.width_px, outputs=spec.outputs, kind=kind, outlier_name=outlier_name
    )


def export_onnx(cell: nn.Cell, path: Path) -> None:
    """Write ``cell`` to ``path`` as an ONNX graph."""
    import mindspore.onnx

    images, graph = _any_batch(cell), graph_spec_of(cell.spec)
    with _draft_of(path, "onnx") as draft:
        mindspore.onnx.export(
            cell, images, file_name=draft, input_names=[graph.input_name], output_names=graph.output_names
        )


def export_head(head: nn.Cell) -> bytes:
    """Return a `ServedHead` as an ONNX graph: features float32 (any N, F) -> probabilities, and outlier scores."""
    import mindspore
    import mindspore.onnx

    features = mindspore.Tensor(shape=(None, head.spec.features), dtype=mindspore.float32)
    head.set_inputs(features)
    with tempfile.TemporaryDirectory(prefix="head-") as folder:
        path = Path(folder) / "head.onnx"
        with _draft_of(path, "onnx") as draft:
            names = ["probabilities", OUTLIER][: 1 + head.spec.gives_outlier]
            mindspore.onnx.export(head, features, file_name=draft, input_names=["features"], output_names=names)
        return path.read_bytes()


def exchange_weights(onnx: bytes, own: Arrays, others: Arrays) -> bytes | None:
    """Return the exported graph of a network with the weights of another one of the same layers, without an export.

    ``own`` are the weights that were exported, ``others`` those of the other network: no larger, since what is missing,
    as RBF centers may be, becomes zeros. Weights lie in the file as they lie in memory; None where one does not.
    """
    for name, mine in own.items():
        missing = [(0, more - fewer) for more, fewer in zip(mine.shape, others[name].shape, strict=True)]
        theirs = np.pad(others[name], missing)
        if not np.array_equal(mine, theirs):
            data = mine.tobytes()
            if onnx.count(data) != 1:
                return None
            onnx = onnx.replace(data, theirs.tobytes())
    return onnx


def export_mindir(cell: nn.Cell, path: Path) -> None:
    """Write ``cell`` to ``path`` as a MindIR graph; above 1 GB MindSpore splits its weights off, which is refused."""
    import mindspore

    images = _any_batch(cell)
    with _draft_of(path, "mindir") as draft:
        mindspore.export(cell, images, file_name=draft, file_format="MINDIR")


def export_checkpoint(network: nn.Cell, path: Path) -> None:
    """Write the network's weights to ``path`` as a MindSpore checkpoint.

    Names are those that the network's file says, of MobileNetV2 those of MindSpore's model zoo
    ("features.0.features.0.weight"); ``read_foreign`` knows them. Other arrays keep our names. A checkpoint has no
    place for the spec.
    """
    import mindspore

    names = _checkpoint_names(network.spec)
    arrays = get_weights(network).items()
    named = [{"name": names.get(name, name), "data": mindspore.Tensor(array)} for name, array in arrays]
    with _draft_of(path, "ckpt") as draft:
        mindspore.save_checkpoint(named, draft)


def export_openvino(onnx: bytes, path: Path) -> None:
    """Write an ONNX graph to ``path`` (an .xml) and the .bin beside it as OpenVINO's format, weights in float32.

    Raises:
        EngineError: OpenVINO is not installed, or can't read the graph or write the files.
    """
    openvino = import_openvino()
    with tempfile.TemporaryDirectory(prefix="openvino-") as folder:
        draft = Path(folder) / "network.xml"
        try:
            openvino.save_model(openvino.Core().read_model(onnx), draft, compress_to_fp16=False)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO could not convert the ONNX graph: {error}") from error
        # The .xml last: it finds its weights by its own name, so it must not be there before them.
        write_file(path.with_suffix(".bin"), draft.with_suffix(".bin").read_bytes())
        write_file(path, draft.read_bytes())


def run_onnx(path: Path, graph: GraphSpec, images: Images) -> tuple[Outputs, str]:
    """Return the outputs of an ONNX file in float32 and the engine: ONNX Runtime where installed, else OpenVINO."""
    name = "onnxruntime" if importlib.util.find_spec("onnxruntime") else "openvino"
    files = ModelFiles(onnx=path.read_bytes(), graph=graph)
    engine = open_engine(files, engine=name, device="cpu", precision="f32")
    try:
        return engine.predict(images), name
    finally:
        engine.close()


def run_openvino(path: Path, graph: GraphSpec, images: Images) -> Outputs:
    """Return the outputs of an OpenVINO .xml, computed in float32 on the CPU."""
    core = import_openvino().Core()
    try:
        # bf16 where a CPU has it would be a difference of the computer, not of the file.
        options = {"INFERENCE_PRECISION_HINT": "f32", "CACHE_DIR": ""}
        compiled = core.compile_model(core.read_model(path), "CPU", options)
        return graph.joined(compiled(images).to_tuple())
    except RuntimeError as error:
        raise EngineError(f"OpenVINO refuses {path.name}: {error}") from error


def run_mindir(path: Path, images: Images) -> Outputs:
    """Return the outputs of a MindIR file."""
    import mindspore

    from vision.networks import as_array

    try:
        return as_array(mindspore.nn.GraphCell(mindspore.load(str(path)))(mindspore.Tensor(images)))
    except (RuntimeError, TypeError, ValueError) as error:
        raise EngineError(f"MindSpore refuses {path.name}: {error}") from error


def run_safetensors(path: Path, spec: NetworkSpec, images: Images) -> Outputs:
    """Return the outputs of a new network with the weights of a .safetensors file of ours.

    Raises:
        WeightsError: they do not fit, or the header states another spec.
    """
    arrays, metadata = read_safetensors(path.read_bytes())
    if SPEC_KEY not in metadata or spec_from_json(json.loads(metadata[SPEC_KEY])) != spec:
        raise WeightsError(f"{path.name}: its header does not state this network, so it would be imported as another")
    return _run_network(spec, arrays, images)


def run_checkpoint(path: Path, spec: NetworkSpec, images: Images) -> Outputs:
    """Return the outputs of a new network of ``spec`` with the weights that ``export_checkpoint`` wrote."""
    import mindspore

    stored = {name: parameter.asnumpy() for name, parameter in mindspore.load_checkpoint(str(path)).items()}
    ours = {theirs: name for name, theirs in _checkpoint_names(spec).items()}
    return _run_network(spec, {ours.get(name, name): array for name, array in stored.items()}, images)


def _run_network(spec: NetworkSpec, arrays: Arrays, images: Images) -> Outputs:
    from vision.networks import build_network, build_served, run_once

    network = build_network(spec)
    set_weights(network, arrays)
    return run_once(build_served(network), images)


def _checkpoint_names(spec: NetworkSpec) -> dict[str, str]:
    """Return the names in a checkpoint of those of our arrays that have others there."""
    return {translation.ours: translation.foreign for translation in spec.namings()[spec.checkpoint_naming].arrays}


def _any_batch(cell: nn.Cell) -> Any:
    """Return a stand-in for images, of any batch size, and make ``cell`` take it in inference mode."""
    import mindspore

    images = mindspore.Tensor(shape=(None, cell.spec.height_px, cell.spec.width_px, 3), dtype=mindspore.uint8)
    cell.set_train(False)
    cell.set_inputs(images)
    return images


@contextmanager
def _draft_of(path: Path, kind: str) -> Iterator[str]:
    """Yield the name of a file for MindSpore to write, then copy it to ``path``; it must be alone in its folder."""
    with tempfile.TemporaryDirectory(prefix=f"{kind}-") as folder:
        draft = Path(folder) / f"network.{kind}"
        try:
            yield str(draft)
        except (RuntimeError, TypeError, ValueError) as error:
            raise VisionError(f"MindSpore could not export the network as {kind}: {error}") from error
        others = sorted(file.name for file in draft.parent.iterdir() if file != draft)
        if others:
            raise VisionError(
                f"the export as {path.suffix} is split over several files ({', '.join(others)}); "
                "a reader of one file, which holds at most 2 GB, would miss the others"
            )
        write_file(path, draft.read_bytes())
