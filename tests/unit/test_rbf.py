"""Radial units set from training features: what they are, what training sees, and what the finished head answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.common.initializer import Normal
from numpy.typing import NDArray

from vision.errors import VisionError
from vision.networks.mobilenet_v2 import MobileNetV2Spec
from vision.networks.network import Head, build_dense
from vision.networks.spec import NetworkSpec
from vision.training.rbf import ROWS, RbfCenters, choose_rbf_centers, set_rbf_head
from vision.training.samples import StoredRows

ROOT = Path(__file__).resolve().parents[2]
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


def test_the_width_is_1_5_over_the_median_squared_distance() -> None:
    found = choose_rbf_centers(realistic(60), 41, 0)

    pairs = np.triu_indices(41, 1)
    distances = ((found.centers[pairs[0]] - found.centers[pairs[1]]) ** 2).sum(1)
    assert found.width == pytest.approx(1.5 / np.median(distances), rel=1e-3)


def test_products_of_what_training_sees_are_likenesses(tmp_path: Path) -> None:
    features = realistic(ROWS + 300)
    found = choose_rbf_centers(features, 50, 0)

    rows = found.transform(features, tmp_path / "likeness")

    assert (rows.shape, rows.dtype.name) == ((ROWS + 300, 50), "float32")
    own = likeness(found.centers, found)
    np.testing.assert_allclose(found.whitening.T @ own @ found.whitening, np.eye(50), atol=1e-3)
    # The Nystroem map: z(x) z(y) = k(x) K^-1 k(y).
    some = likeness(features[ROWS - 5 : ROWS + 5], found)
    expected = some @ np.linalg.inv(own) @ some.T
    np.testing.assert_allclose(rows[ROWS - 5 : ROWS + 5] @ rows[ROWS - 5 : ROWS + 5].T, expected, atol=2e-3)


@pytest.mark.parametrize("bias", [True, False])
def test_the_finished_head_answers_as_the_layer_that_was_trained(bias: bool, tmp_path: Path) -> None:
    spec = MobileNetV2Spec(convention="tf", classes=6, height_px=32, width_px=32, rbf_centers=300, head_bias=bias)
    training, unseen = realistic(500), realistic(100, seed=1)
    found = choose_rbf_centers(training, 300, 0)
    dense = nn.Dense(300, 6, Normal(2.0), Normal(1.0), has_bias=bias)
    network = _OnlyAHead(spec)

    set_rbf_head(network, found, dense)

    for features in (training, unseen):
        expected = dense(Tensor(np.array(found.transform(features, tmp_path / "likeness")))).asnumpy()
        logits = network.head(Tensor(features)).asnumpy()
        assert expected.std() > 0.5
        np.testing.assert_allclose(logits, expected, atol=1e-3)
    assert build_dense(spec).weight.shape == dense.weight.shape


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
def test_equal_images_do_no_harm(what: str, features: Features, tmp_path: Path) -> None:
    spec = MobileNetV2Spec(convention="tf", classes=3, height_px=32, width_px=32, rbf_centers=60)
    found = choose_rbf_centers(features, 60, 0)
    network, dense = _OnlyAHead(spec), build_dense(spec)

    rows = found.transform(features, tmp_path / "likeness")
    set_rbf_head(network, found, dense)
    logits = network.head(Tensor(features)).asnumpy()

    assert np.isfinite(found.width), what
    assert np.abs(found.whitening).max() <= 100  # 1 / sqrt(SMALLEST)
    # The length of z is at most that of a likeness of 1; where noise is all there is, the whitening bounds it.
    assert np.abs(rows).max() < 2
    np.testing.assert_allclose(logits, dense(Tensor(np.array(rows))).asnumpy(), atol=1e-3)
    first = found.transform(features[:1], tmp_path / "first")
    np.testing.assert_allclose(first, rows[:1], atol=1e-4)


def test_images_that_differ_stay_apart_although_most_are_copies() -> None:
    features = np.concatenate([np.repeat(realistic(1), 50, axis=0), realistic(10, 1)])

    own = likeness(features, choose_rbf_centers(features, 60, 0))

    between = own[50:, :].min()
    assert 0.01 < between < 0.9


def test_a_single_center_is_like_images_near_it(tmp_path: Path) -> None:
    features = realistic(30)
    found = choose_rbf_centers(features, 1, 0)

    rows = found.transform(features, tmp_path / "likeness")

    assert np.isfinite(found.width)
    assert rows.max() == pytest.approx(1, abs=1e-3)
    assert rows.std() > 0.01


def test_too_few_images_are_refused_with_the_setting_to_change() -> None:
    with pytest.raises(VisionError, match="30 RBF centers from 12 training images; set rbf_centers to at most 12"):
        choose_rbf_centers(realistic(12), 30, 0)


def test_a_full_disk_is_an_error_that_says_so(tmp_path: Path) -> None:
    """Mapped for writing, the file would end the process by a signal instead."""
    code = f"""
import resource, signal
import numpy as np
from pathlib import Path
from vision.training.rbf import choose_rbf_centers
features = np.random.default_rng(0).random((3000, 8), np.float32)
found = choose_rbf_centers(features, 20, 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    found.transform(features, Path({str(tmp_path / "likeness")!r}))
except OSError as error:
    print(error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "File too large\n"


class _OnlyAHead(nn.Cell):
    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.head: Any = Head(spec)
