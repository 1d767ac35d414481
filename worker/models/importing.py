"""Pretrained weights become a version in the model store."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

from base.install import pip_install
from base.networks import PRETRAINED
from model_store import ClassEntry, ModelStore
from vision import WeightsError
from vision.imported import read_labels
from worker.models.files import prepare_mindspore

GOLDEN_IMAGES = 4


def pretrained_file(name: str) -> Path:
    """Return where the package that ships the weights ``name``, one of `PRETRAINED`, has them on this machine.

    Raises:
        WeightsError: it is not installed.
    """
    known = PRETRAINED[name]
    try:
        return Path(str(distribution(known.package).locate_file(known.file)))
    except PackageNotFoundError as error:
        needed = pip_install(f"{known.package}=={known.version}")
        raise WeightsError(f"the package that ships the weights {name} is not installed; run: {needed}") from error


def import_file(store: ModelStore, file: Path, name: str, convention: str | None, labels: str | Path | None) -> str:
    """Publish the weights in ``file`` as a new version of ``name``, in production; return lines for a person.

    Weights with a classifier and a list of their labels become a classifier, all others a backbone.

    Raises:
        WeightsError: the file doesn't hold a network we know; the message lists missing and unexpected keys.
        TextError: ``labels`` can't be read.
        EngineError: MindSpore is not installed.
    """
    prepare_mindspore("import")
    from dataclasses import replace

    from vision.images import Preprocessing
    from vision.networks import LayeredSpec, backbone_only, build_network, set_weights
    from worker.models.publish import Details, Publication, graph_of, publish
    from worker.models.reading import read_apart

    found = read_apart(file, convention)
    classes = _classes(labels, found.spec.classes)
    spec = found.spec if classes else replace(found.spec, classes=0)
    network = build_network(spec)
    set_weights(network, found.arrays if classes else backbone_only(found.arrays, spec))
    images = structured_images(spec.height_px, spec.width_px)
    preprocessing = Preprocessing(height_px=spec.height_px, width_px=spec.width_px, fit=spec.usual_fit)
    publication = Publication(
        graph=graph_of(network),
        preprocessing=preprocessing,
        golden_images=images,
        classes=classes,
        details=lambda proofs: Details(training={"imported_from": file.name, "notes": list(found.notes)}),
    )
    version = publish(store, name, publication)
    store.set_alias(name, "production", version.version, who="sortline models import", why=f"imported from {file.name}")
    convention = f", {spec.convention} convention" if isinstance(spec, LayeredSpec) else ""
    first = f"{version.manifest.reference}: {spec.name}, {version.manifest.kind}{convention}"
    return "\n".join([first, *(f"  {note}" for note in found.notes)])


def _classes(source: str | Path | None, outputs: int) -> list[ClassEntry]:
    if source is None:
        return []
    labels = read_labels(source)
    if len(labels) != outputs:
        raise WeightsError(f"{source} has {len(labels)} labels, the classifier {outputs} outputs")
    return [ClassEntry(label=label, folder=label) for label in labels]


def structured_images(height_px: int, width_px: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return uint8 (K, H, W, 3): noisy colour ramps that change when mirrored, turned or given other channel order."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0 : 1 : height_px * 1j, 0 : 1 : width_px * 1j]
    images = []
    for k in range(GOLDEN_IMAGES):
        ramps = np.stack([x ** (k + 1), 0.6 * y, 0.3 * (1 - x) * y], axis=-1)
        images.append(np.clip(ramps * 255 + random.normal(0, 12, ramps.shape), 0, 255))
    return np.stack(images).astype(np.uint8)
