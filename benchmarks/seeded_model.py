"""``python -m benchmarks.seeded_model STORE``: publish MobileNetV2 at 224 x 224 with seeded weights, untrained."""

from __future__ import annotations

import sys
from pathlib import Path

import mindspore
import numpy as np

from benchmarks.home import CLASSES, SIDE_PX
from model_store.manifest import ClassEntry
from model_store.store import ModelStore
from vision.images.preprocess import Preprocessing
from vision.networks.mobilenet_v2 import MobileNetV2Spec
from vision.networks.network import build_network
from worker.models.publish import Publication, graph_of, publish


def publish_seeded(root: Path) -> None:
    """Put ``seeded:1`` into the store, in production."""
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_seed(0)
    spec = MobileNetV2Spec(convention="tf", classes=CLASSES, height_px=SIDE_PX, width_px=SIDE_PX)
    store = ModelStore(root)
    publication = Publication(
        graph=graph_of(build_network(spec)),
        preprocessing=Preprocessing(height_px=SIDE_PX, width_px=SIDE_PX),
        golden_images=np.random.default_rng(0).integers(0, 256, (4, SIDE_PX, SIDE_PX, 3), dtype=np.uint8),
        classes=[ClassEntry(label=f"class {index}", folder=str(index)) for index in range(CLASSES)],
    )
    version = publish(store, "seeded", publication)
    store.set_alias("seeded", "production", version.version, who="benchmark", why="the only one")


if __name__ == "__main__":
    publish_seeded(Path(sys.argv[1]))
