"""`sortline train --from`: a version's own images and recipe, and the sentence where they can't be had."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from configs import Settings, merge
from model_store import ManifestDraft, ModelStore
from producer.errors import UsageError
from producer.training.again import origin_of


@pytest.fixture
def settings(tmp_path: Path, model_store: Path) -> Settings:
    shutil.copytree(model_store, tmp_path / "store")
    return Settings(home=tmp_path, store=tmp_path / "store")


def publish(settings: Settings, training: dict[str, Any]) -> None:
    """A second version of ``colours`` that says this of its training."""
    store = ModelStore(settings.store_root)
    first = store.resolve("colours:1")
    draft = ManifestDraft(**{name: getattr(first.manifest, name) for name in ManifestDraft.model_fields})

    def write(folder: Path) -> ManifestDraft:
        for name in first.manifest.files:
            (folder / name).write_bytes(store.open_file("colours", 1, name))
        return draft.model_copy(update={"training": training})

    store.publish("colours", write)


def test_a_version_says_what_it_was_trained_on_and_how(settings: Settings, tmp_path: Path) -> None:
    publish(settings, {"datasets": [str(tmp_path / "store"), f"{tmp_path}/a%25.csv"], "recipe": {"epochs": 3}})
    (tmp_path / "a%.csv").touch()

    found = origin_of(settings, "colours:2")
    assert found == ("colours", [tmp_path / "store", tmp_path / "a%.csv"], {"epochs": 3})


@pytest.mark.parametrize(
    ("training", "why"),
    [
        ({"recipe": {}}, "colours:2 does not say what it was trained on"),
        ({"datasets": ["/gone/photos"], "recipe": {}}, "colours:2 was trained on /gone/photos, which is not there"),
        ({"datasets": "/", "recipe": {}}, "does not say"),
    ],
)
def test_where_that_is_not_known_or_gone_the_images_are_to_be_named(
    settings: Settings, training: dict[str, Any], why: str
) -> None:
    publish(settings, training)
    with pytest.raises(UsageError, match=f"{why}.*sortline train DATASET corrections.csv --name colours"):
        origin_of(settings, "colours:2")


def test_a_recipe_is_changed_within_its_tables() -> None:
    recipe = {"epochs": 3, "augmentation": {"flip": True, "repeat": 2}}
    merge(recipe, {"augmentation": {"repeat": 0}, "seed": 1})

    assert recipe == {"epochs": 3, "augmentation": {"flip": True, "repeat": 0}, "seed": 1}
