"""What a version was trained on and how, so that it can be trained once more with what was corrected since."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from base.paths import text_to_path
from configs import Settings
from model_store import ModelStore
from producer.errors import UsageError


class Origin(NamedTuple):
    """The version, as ``kitchen:3``, the model's name, its datasets in their order, and its recipe."""

    reference: str
    name: str
    datasets: list[Path]
    recipe: dict[str, Any]


def origin_of(settings: Settings, reference: str) -> Origin:
    """Return where the version that ``reference`` means comes from.

    Raises:
        UsageError: it does not say so, as imported weights don't, or its images are not there any more.
        StoreError: there is no such version.
    """
    version = ModelStore(settings.store_root).resolve(reference)
    training = version.manifest.training
    named, recipe = training.get("datasets"), training.get("recipe")
    datasets = [Path(text_to_path(str(text))) for text in named] if isinstance(named, list) else []
    instead = f"name the images instead: sortline train DATASET corrections.csv --name {version.name}"
    if not datasets or not isinstance(recipe, dict):
        raise UsageError(f"{version.manifest.reference} does not say what it was trained on; {instead}")
    if gone := [path for path in datasets if not path.exists()]:
        raise UsageError(f"{version.manifest.reference} was trained on {gone[0]}, which is not there; {instead}")
    return Origin(str(version.manifest.reference), version.name, datasets, recipe)
