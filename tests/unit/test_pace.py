"""What a training says of the time it takes."""

from __future__ import annotations

import pytest

from worker.training import SAID_EVERY_S, _Pace


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
