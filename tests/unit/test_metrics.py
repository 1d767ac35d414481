"""Figures of predictions, held to values counted by hand and to scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from base.intervals import wilson_interval
from vision.training.metrics import (
    class_scores,
    confused_pairs,
    confusion_matrix,
    cross_entropy,
    group_accuracy,
    reliability,
    softmax,
    top_k_accuracy,
)

TARGETS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 0, 0])
MATRIX = np.array([[2, 1, 0], [1, 1, 0], [1, 0, 0]])


def random_case(seed: int, classes: int = 7, images: int = 400) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (images, classes))
    return logits, (logits + random.normal(0, 2, logits.shape)).argmax(axis=1)


def test_rows_of_the_matrix_are_true_classes_and_columns_predicted_ones() -> None:
    matrix = confusion_matrix(TARGETS, PREDICTED, 3)

    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, MATRIX)


def test_a_class_index_that_is_too_large_is_an_error() -> None:
    with pytest.raises(IndexError):
        confusion_matrix(TARGETS, PREDICTED + 1, 2)


def test_scores_of_classes_are_those_counted_by_hand() -> None:
    scores = class_scores(MATRIX)

    np.testing.assert_array_equal(scores.support, [3, 2, 1])
    np.testing.assert_allclose(scores.precision, [2 / 4, 1 / 2, np.nan])
    np.testing.assert_allclose(scores.recall, [2 / 3, 1 / 2, 0])
    np.testing.assert_allclose(scores.f1, [4 / 7, 1 / 2, 0])


def test_what_was_not_measured_is_nan_and_not_zero() -> None:
    scores = class_scores(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]]))

    np.testing.assert_array_equal(scores.precision, [1, 0, np.nan])
    np.testing.assert_array_equal(scores.recall, [3 / 4, np.nan, np.nan])
    np.testing.assert_array_equal(scores.f1, [6 / 7, 0, np.nan])


@pytest.mark.parametrize("seed", range(3))
def test_scores_agree_with_scikit_learn(seed: int) -> None:
    logits, targets = random_case(seed)
    if seed == 0:
        targets[targets == 3] = 2  # a class without images
    if seed == 1:
        logits[:, 4] = -20  # a class that is never predicted
    predicted, labels = logits.argmax(axis=1), np.arange(7)

    matrix = confusion_matrix(targets, predicted, 7)
    scores = class_scores(matrix)

    np.testing.assert_array_equal(matrix, sklearn_metrics.confusion_matrix(targets, predicted, labels=labels))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of 0/0
        expected = sklearn_metrics.precision_recall_fscore_support(
            targets, predicted, labels=labels, zero_division=np.nan
        )
        top3 = sklearn_metrics.top_k_accuracy_score(targets, logits, k=3, labels=labels)
        loss = sklearn_metrics.log_loss(targets, softmax(logits, 1.5), labels=labels)
    for found, theirs in zip((scores.precision, scores.recall, scores.f1, scores.support), expected, strict=True):
        np.testing.assert_allclose(found, theirs)
    assert top_k_accuracy(logits, targets, 1) == pytest.approx((predicted == targets).mean())
    assert top_k_accuracy(logits, targets, 3) == pytest.approx(top3)
    assert cross_entropy(logits, targets, 1.5) == pytest.approx(loss)


def test_a_mistake_within_a_group_is_right_for_the_group() -> None:
    assert group_accuracy(MATRIX, ["dry", "dry", "wet"]) == pytest.approx(5 / 6)
    assert group_accuracy(MATRIX, ["dry", "wet", "dry"]) == pytest.approx(4 / 6)


def test_classes_without_a_group_do_not_form_one() -> None:
    assert group_accuracy(MATRIX, [None, None, None]) == pytest.approx(3 / 6)
    assert group_accuracy(MATRIX, ["dry", None, None]) == pytest.approx(3 / 6)


def test_confused_pairs_come_by_number_then_by_class() -> None:
    matrix = np.array([[9, 1, 4], [4, 9, 0], [0, 1, 9]])

    assert confused_pairs(matrix, 3) == [(0, 2, 4), (1, 0, 4), (0, 1, 1)]
    assert confused_pairs(matrix, 99)[3:] == [(2, 1, 1)]
    assert confused_pairs(np.diag([3, 4]), 5) == []
    assert matrix[0, 0] == 9  # the caller's matrix stays as it was


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (20, 20, 1 - 0.1611, 1.0)],
)
def test_the_interval_of_an_accuracy_is_the_published_one(right: int, images: int, low: float, high: float) -> None:
    """Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3."""
    assert wilson_interval(right / images, images) == pytest.approx((low, high), abs=5e-5)


def test_reliability_is_that_counted_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.45, 0.55], [0.0, 1.0]])

    found = reliability(probabilities, np.array([0, 1, 1, 1, 0]), bins=4)

    np.testing.assert_array_equal(found.images, [0, 0, 2, 3])  # 0.55 and 0.7; 0.8, 0.9 and 1
    np.testing.assert_allclose(found.confidence, [np.nan, np.nan, 0.625, 0.9])
    np.testing.assert_allclose(found.accuracy, [np.nan, np.nan, 1 / 2, 2 / 3])
    assert found.expected_error == pytest.approx((2 * 0.125 + 3 * (0.9 - 2 / 3)) / 5)


def test_the_calibration_error_is_that_of_the_fifteen_bins() -> None:
    logits, targets = random_case(9)

    found = reliability(softmax(logits, 2.0), targets)

    assert len(found.images) == 15
    assert found.images.sum() == len(targets)
    confidence = softmax(logits, 2.0).max(axis=1)
    right = logits.argmax(axis=1) == targets
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(confidence[bins == b].sum() - right[bins == b].sum()) for b in range(15)]
    assert found.expected_error == pytest.approx(sum(gaps) / len(targets))
