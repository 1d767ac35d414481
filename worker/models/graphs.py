"""A classifier of another framework becomes a version in the model store.

The graph is held to itself: ONNX Runtime on the file as it came gives the golden outputs, and ``--check`` holds it to
the answers of the user's own framework. MindSpore is not loaded: it can't share a process with the onnx package.
"""

from __future__ import annotations

import argparse
import math
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

from base.errors import ImageError
from base.image_files import has_image_suffix
from configs import read_toml
from model_store import ClassEntry, ModelStore, PrecisionProof
from vision.images import Preprocessing, load_image
from vision.imported import (
    PRESETS,
    Description,
    ImportRefused,
    check_samples,
    gather,
    read_graph,
    read_ir,
    read_json,
    read_samples,
    serve,
)
from vision.networks import USUAL_FLOAT_ENDS
from vision.serving import CALIBRATION_IMAGES, Images, can_quantise
from vision.training import LabelledImage
from worker.models.calibration import calibrate
from worker.models.importing import structured_images
from worker.models.publish import Details, Graph, Publication, publish

MEMORY_BYTES: Final = 12 << 30  # of address space; a graph of 2 GB is held about four times
CPU_S: Final = 1800
CALIBRATION_CPU_S: Final = 1800  # more: 1,000 photos one by one
MOST_PHOTOS: Final = 1000  # of --calibrate
TOLERANCE: Final = 1e-4  # of a probability, between the original file and the served form on any engine
HALF_TOLERANCE: Final = 5e-3  # where the graph takes 16-bit floats, which engines round elsewhere
CHECK_TOLERANCE: Final = 1e-3  # of a probability, between another framework and the original file
GRAPHS: Final = ("model.onnx", "onnx/model.onnx")  # as optimum writes them
TORCH: Final = """\
import torch
network.eval()  # your network, its weights loaded
torch.onnx.export(network, torch.zeros(1, 3, 224, 224), "model.onnx", opset_version=17, dynamo=False)"""
KERAS: Final = """\
pip install tf2onnx
python -m tf2onnx.convert --saved-model FOLDER --output model.onnx --opset 17
# Keras 3, where a loaded network is called once before it can be exported:
# network = keras.models.load_model("network.keras"); network(numpy.zeros((1, 224, 224, 3)))
# network.export("model.onnx", format="onnx")"""
TFLITE: Final = """\
pip install tf2onnx
python -m tf2onnx.convert --tflite network.tflite --output model.onnx --opset 17"""
# The name of what is neither ONNX nor OpenVINO, and how it becomes one, by suffix.
OTHERS: Final = {
    ".pt": ("a PyTorch file", TORCH),
    ".pth": ("a PyTorch file", TORCH),
    ".bin": ("a PyTorch file", TORCH),
    ".torchscript": ("a TorchScript file", TORCH),
    ".keras": ("a Keras file", KERAS),
    ".h5": ("a Keras file", KERAS),
    ".hdf5": ("a Keras file", KERAS),
    ".pb": ("a TensorFlow file", KERAS),
    ".tflite": ("a TensorFlow Lite file", TFLITE),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `import_graph` reads of the command line."""
    parser.add_argument("path", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--labels")
    parser.add_argument("--preset", choices=PRESETS)
    parser.add_argument("--preprocess", action="append", default=[])
    parser.add_argument("--check", type=Path)
    parser.add_argument("--tolerance", type=float, default=CHECK_TOLERANCE)
    parser.add_argument("--calibrate", type=Path)


def import_bounded(store: ModelStore, options: argparse.Namespace) -> str:
    """Do `import_graph` with what memory and time this process may take, from here on, bounded.

    Raises:
        ImportRefused: also for more memory.
    """
    cpu_s = CPU_S if options.calibrate is None else CPU_S + CALIBRATION_CPU_S
    for limit, value in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CPU, cpu_s)):
        resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))
    try:
        return "\n".join(import_graph(store, options))
    except MemoryError as error:
        raise ImportRefused(f"{options.path} needs more than {MEMORY_BYTES >> 30} GiB of memory") from error


def import_graph(store: ModelStore, options: argparse.Namespace) -> list[str]:
    """Publish the graph of the options as a new version, in production; return lines for a person.

    Raises:
        ImportRefused: something is missing, wrong, or not to be served; nothing is published.
    """
    path: Path = options.path
    file = graph_file(path)
    graph = read_ir(file) if file.suffix.lower() == ".xml" else read_graph(file)
    beside = path if path.is_dir() else None
    facts = gather(graph, beside, preset_name=options.preset, said=_said(options.preprocess), labels=options.labels)
    served = serve(graph, facts)
    if options.check is not None:
        samples = read_samples(options.check, facts.get("labels"))
        facts.remarks.append(check_samples(samples, served.reference, options.tolerance))
    else:
        facts.remarks.append("check: none; --check SAMPLES.csv would hold it to the answers of your own framework")
    preprocessing, photos, calibration = served.preprocessing, [], None
    if options.calibrate is not None:
        photos = _photos(options.calibrate, facts.get("labels"))
        calibration = calibrate(served, photos)
        served = calibration.served
        facts.remarks += calibration.lines
    else:
        facts.remarks.append("precision: f32; --calibrate PHOTOS judges faster ones on your photos")
        facts.remarks.append("outlier score: none; --calibrate PHOTOS finds one, and thresholds if they are labelled")
    lines, why = facts.lines(), f"imported from {path.name}"
    publication = Publication(
        graph=Graph(
            files=served.files,
            reference=served.expected,
            reference_name="the file as it came",
            tolerance=TOLERANCE if graph.dtype == "float32" else HALF_TOLERANCE,
            float_ends=USUAL_FLOAT_ENDS,
        ),
        preprocessing=preprocessing,
        golden_images=structured_images(preprocessing.height_px, preprocessing.width_px),
        validation=photos,
        f16=bool(photos),
        calibration=_pixels(photos[:CALIBRATION_IMAGES], preprocessing) if photos and can_quantise() else None,
        classes=[ClassEntry(label=label, folder=label) for label in facts.get("labels")],
        held_out=calibration.held_out if calibration is not None else None,
        decisions=calibration.decisions if calibration is not None else None,
        details=lambda proofs: Details(training={"imported_from": path.name, "notes": lines}),
    )
    version = publish(store, options.name, publication)
    store.set_alias(options.name, "production", version.version, who="sortline models import", why=why)
    proofs = [f"{name}: {_judged(proof)}" for name, proof in version.manifest.precisions.items()]
    shown = [*lines, *proofs]
    return [f"{version.manifest.reference}: a classifier, in production", *(f"  {line}" for line in shown)]


def _photos(folder: Path, labels: list[str]) -> list[LabelledImage]:
    """Return images below ``folder``, spread over it; one in a folder called as a label has this class, others none.

    Raises:
        ImportRefused: there are none.
    """
    found = sorted(path for path in folder.rglob("*") if has_image_suffix(path.name) and path.is_file())
    if not found:
        raise ImportRefused(f"--calibrate {folder}: there are no images")
    index = {label: number for number, label in enumerate(labels)}
    step = math.ceil(len(found) / MOST_PHOTOS)
    return [LabelledImage(path, index.get(path.parent.name, -1)) for path in found[::step]]


def _pixels(photos: list[LabelledImage], preprocessing: Preprocessing) -> Images:
    images = []
    for photo in photos:
        with suppress(ImageError):
            images.append(load_image(photo.path, preprocessing).pixels)
    return np.stack(images) if images else np.empty((0, preprocessing.height_px, preprocessing.width_px, 3), np.uint8)


def _judged(proof: PrecisionProof) -> str:
    verdict = "passed, may serve" if proof.passed else "differs too much, not served"
    return f"{proof.equal:.1%} of {proof.images} photos labelled as in f32; {verdict}"


def _said(texts: list[str]) -> Description:
    """Return the facts of ``--preprocess``: NAME=VALUE, and files of them, .json or .toml."""
    facts = Description()
    for text in texts:
        name, equals, value = text.partition("=")
        path = Path(text)
        if equals:
            facts.state("--preprocess", **{name.strip(): value.strip()})
        else:
            facts.state(path.name, **(read_json(path) if path.suffix.lower() == ".json" else read_toml(path)))
    return facts


def graph_file(path: Path) -> Path:
    """Return the ONNX or OpenVINO file at ``path``, or in that folder.

    Raises:
        ImportRefused: there is none, or several; files of other frameworks are named, with what makes ONNX of them.
    """
    if path.suffix.lower() in OTHERS and not path.is_dir():
        what, how = OTHERS[path.suffix.lower()]
        raise ImportRefused(f"{path.name} is {what}; make an ONNX file of it, in its own framework:\n{how}")
    if not path.is_dir():
        return path
    usual = [path / name for name in GRAPHS if (path / name).is_file()]
    found = usual[:1] or sorted(path.glob("*.onnx")) or sorted(path.glob("*.xml"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.name for file in found)
        raise ImportRefused(f"{path} holds {names}; give one of them, or call it {GRAPHS[0]}")
    if (path / "saved_model.pb").is_file():
        raise ImportRefused(f"{path} is a SavedModel; make an ONNX file of it:\n{KERAS}")
    raise ImportRefused(f"{path} holds no .onnx file; export one into it:\n{TORCH}")
