"""``python -m worker.models.exporting REFERENCE``: a version of the store becomes a file for other programs.

    NAME.SUFFIX     the network; for OpenVINO an .xml with its .bin beside it
    NAME.json       labels, preprocessing, input and output: what somebody needs to use the file right

The file is loaded again and must answer the version's golden images before it appears.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from base.files import write_file
from configs.errors import SettingsError
from configs.settings import load_settings
from model_store.errors import StoreError
from model_store.manifest import Manifest
from model_store.store import ModelStore, ModelVersion
from vision.errors import EngineError, VisionError
from vision.images.preprocess import Preprocessing
from vision.networks.spec import MOBILENET_V2, NetworkSpec
from vision.networks.weights import read_safetensors, set_weights
from vision.serving.engines import Images, Outputs
from vision.serving.export import (
    INPUT_NAME,
    OUTPUT_NAME,
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

USAGE = 2  # exit code of a command line that asks for what can't be, as the producer's

_RESIZE = "turn upright by the EXIF orientation; {}; average where a side shrinks, interpolate linearly where it grows"
STEPS = {  # of vision/images/preprocess.py
    "stretch": _RESIZE.format("scale each side to width_px and height_px"),
    "crop": _RESIZE.format("cut out crop_fraction of the largest centred part of that aspect ratio, then scale it"),
    "pad": _RESIZE.format("scale the whole image to fit, then centre it on black"),
}

ReadFile = Callable[[str], bytes]  # a file of the version, verified


class ExportRefused(WorkerError):
    """The export can't be written where it was asked for."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a version becomes a file, and how that file is run again: ``run`` returns its outputs and what ran it."""

    suffix: str
    write: Callable[[ReadFile, NetworkSpec, Path], None]
    run: Callable[[Path, NetworkSpec, Images], tuple[Outputs, str]]
    needs_mindspore: bool


def main(arguments: list[str] | None = None) -> int:
    """Export a version; print what was made; return the exit code."""
    parser = argparse.ArgumentParser(prog="sortline models export")
    parser.add_argument("reference")
    parser.add_argument("--format", choices=list(FORMATS), required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--force", action="store_true")
    options = parser.parse_args(arguments)
    try:
        store = ModelStore(load_settings().store_root)
        print(export_version(store, options.reference, options.format, options.output, force=options.force))
    except ExportRefused as error:
        print(f"sortline: {error}", file=sys.stderr)
        return USAGE
    except (VisionError, StoreError, SettingsError, OSError) as error:
        print(f"sortline: {error}", file=sys.stderr)
        return 1
    return 0


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
    spec = NetworkSpec.from_json(manifest.network)
    target = _target(output, manifest, file_format)
    description = _description(manifest, spec)
    _refuse_existing(target, description, force=force)
    if made.needs_mindspore:
        _prepare_mindspore(file_format)

    def read(file_name: str) -> bytes:
        return store.open_file(version.name, version.version, file_name)

    # Beside the target, since a rename reaches no other disk.
    draft = Path(tempfile.mkdtemp(prefix=".sortline-export-", dir=target.parent)) / target.name
    try:
        made.write(read, spec, draft)
        proof = _prove(version, read, made, draft, spec)
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


def _prepare_mindspore(file_format: str) -> None:
    try:
        import mindspore
    except ImportError as error:
        raise EngineError(f'the format {file_format} needs MindSpore here: pip install "sortline[train]"') from error
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    # Once a cell has run in this process, even setting the same device again is refused.
    if mindspore.get_context("device_target") != "CPU":
        mindspore.set_device("CPU")


def _prove(version: ModelVersion, read: ReadFile, made: Format, draft: Path, spec: NetworkSpec) -> str:
    """Run the file on the version's golden images; return the largest difference as a line for a person."""
    manifest = version.manifest
    if manifest.golden is None:
        raise EngineError(f"{manifest.reference} was published without golden images, so no export can be proven")
    tolerance = manifest.golden.tolerance
    with np.load(io.BytesIO(read("golden.npz")), allow_pickle=False) as golden:
        images, expected = golden["images"], golden["outputs"]
    outputs, runner = made.run(draft, spec, images)
    if outputs.shape != expected.shape:
        raise EngineError(
            f"{manifest.reference} as {draft.suffix}: {runner} answers the golden images with {outputs.shape}, "
            f"published is {expected.shape}; nothing was written"
        )
    difference = float(np.abs(outputs - expected).max(initial=0.0))
    if not difference <= tolerance:  # also catches NaN
        raise EngineError(
            f"{manifest.reference} as {draft.suffix}: {runner} answers the golden images with a difference of "
            f"{difference:.2g} (allowed: {tolerance:g}); nothing was written"
        )
    return (
        f"  proven with {runner} on {len(images)} golden images: difference {difference:.1e} (allowed: {tolerance:g})"
    )


def _description(manifest: Manifest, spec: NetworkSpec) -> bytes:
    """Return the JSON file that says how to use an export; the same one for every format."""
    preprocessing = Preprocessing.from_json(manifest.preprocessing)
    record: dict[str, Any] = {
        "model": manifest.reference,
        "digest": manifest.digest,
        "kind": manifest.kind,
        "labels": [entry.label for entry in manifest.classes],
        "preprocessing": {**preprocessing.to_json(), "steps": STEPS[preprocessing.fit]},
        "graph": _graph(spec),
        "weights": _weights(spec),
        "network": manifest.network,
    }
    return (json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _graph(spec: NetworkSpec) -> dict[str, Any]:
    output: dict[str, Any] = {"name": OUTPUT_NAME, "shape": [None, spec.outputs], "dtype": "float32"}
    if spec.classes:
        output["meaning"] = "the probability of each label, in the order of labels"
        output["temperature"] = spec.temperature
        output["calibration"] = "softmax(logits / temperature), done in the graph: do not divide again"
    else:
        output["meaning"] = "features to train on, no probabilities"
    return {
        "formats": ["onnx", "openvino", "mindir"],
        "input": {
            "name": INPUT_NAME,  # MindIR has no names; it takes its one input by position
            "shape": [None, spec.height_px, spec.width_px, 3],
            "dtype": "uint8",
            "layout": "NHWC",
            "colours": "RGB",
            "values": "0 to 255; scaling is part of the graph",
        },
        "output": output,
    }


def _weights(spec: NetworkSpec) -> dict[str, Any]:
    found: dict[str, Any] = {
        "formats": ["safetensors", "ckpt"],
        "input": "float32 (N, 3, height, width), RGB: pixel * network.scale + network.offset, a channel each",
        "output": "logits; the probabilities are softmax(logits / network.temperature)" if spec.classes else "features",
    }
    if spec.name == MOBILENET_V2:
        found["padding"] = "SAME as TensorFlow's" if spec.same_padding else "1 on every side of a 3x3 convolution"
        found["batch_norm_epsilon"] = spec.batch_norm_epsilon
    return found


def _network(read: ReadFile, spec: NetworkSpec) -> Any:
    from vision.networks.served import build_network

    network = build_network(spec)
    arrays, _ = read_safetensors(read("weights.safetensors"))
    set_weights(network, arrays)
    return network


def _write_mindir(read: ReadFile, spec: NetworkSpec, path: Path) -> None:
    from vision.networks.served import build_served

    export_mindir(build_served(_network(read, spec)), path, height_px=spec.height_px, width_px=spec.width_px)


FORMATS = {
    "onnx": Format(
        ".onnx",
        write=lambda read, spec, path: write_file(path, read("serving.onnx")),
        run=run_onnx,
        needs_mindspore=False,
    ),
    "mindir": Format(
        ".mindir",
        write=_write_mindir,
        run=lambda path, spec, images: (run_mindir(path, images), "MindSpore"),
        needs_mindspore=True,
    ),
    "ckpt": Format(
        ".ckpt",
        write=lambda read, spec, path: export_checkpoint(_network(read, spec), path),
        run=lambda path, spec, images: (run_checkpoint(path, spec, images), "MindSpore"),
        needs_mindspore=True,
    ),
    "safetensors": Format(
        ".safetensors",
        write=lambda read, spec, path: write_file(path, read("weights.safetensors")),
        run=lambda path, spec, images: (run_safetensors(path, spec, images), "MindSpore"),
        needs_mindspore=True,
    ),
    "openvino": Format(
        ".xml",
        write=lambda read, spec, path: export_openvino(read("serving.onnx"), path),
        run=lambda path, spec, images: (run_openvino(path, images), "OpenVINO"),
        needs_mindspore=False,
    ),
}


if __name__ == "__main__":
    sys.exit(main())
