"""A training job beside its figures: what it says of the time it takes, and what it refuses at its start."""

from __future__ import annotations

from pathlib import Path

import pytest

import worker.training
from configs.settings import Settings, TrainingSettings
from jobs.messages import TrainModel
from worker.errors import JobRefused
from worker.runtime import Runtime
from worker.training import SAID_EVERY_S, _Pace, train_model


def test_an_8_bit_graph_that_this_worker_can_not_make_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.training, "can_quantise", lambda: False)
    job = TrainModel(job="train-x", dataset="photos", name="x", recipe={})
    runtime = Runtime(Settings(home=tmp_path / "home", data_root=tmp_path))

    with pytest.raises(JobRefused, match=r"CPU with VNNI, and pip install .*; set int8 = false"):
        train_model(job, TrainingSettings(int8=True), runtime, report=print, cancelled=lambda: False)


def test_a_long_training_says_once_how_long_it_will_take_as_soon_as_a_step_was_timed() -> None:
    said: list[str] = []
    pace = _Pace(said.append, "")

    for step in range(2, 40):
        pace(step, 1000, 3.5)

    assert said == ["step 2/1000, 3500 ms each, eta 3493 s"]


def test_a_short_training_says_nothing_beforehand() -> None:
    said: list[str] = []
    pace = _Pace(said.append, "")

    for step in range(2, 40):
        pace(step, 1000, 0.001)

    assert said == []


def test_a_long_epoch_says_now_and_then_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    now = 100.0
    monkeypatch.setattr("worker.training.time.monotonic", lambda: now)
    pace = _Pace(said.append, "fold 2/5, ")
    for step in range(1, 9):
        now += SAID_EVERY_S / 2
        pace(step, 10, SAID_EVERY_S / 2)

    assert said[0] == "fold 2/5, step 1/10, 2500 ms each, eta 22 s"
    assert said[1:] == [f"fold 2/5, step {step}/10, 2500 ms each, eta {(10 - step) * 2.5:.0f} s" for step in (3, 5, 7)]
