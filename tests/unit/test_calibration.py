"""Temperature scaling on logits whose true temperature is known, and which images it is fitted on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.recipe import Recipe
from vision.training.dataset import Dataset, LabelledImage
from vision.training.metrics import fit_temperature, reliability, softmax
from worker.train.calibration import ENOUGH, OutOfFold


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
    # Four of four: a confidence of 5/6, and the rest on three classes.
    assert fit_temperature(np.eye(4) * 9, np.arange(4)) == pytest.approx(9 / np.log(15), rel=1e-3)


@pytest.mark.parametrize("count", [8, 18, 300])
def test_few_images_that_are_all_right_do_not_make_sure(count: int) -> None:
    targets = np.arange(count) % 4
    logits = np.eye(4)[targets] * 9

    confidence = softmax(logits, fit_temperature(logits, targets)).max(axis=1).mean()

    assert confidence == pytest.approx((count + 1) / (count + 2), abs=0.002)


@pytest.mark.parametrize(
    ("recipe", "freeze", "given", "validating", "are_wanted"),
    [
        ({}, "backbone", False, ENOUGH - 1, True),
        ({}, "backbone", False, ENOUGH, False),
        ({}, "backbone", True, 10, False),
        ({}, "features.2", False, 10, False),
        ({}, "none", False, 10, False),
        ({"backbone": "cells", "rbf_centers": 8}, "backbone", True, ENOUGH, True),
    ],
)
def test_answers_out_of_fold_are_wanted_where_they_cost_little_and_gain_something(
    recipe: dict[str, Any], freeze: str, given: bool, validating: int, are_wanted: bool
) -> None:
    image = LabelledImage(Path("a.png"), 0)
    dataset = Dataset(root=Path(), classes=(), train=(image,), validation=(image,) if given else None, families={})
    training = SimpleNamespace(recipe=Recipe(**recipe), freeze=freeze)
    split = SimpleNamespace(named={}, validation=SimpleNamespace(images=[image] * validating))

    answers = OutOfFold(cast("Any", training), cast("Any", None), dataset, cast("Any", split), cast("Any", None))

    assert answers.are_wanted is are_wanted
