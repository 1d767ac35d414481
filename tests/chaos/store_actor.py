"""``python -m tests.chaos.store_actor STORE publish|promote``: do it again and again until killed."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from model_store.manifest import ManifestDraft
from model_store.store import ModelStore
from tests.unit.test_model_store import draft


def write(folder: Path) -> ManifestDraft:
    (folder / "weights.safetensors").write_bytes(os.urandom(200_000))
    (folder / "serving.onnx").write_bytes(os.urandom(200_000))
    return draft()


def main() -> None:
    """Act on the model ``waste``."""
    store, who = ModelStore(Path(sys.argv[1])), f"actor {os.getpid()}"
    chance = random.Random(os.getpid())  # noqa: S311
    while True:
        if sys.argv[2] == "publish":
            store.publish("waste", write)
        elif versions := store.versions("waste"):
            store.set_alias("waste", "production", chance.choice(versions), who=who, why="chaos")


if __name__ == "__main__":
    main()
