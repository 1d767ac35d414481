"""Temperature scaling on logits whose true temperature is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vision.training.metrics import fit_temperature, reliability, softmax


def calibration_error(logits: NDArray[np.float64], targets: NDArray[np.int64], temperature: float) -> float:
    return reliability(softmax(logits, temperature), targets).expected_error


def drawn(temperature: float, count: int = 20_000) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits, and classes drawn from softmax(logits / temperature)."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (count, 5))
    noisy = logits / temperature + random.gumbel(size=logits.shape)  # the largest of these is such a draw
    return logits, noisy.argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_classes_were_drawn_with_is_found(temperature: float) -> None:
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.05)


def test_the_error_is_small_at_the_right_temperature_and_large_at_a_wrong_one() -> None:
    logits, targets = drawn(3.0)

    assert calibration_error(logits, targets, 3.0) < 0.02
    assert calibration_error(logits, targets, 1.0) > 0.2


def test_confident_and_wrong_is_the_worst_there_is() -> None:
    assert calibration_error(np.array([[50.0, 0.0]]), np.array([1]), 1.0) == pytest.approx(1.0)


def test_logits_that_are_always_right_give_a_finite_temperature() -> None:
    assert 0.04 < fit_temperature(np.eye(4) * 9, np.arange(4)) < 1
