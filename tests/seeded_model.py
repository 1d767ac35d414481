"""``python -m tests.seeded_model STORE [NAME VERSIONS]``: publish a small network with seeded weights, untrained.

By default as ``colours:1``. The last version is in production. ``kitchen``, which the guides name, has thresholds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mindspore
import numpy as np

from base.decisions import TARGETS, target_name
from model_store.manifest import ClassEntry, Decisions, HeldOut
from model_store.store import ModelStore
from vision.images.preprocess import Preprocessing
from vision.networks.lenet5 import LeNet5Spec
from vision.networks.network import build_network
from worker.models.publish import Publication, graph_of, publish

LABELS = ("red", "green", "blue", "grey")
SIZE_PX = 32
DECISIONS = Decisions(
    images=100,
    thresholds={target_name(target): [target / len(LABELS)] * len(LABELS) for target in TARGETS},
    accepted={target_name(target): 0.5 for target in TARGETS},
    outliers=[0.0] * 101,
)


def publish_seeded(root: Path, name: str = "colours", seed: int = 1) -> None:
    """Put a version into the store, and into production."""
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_seed(seed)
    network = build_network(LeNet5Spec(classes=len(LABELS), height_px=SIZE_PX, width_px=SIZE_PX))
    store = ModelStore(root)
    publication = Publication(
        graph=graph_of(network),
        preprocessing=Preprocessing(height_px=SIZE_PX, width_px=SIZE_PX),
        golden_images=np.random.default_rng(0).integers(0, 256, (8, SIZE_PX, SIZE_PX, 3), dtype=np.uint8),
        held_out=HeldOut(confidences=[100 * (place == 25) for place in range(100)], labels=[25] * len(LABELS)),
        decisions=DECISIONS if name.startswith("kitchen") else None,
        classes=[ClassEntry(label=label, folder=label, group="any") for label in LABELS],
    )
    version = publish(store, name, publication)
    store.set_alias(name, "production", version.version, who="tests", why="the newest")


if __name__ == "__main__":
    store_root, name, versions = (*sys.argv[1:], "colours", "1")[:3] if len(sys.argv) == 2 else sys.argv[1:]
    for number in range(int(versions)):
        publish_seeded(Path(store_root), name, seed=number + 1)
