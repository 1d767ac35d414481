"""An interrupted training: the same command goes on with the same job, whose checkpoints lie below its name."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from configs import Recipe, Settings
from producer.training.jobs import Training, TrainingFailed
from producer.training.unfinished import job_of


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", data_root=Path("/"))


@pytest.fixture
def training(tmp_path: Path) -> Training:
    (tmp_path / "photos").mkdir()
    return Training(dataset=tmp_path / "photos", name="digits")


def interrupted(settings: Settings, training: Training, *, epochs: int = 1, by: BaseException | None = None) -> str:
    """Return the job of a training that is interrupted after so many epochs."""
    error = by or KeyboardInterrupt()
    with suppress(type(error)), job_of(settings, training) as (job, _):
        if epochs:
            (settings.home / "checkpoints" / job).mkdir(parents=True)
        raise error
    return job


def test_the_same_command_goes_on_with_the_job_and_a_later_one_begins_anew(
    settings: Settings, training: Training
) -> None:
    begun = interrupted(settings, training)

    with job_of(settings, training) as found:
        assert found == (begun, True)
    with job_of(settings, training) as (job, is_begun):
        assert (job == begun, is_begun) == (False, False)


def test_another_training_or_one_without_a_checkpoint_begins_anew(settings: Settings, training: Training) -> None:
    begun = interrupted(settings, training)
    others = [replace(training, promote="never"), replace(training, name="other")]
    recipe = settings.model_copy(update={"training": Recipe(epochs=7)})

    for at, other in [*((settings, other) for other in others), (recipe, training)]:
        with job_of(at, other) as (job, is_begun):
            assert (job == begun, is_begun) == (False, False)
    early = interrupted(recipe, training, epochs=0)
    with job_of(recipe, training) as (job, is_begun):
        assert (job == early, is_begun) == (False, False)


def test_overwrite_removes_the_checkpoints_and_begins_anew(settings: Settings, training: Training) -> None:
    begun = interrupted(settings, training)

    with job_of(settings, replace(training, overwrite=True)) as (job, is_begun):
        assert (job == begun, is_begun) == (False, False)
    assert not (settings.home / "checkpoints" / begun).exists()


def test_a_training_that_failed_is_not_gone_on_with(settings: Settings, training: Training) -> None:
    failed = interrupted(settings, training, by=TrainingFailed("it diverges"))

    with job_of(settings, training) as (job, is_begun):
        assert (job == failed, is_begun) == (False, False)


def test_a_second_command_beside_the_first_gets_a_job_of_its_own(settings: Settings, training: Training) -> None:
    with job_of(settings, training) as (first, _), job_of(settings, training) as (second, is_begun):
        (settings.home / "checkpoints" / first).mkdir(parents=True)
        assert (second == first, is_begun) == (False, False)
