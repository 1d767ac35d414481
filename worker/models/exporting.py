"""A version of the store becomes a file for other programs.

    NAME.SUFFIX     the network; for OpenVINO an .xml with its .bin beside it
    NAME.json       labels, preprocessing, input and output: what somebody needs to use the file right

The file is loaded again and must answer the version's golden images before it appears.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from base.files import write_file
from model_store import Manifest, ModelStore
from vision import EngineError
from vision.images import Preprocessing
from vision.networks import CONVENTIONS, NetworkSpec, read_safetensors, set_weights, spec_from_json
from vision.serving import (
    PROBABILITIES,
    GraphSpec,
    Images,
    Outputs,
    export_checkpoint,
    export_mindir,
    export_openvino,
    run_checkpoint,
    run_mindir,
    run_onnx,
    run_openvino,
    run_safetensors,
)
from worker.errors import WorkerError
from worker.models.files import SERVING, SERVING_IR, WEIGHTS, prepare_mindspore, read_golden

_RESIZE = "turn upright by the EXIF orientation; {}; average where a side shrinks, interpolate linearly where it grows"
STEPS = {  # of vision/images/preprocess.py
    "stretch": _RESIZE.format("scale each side to width_px and height_px"),
    "crop": _RESIZE.format("cut out crop_fraction of the largest centred part of that aspect ratio, then scale it"),
    "pad": _RESIZE.format("scale the whole image to fit, then centre it on black"),
}

MINDSPORE = "MindSpore"


class ExportRefused(WorkerError):
    """The export can't be written where it was asked for."""


@dataclass(frozen=True, slots=True)
class VersionFiles:
    """A version as formats see it: ``read`` returns the bytes of one of its files, verified."""

    manifest: Manifest
    read: Callable[[str], bytes]

    @property
    def graph(self) -> GraphSpec:
        return GraphSpec.from_json(self.manifest.graph)

    @property
    def network_spec(self) -> NetworkSpec:
        return spec_from_json(self.manifest.network)


Write = Callable[[VersionFiles, Path], None]


@dataclass(frozen=True, slots=True)
class Format:
    """How a version becomes a file, and how that file is run again.

    Attributes:
        run: returns the outputs of the written file, and what ran it.
        is_graph: whether the file is a whole graph, and not weights.
        needs_network: whether writing and running it takes MindSpore and the version's network.
    """

    suffix: str
    write: Write
    run: Callable[[VersionFiles, Path, Images], tuple[Outputs, str]]
    is_graph: bool = False
    needs_network: bool = False


def export_version(store: ModelStore, reference: str, file_format: str, output: Path, *, force: bool = False) -> str:
    """Write a version as ``output`` with its description beside it; return lines for a person.

    All files are written and proven in a folder of their own first, so that a refused export leaves nothing behind.

    Args:
        file_format: a key of ``FORMATS``.
        output: the file to write, or a folder for NAME-VERSION.SUFFIX.
        force: replace files that are there.

    Raises:
        ExportRefused: ``output`` can't be that file, or is there already.
        EngineError: the written file answers the version's golden images differently, or a library is missing.
        StoreError: no such version, or its files are not what was published.
    """
    version = store.resolve(reference)
    manifest, made = version.manifest, FORMATS[file_format]
    files = VersionFiles(manifest, partial(store.open_file, version.name, version.version))
    target = _target(output, manifest, file_format)
    description = _description(manifest)
    _refuse_existing(target, description, force=force)
    if made.needs_network:
        if manifest.network is None:
            able = " or ".join(name for name, other in FORMATS.items() if not other.needs_network)
            raise ExportRefused(f"{reference} is a graph without a MindSpore network; pass --format {able}")
        prepare_mindspore(f"the format {file_format}")
    if file_format == "onnx" and SERVING not in manifest.files:
        raise ExportRefused(f"{reference} came in OpenVINO's format, of which no ONNX is made; pass --format openvino")
    # Beside the target, since a rename reaches no other disk.
    draft = Path(tempfile.mkdtemp(prefix=".sortline-export-", dir=target.parent)) / target.name
    try:
        made.write(files, draft)
        proof = _prove(files, made, draft, *read_golden(store, version))
        write_file(draft.with_suffix(".json"), description)
        _refuse_existing(target, description, force=force)  # the export took seconds: somebody else may have been here
        target.unlink(missing_ok=True)  # first: a crash must not leave a file beside another one's weights or labels
        others = sorted(path for path in draft.parent.iterdir() if path != draft)
        for path in [*others, draft]:
            path.replace(target.with_name(path.name))
    finally:
        shutil.rmtree(draft.parent, ignore_errors=True)
    lines = [
        f"{manifest.reference} as {file_format}: {target}",
        *(f"  beside it: {path.name}" for path in others),
        proof,
    ]
    return "\n".join(lines)


def _target(output: Path, manifest: Manifest, file_format: str) -> Path:
    suffix = FORMATS[file_format].suffix
    if output.is_dir():
        return output / f"{manifest.name}-{manifest.version}{suffix}"
    if output.suffix != suffix:
        raise ExportRefused(f"--output {output.name}: a file of format {file_format} ends in {suffix}")
    if not output.parent.is_dir():
        raise ExportRefused(f"--output: no such folder: {output.parent}; make it first")
    return output


def _refuse_existing(target: Path, description: bytes, *, force: bool) -> None:
    companions = [target.with_suffix(".bin")] if target.suffix == ".xml" else []
    taken = [path for path in (target, *companions) if path.exists()]
    beside = target.with_suffix(".json")
    # The description is the version's, whatever the format: two exports of one version share it.
    if beside.exists() and not (beside.is_file() and beside.read_bytes() == description):
        taken.append(beside)
    folders = [path for path in taken if path.is_dir()]
    if folders:
        raise ExportRefused(f"{folders[0]} is a folder; pass another --output")
    if taken and not force:
        raise ExportRefused(f"{', '.join(map(str, taken))} exists; pass --force to replace it, or another --output")


def _prove(files: VersionFiles, made: Format, draft: Path, images: Images, expected: Outputs) -> str:
    """Run the file on the version's golden images; return the largest difference as a line for a person."""
    manifest = files.manifest
    if manifest.golden is None:
        raise EngineError(f"{manifest.reference} was published without golden images, so no export can be proven")
    tolerance = manifest.golden.tolerance
    outputs, runner = made.run(files, draft, images)
    whose = f"{manifest.reference} as {draft.suffix}: {runner} answers the golden images with"
    if outputs.shape != expected.shape:
        raise EngineError(f"{whose} {outputs.shape}, published is {expected.shape}; nothing was written")
    difference = files.graph.difference(outputs, expected)
    if not difference <= tolerance:  # also catches NaN
        raise EngineError(f"{whose} a difference of {difference:.2g} (allowed: {tolerance:g}); nothing was written")
    return (
        f"  proven with {runner} on {len(images)} golden images: difference {difference:.1e} (allowed: {tolerance:g})"
    )


def _description(manifest: Manifest) -> bytes:
    """Return the JSON file that says how to use an export; the same one for every format."""
    preprocessing = Preprocessing.from_json(manifest.preprocessing)
    record: dict[str, Any] = {
        "model": manifest.reference,
        "digest": manifest.digest,
        "kind": manifest.kind,
        "labels": [entry.label for entry in manifest.classes],
        "preprocessing": {**preprocessing.to_json(), "steps": STEPS[preprocessing.fit]},
        "graph": _graph(GraphSpec.from_json(manifest.graph), manifest.network or {}),
    }
    if manifest.network is not None:
        record |= {"weights": _weights(manifest.network), "network": manifest.network}
    return (json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _graph(graph: GraphSpec, network: Mapping[str, Any]) -> dict[str, Any]:
    output: dict[str, Any] = {"name": graph.output_name, "shape": [None, graph.outputs], "dtype": "float32"}
    if graph.kind == PROBABILITIES:
        output["meaning"] = "the probability of each label, in the order of labels"
        if "temperature" in network:
            output["temperature"] = network["temperature"]
            output["calibration"] = "softmax(logits / temperature), done in the graph: do not divide again"
    else:
        output["meaning"] = "features to train on, no probabilities"
    outlier = {
        "outlier": {
            "name": graph.outlier_name,
            "shape": [None, 1],
            "dtype": "float32",
            "meaning": "how unlike the images of training the image is; above 1: probably none of the labels",
        }
    }
    return {
        "formats": [name for name, made in FORMATS.items() if made.is_graph],
        "input": {
            "name": graph.input_name,  # MindIR has no names; it takes its one input by position
            "shape": [None, *graph.image_shape],
            "dtype": graph.dtype,
            "layout": graph.layout,
            "colours": graph.colours,
            "values": "0 to 255; scaling is part of the graph",
        },
        "output": output,
        **(outlier if graph.outlier_name else {}),
    }


def _weights(network: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "formats": [name for name, made in FORMATS.items() if not made.is_graph],
        "input": "float32 (N, 3, height, width), RGB: pixel * network.scale + network.offset, a channel each",
        "output": "features",
    }
    if network["classes"]:
        found["output"] = "logits; the probabilities are softmax(logits / network.temperature)"
    if "convention" in network:
        convention = CONVENTIONS[network["convention"]]
        found |= {"padding": convention.padding, "batch_norm_epsilon": convention.batch_norm_epsilon}
    return found


def _copy(name: str) -> Write:
    return lambda files, path: write_file(path, files.read(name))


def _write_openvino(files: VersionFiles, path: Path) -> None:
    if SERVING in files.manifest.files:
        export_openvino(files.read(SERVING), path)
        return
    for name in reversed(SERVING_IR):  # the .xml last
        write_file(path.with_suffix(Path(name).suffix), files.read(name))


def _network(files: VersionFiles) -> Any:
    from vision.networks import build_network

    network = build_network(files.network_spec)
    arrays, _ = read_safetensors(files.read(WEIGHTS))
    set_weights(network, arrays)
    return network


def _write_mindir(files: VersionFiles, path: Path) -> None:
    from vision.networks import build_served

    export_mindir(build_served(_network(files)), path)


# What a format needs is imported when it is used: "onnx" and "openvino" do without MindSpore.
FORMATS: Final[Mapping[str, Format]] = {
    "onnx": Format(
        ".onnx",
        write=_copy(SERVING),
        run=lambda files, path, images: run_onnx(path, files.graph, images),
        is_graph=True,
    ),
    "openvino": Format(
        ".xml",
        write=_write_openvino,
        run=lambda files, path, images: (run_openvino(path, files.graph, images), "OpenVINO"),
        is_graph=True,
    ),
    "mindir": Format(
        ".mindir",
        write=_write_mindir,
        run=lambda files, path, images: (run_mindir(path, images), MINDSPORE),
        is_graph=True,
        needs_network=True,
    ),
    "safetensors": Format(
        ".safetensors",
        write=_copy(WEIGHTS),
        run=lambda files, path, images: (run_safetensors(path, files.network_spec, images), MINDSPORE),
        needs_network=True,
    ),
    "ckpt": Format(
        ".ckpt",
        write=lambda files, path: export_checkpoint(_network(files), path),
        run=lambda files, path, images: (run_checkpoint(path, files.network_spec, images), MINDSPORE),
        needs_network=True,
    ),
}
