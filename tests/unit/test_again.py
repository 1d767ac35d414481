"""`sortline train --from`: a version's own images and recipe, and the sentence where they can't be had."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from configs import Settings, merge
from model_store import ManifestDraft, ModelStore
from producer.__main__ import run
from producer.errors import UsageError
from producer.training.again import origin_of
from producer.training.jobs import Training
from producer.training.sweep import Trial
from producer.training.training import confirming


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
    assert found == ("colours:2", "colours", [tmp_path / "store", tmp_path / "a%.csv"], {"epochs": 3})


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


def test_the_command_that_confirms_a_search_trains_the_same_version_on_the_same_images(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, corrections = tmp_path / "photos", tmp_path / "my corrections.csv"
    photos.mkdir()
    corrections.touch()
    publish(settings, {"datasets": [str(photos)], "recipe": {"epochs": 3}})
    seen: list[tuple[Settings, Training]] = []
    monkeypatch.setattr("producer.training.training.train", lambda *given: seen.append(given))
    where = ["--home", str(tmp_path), "--store", str(tmp_path / "store")]
    search = ["train", "--from", "colours:2", "--corrections", str(corrections), "--set", "seed=3"]

    assert run([*search, "--sweep", "epochs=4,5", *where]) == 0
    command = confirming(seen[0][1], Trial(2, {"epochs": 5}, seen[0][0].training))
    assert command == (
        f"sortline train --from colours:2 --corrections '{corrections}' --set seed=3 --set epochs=5 --folds 5"
    )
    assert run([*shlex.split(command)[1:], *where]) == 0
    recipe, training = seen[1][0].training, seen[1][1]
    assert (recipe.epochs, recipe.seed, training.name) == (5, 3, "colours")
    assert (training.dataset, training.later_sources) == (seen[0][1].dataset, seen[0][1].later_sources)


def test_the_command_that_confirms_a_search_names_the_recipe_where_one_was_named(tmp_path: Path) -> None:
    training = Training(dataset=tmp_path, name="x", typed=["photos", "--config", "digits"])
    best = Trial(1, {"lr_max": 0.1}, Settings().training)
    assert confirming(training, best) == "sortline train photos --config digits --set lr_max=0.1 --folds 5"
