"""Thresholds from answers whose chance of being right is known, and what a training makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from base.decisions import TARGETS, decide
from vision.training.thresholds import are_accepted, find_thresholds
from worker.models.decisions import Judged, find_decisions
from worker.train.calibration import KNOWN, outlier_distance, outlier_scores

Answers = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]
OPTIMISM = np.array([0.0, 0.0, 0.2])  # how much surer than right the answers of a class are


def drawn(count: int, seed: int) -> Answers:
    """Return answers of three classes, their confidences, and which are right; those of the third are too sure."""
    random = np.random.default_rng(seed)
    answers, confidences = random.integers(0, 3, count), random.uniform(0.3, 1.0, count)
    right = random.uniform(size=count) < confidences - OPTIMISM[answers]
    return answers, confidences, right


@pytest.mark.parametrize("target", [0.8, 0.9])
def test_what_is_accepted_of_other_answers_is_right_as_often_as_asked_for(target: float) -> None:
    thresholds = find_thresholds(*drawn(30_000, 0), 3, target)
    answers, confidences, right = drawn(60_000, 1)

    taken = are_accepted(answers, confidences, thresholds)
    for index in (0, 1):
        own = taken & (answers == index)
        assert right[own].mean() == pytest.approx(target, abs=0.02)
        assert own.sum() > 0.15 * (answers == index).sum()
    assert right[taken].mean() >= target - 0.01
    needed = [2.0 if threshold is None else threshold for threshold in thresholds]
    assert needed[2] > max(needed[:2]) + 0.1  # it is less often right than it says


def test_a_run_of_luck_in_a_class_of_few_answers_is_no_precision() -> None:
    answers, confidences, right = drawn(2000, 2)
    lucky = (np.full(3, 3), np.full(3, 0.4), np.ones(3, bool))
    answers, confidences, right = (
        np.concatenate(pair) for pair in zip((answers, confidences, right), lucky, strict=True)
    )

    assert find_thresholds(answers, confidences, right, 4, 0.95)[3] is None


def test_answers_that_are_never_right_often_enough_are_never_accepted() -> None:
    thresholds = find_thresholds(np.zeros(50, np.int64), np.linspace(0.5, 1, 50), np.zeros(50, bool), 2, 0.8)

    assert thresholds == [None, None]
    assert not are_accepted(np.zeros(2, np.int64), np.ones(2), thresholds).any()


def test_decisions_count_unknown_images_as_not_accepted() -> None:
    random = np.random.default_rng(3)
    probabilities = np.array([[0.99, 0.01]] * 200)
    distances = random.uniform(0.1, 1.0, 200)
    outliers = outlier_scores(distances)

    found = find_decisions(Judged(probabilities, outliers), np.zeros(200, np.int64))

    known = float((outliers <= 1).mean())
    assert known == pytest.approx(KNOWN, abs=0.01)
    assert [found.accepted[f"{target:g}"] for target in TARGETS] == [known] * len(TARGETS)
    assert found.thresholds["0.95"] == [0.99, None]
    assert (found.outliers[0], found.outliers[-1]) == pytest.approx((outliers.min(), outliers.max()), abs=1e-5)


@pytest.mark.parametrize("distances", [np.full(10, np.inf), np.zeros(10)], ids=["one family", "equal images"])
def test_distances_that_mean_nothing_give_no_scores(distances: NDArray[np.float64]) -> None:
    assert outlier_distance(distances) == 0
    assert outlier_scores(distances).tolist() == [0.0] * 10


def test_an_image_without_an_outlier_score_is_known() -> None:
    assert [decide(0.5, 0.5, score) for score in (None, 1.0, 1.1)] == ["accept", "accept", "unknown"]
    assert [decide(1.0, threshold, 0.0) for threshold in (None, 0.9)] == ["review", "accept"]
