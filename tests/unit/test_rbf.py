"""RBF units set from training features: what they are, and what the solved head answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mindspore import Tensor, nn
from numpy.typing import NDArray

from vision.errors import VisionError
from vision.networks.mobilenet_v2 import MobileNetV2Spec
from vision.networks.network import SCORE_FLOOR, Head
from vision.networks.spec import NetworkSpec
from vision.training.rbf import (
    ROWS,
    RbfCenters,
    choose_rbf_centers,
    logits_of_scores,
    nearest_of_other_families,
    rbf_scores,
    set_rbf_head,
    solve_ridge,
)
from vision.training.samples import Samples, StoredRows

Features = NDArray[np.float32]


def realistic(count: int, seed: int = 0, width: int = 1280) -> Features:
    """Return features as MobileNetV2 gives them: from 0 to 6, most of them small, in clusters."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).gamma(0.6, 0.8, (12, width))
    spread = random.gamma(2.0, 0.5, (count, width))
    return np.clip(centres[random.integers(0, 12, count)] * spread, 0, 6).astype(np.float32)


def likeness(features: Features, found: RbfCenters) -> NDArray[np.float64]:
    """Return k(x) by its formula, in float64."""
    there = found.centers.astype(np.float64)
    distances = np.array([((row.astype(np.float64) - there) ** 2).sum(1) for row in features])
    return np.exp(-found.width * distances)


def labelled(features: Features) -> tuple[Samples, NDArray[np.float32]]:
    """Return the features with one of three classes each, and the goals of these."""
    targets = np.random.default_rng(5).integers(0, 3, len(features))
    return Samples(inputs=features, targets=targets), np.eye(3, dtype=np.float32)[targets]


def test_centers_are_training_images_drawn_by_the_seed() -> None:
    features = realistic(80)

    one, again, other = (choose_rbf_centers(features, 30, seed) for seed in (1, 1, 2))

    assert np.array_equal(one.centers, again.centers)
    assert not np.array_equal(one.centers, other.centers)
    rows = {row.tobytes() for row in features}
    assert {row.tobytes() for row in one.centers} <= rows
    assert len({row.tobytes() for row in one.centers}) == 30


def test_features_on_disk_give_the_same_centers() -> None:
    features = realistic(40).astype(np.float16)
    stored = StoredRows(features, np.arange(40), (1280,), np.float32)

    found = choose_rbf_centers(stored, 10, 0)

    assert found.centers.dtype == np.float32
    assert np.array_equal(found.centers, choose_rbf_centers(features.astype(np.float32), 10, 0).centers)


def test_the_nearest_center_of_another_family_counts_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision.training.rbf.ROWS", 3)
    features, families = realistic(10), np.array([0, 0, 0, 1, 1, 2, 3, 3, 4, 5])
    centers = np.array([0, 1, 3, 4, 6, 9])

    found = nearest_of_other_families(features, centers, families)

    for row, family in enumerate(families):
        others = [place for place in centers if families[place] != family]
        away = ((features[row].astype(np.float64) - features[others]) ** 2).sum(1)
        assert found[row] == pytest.approx(away.min(), rel=1e-4)
    assert np.isinf(nearest_of_other_families(features, np.array([8]), families)[8])


def test_the_width_is_1_5_over_the_median_squared_distance() -> None:
    found = choose_rbf_centers(realistic(60), 41, 0)

    pairs = np.triu_indices(41, 1)
    distances = ((found.centers[pairs[0]] - found.centers[pairs[1]]) ** 2).sum(1)
    assert found.width == pytest.approx(1.5 / np.median(distances), rel=1e-3)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("count", [60, 200])
def test_the_solution_is_the_minimum_of_loss_and_penalty(count: int, weighted: bool) -> None:
    features = realistic(200)
    samples, goals = labelled(features)
    weights = np.random.default_rng(3).uniform(0.2, 3, 200).astype(np.float32) if weighted else np.ones(200, np.float32)
    found = choose_rbf_centers(features, count, 0)

    solved = solve_ridge(found, samples, goals, weights, 0.1)

    def cost(head: NDArray[np.float64]) -> float:
        misses = ((rbf_scores(found, head, features) - goals) ** 2 * weights[:, None]).sum()
        return float(misses + 0.1 * (head * (likeness(found.centers, found) @ head)).sum())

    least, random = cost(solved), np.random.default_rng(4)
    for _ in range(20):
        assert cost(solved + random.normal(0, 0.01, solved.shape)) > least


def test_with_every_image_as_center_it_is_kernel_ridge_regression() -> None:
    features = realistic(ROWS + 76)
    samples, goals = labelled(features)
    weights = np.random.default_rng(3).uniform(0.2, 3, len(features)).astype(np.float32)
    found = choose_rbf_centers(features, len(features), 0)

    solved = solve_ridge(found, samples, goals, weights, 0.1)

    own = likeness(features, found)
    expected = own @ np.linalg.solve(own + np.diag(0.1 / weights), goals)
    np.testing.assert_allclose(rbf_scores(found, solved, features), expected, atol=1e-3)


@pytest.mark.parametrize("bias", [True, False])
def test_the_network_answers_as_the_solution(bias: bool) -> None:
    spec = MobileNetV2Spec(convention="tf", classes=3, height_px=32, width_px=32, rbf_centers=300, head_bias=bias)
    training, unseen = realistic(500), realistic(100, seed=1)
    samples, goals = labelled(training)
    found = choose_rbf_centers(training, 300, 0)
    network = _OnlyAHead(spec)

    solved = solve_ridge(found, samples, goals, np.ones(500, np.float32), 0.1)
    set_rbf_head(network, found, solved)

    expected = logits_of_scores(rbf_scores(found, solved, unseen))
    assert expected.std() > 0.1
    np.testing.assert_allclose(network.head(Tensor(unseen)).asnumpy(), expected, atol=1e-3)


def test_logits_keep_the_order_of_scores_also_below_zero() -> None:
    scores = np.linspace(-2, 2, 401)

    logits = logits_of_scores(scores)

    assert (np.diff(logits) > 0).all()
    assert logits[np.argmin(abs(scores))] == pytest.approx(np.log(SCORE_FLOOR), abs=1e-6)


@pytest.mark.parametrize(
    ("what", "features"),
    [
        ("each image twice", np.repeat(realistic(30), 2, axis=0)),
        ("most images the same", np.concatenate([np.repeat(realistic(1), 50, axis=0), realistic(10, 1)])),
        ("all images the same", np.repeat(realistic(1), 60, axis=0)),
        ("black images", np.zeros((60, 1280), np.float32)),
        ("almost the same", realistic(1) + np.random.default_rng(0).normal(0, 1e-7, (60, 1280)).astype(np.float32)),
    ],
)
def test_equal_images_do_no_harm(what: str, features: Features) -> None:
    samples, goals = labelled(features)
    found = choose_rbf_centers(features, 60, 0)

    solved = solve_ridge(found, samples, goals, np.ones(60, np.float32), 0.1)
    logits = rbf_scores(found, solved, features)

    assert np.isfinite(found.width), what
    assert np.abs(solved.astype(np.float32)).sum(axis=0).max() < 1000  # so that float32 serves it
    assert -0.5 < logits.min() <= logits.max() < 1.5
    if what == "all images the same":
        np.testing.assert_allclose(logits, np.tile(goals.mean(axis=0), (60, 1)), atol=0.01)


def test_images_that_differ_stay_apart_although_most_are_copies() -> None:
    features = np.concatenate([np.repeat(realistic(1), 50, axis=0), realistic(10, 1)])

    own = likeness(features, choose_rbf_centers(features, 60, 0))

    between = own[50:, :].min()
    assert 0.01 < between < 0.9


def test_a_single_center_is_like_images_near_it() -> None:
    features = realistic(30)
    found = choose_rbf_centers(features, 1, 0)

    rows = found.similarities(features)

    assert np.isfinite(found.width)
    assert rows.max() == pytest.approx(1, abs=1e-3)
    assert rows.std() > 0.01


def test_too_few_images_are_refused_with_the_setting_to_change() -> None:
    with pytest.raises(VisionError, match="30 RBF centers from 12 training images; set rbf_centers to at most 12"):
        choose_rbf_centers(realistic(12), 30, 0)


class _OnlyAHead(nn.Cell):
    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.head: Any = Head(spec)
