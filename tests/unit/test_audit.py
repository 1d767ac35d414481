"""What an audit takes for a wrong label, and the table it writes."""

from __future__ import annotations

import csv
import io

import numpy as np

from jobs import Finding
from producer.training.audit import COLUMNS, table_of
from worker.train.audit import confident_errors


def test_a_label_is_wrong_where_another_class_is_as_sure_as_on_its_own_images() -> None:
    probabilities = np.array(
        [
            [0.9, 0.1],  # class 0 is sure at 0.8 on average
            [0.7, 0.3],
            [0.1, 0.9],  # class 1 at 0.7
            [0.5, 0.5],
            [0.15, 0.85],  # as class 0: surer of 1 than 1's own images are
            [0.35, 0.65],  # less sure than they are: not confident
        ]
    )
    labels = np.array([0, 0, 1, 1, 0, 0])
    averages = [probabilities[labels == index, index].mean() for index in (0, 1)]
    assert np.allclose(averages, [0.525, 0.7])
    assert confident_errors(probabilities, labels).tolist() == [-1, -1, -1, -1, 1, -1]


def test_planted_errors_are_found_and_right_labels_of_unsure_networks_are_not() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, 2000)
    logits = random.normal(0, 1, (2000, 4))
    logits[np.arange(2000), truth] += 4
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = truth.copy()
    planted = random.choice(2000, 100, replace=False)
    labels[planted] = (labels[planted] + 1) % 4
    wrong = confident_errors(probabilities, labels)
    assert (wrong[planted] == truth[planted]).mean() > 0.6
    others = np.setdiff1d(np.arange(2000), planted)
    assert (wrong[others] >= 0).mean() < 0.05


def test_the_table_is_a_dataset_and_safe_in_spreadsheets() -> None:
    finding = Finding("a/=1.png", "=glass", "tin", 0.1, 0.9, True, "", "a/b.png")
    rows = list(csv.DictReader(io.StringIO(table_of([finding], "/data"))))
    assert list(rows[0]) == list(COLUMNS)
    assert rows[0]["path"] == "/data/a/=1.png"
    assert rows[0]["label"] == "'=glass"
    assert rows[0]["similar_to"] == "/data/a/b.png"
    assert rows[0]["same_as"] == ""
