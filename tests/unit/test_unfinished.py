"""An interrupted training: the same command goes on with the same job, whose checkpoints lie below its name."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from configs import Recipe, Settings
from producer.training.jobs import Training, TrainingFailed
from producer.training.sweep import Trial
from producer.training.unfinished import job_of, search_of


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


def test_another_training_begins_anew(settings: Settings, training: Training) -> None:
    begun = interrupted(settings, training)
    others = [replace(training, promote="never"), replace(training, name="other")]
    recipe = settings.model_copy(update={"training": Recipe(epochs=7)})

    for at, other in [*((settings, other) for other in others), (recipe, training)]:
        with job_of(at, other) as (job, is_begun):
            assert (job == begun, is_begun) == (False, False)


def test_one_without_a_checkpoint_stays_the_same_job_which_may_have_published_its_version(
    settings: Settings, training: Training
) -> None:
    begun = interrupted(settings, training, epochs=0)

    with job_of(settings, training) as found:
        assert found == (begun, False)


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


def trials(*epochs: int) -> list[Trial]:
    return [Trial(number, {"epochs": epoch}, Recipe(epochs=epoch)) for number, epoch in enumerate(epochs, start=1)]


def begun_search(settings: Settings, training: Training) -> str:
    """Return the name of a search whose first trial is done and whose second one is cut off in its note."""
    first, second = trials(1, 2)
    with suppress(KeyboardInterrupt), search_of(settings, training, [first, second]) as log:
        first.job, first.state, first.text, first.scores = "a", "done", "val 90%", {"val_top1": 0.9, "val_loss": 0.1}
        second.job, second.state = "b", "running"
        log.add(first)
        log.add(second)
        (note,) = (path for path in (settings.home / "trainings").iterdir() if path.suffix != ".lock")
        note.write_text(note.read_text() + '{"trial": 2, "job": "c", "sta')
        raise KeyboardInterrupt
    return log.name


def test_the_same_search_goes_on_with_its_name_its_jobs_and_what_is_done(
    settings: Settings, training: Training
) -> None:
    name = begun_search(settings, training)

    with suppress(KeyboardInterrupt), search_of(settings, training, found := trials(1, 2)) as log:
        seen = [trial.job for trial in found]
        found[1].job = "d"
        log.add(found[1])  # behind the line that was cut off
        raise KeyboardInterrupt
    with search_of(settings, training, again := trials(1, 2)):
        pass

    assert log.name == name
    assert seen == ["a", "b"]
    for first, second in (found, again):
        assert (first.job, first.state, first.text, first.scores["val_top1"]) == ("a", "done", "val 90%", 0.9)
        assert (second.job, second.state, second.scores) == ("d", "planned", {})
    with search_of(settings, training, trials(1, 2)) as later:
        assert later.name != name  # the search has been published


@pytest.mark.parametrize("other", ["trials", "options", "added", "changed", "linked", "overwrite"])
def test_a_search_of_other_trials_options_or_images_begins_anew(
    other: str, settings: Settings, training: Training, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (training.dataset / "linked").symlink_to(tmp_path / "elsewhere")
    (training.dataset / "a.png").write_bytes(b"a")
    name = begun_search(settings, training)
    (settings.home / "checkpoints" / f"{name}-t02").mkdir(parents=True)
    tried = trials(1, 3) if other == "trials" else trials(1, 2)
    if other in ("options", "overwrite"):
        training = replace(training, fail_on_leak=other == "options", overwrite=other == "overwrite")
    for where, file in (("added", "b.png"), ("changed", "a.png"), ("linked", "linked/c.png")):
        if where == other:
            (training.dataset / file).write_bytes(b"bb")

    with search_of(settings, training, tried) as log:
        assert log.name != name

    assert [trial.job for trial in tried] == ["", ""]
    assert (settings.home / "checkpoints" / f"{name}-t02").exists() == (other != "overwrite")


def test_a_second_search_beside_the_first_is_one_of_its_own(settings: Settings, training: Training) -> None:
    with search_of(settings, training, trials(1)) as first, search_of(settings, training, trials(1)) as second:
        assert first.name != second.name
