"""Training on small arrays: schedules, optimisers, metrics, checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
import pytest
from numpy.typing import NDArray

from vision.augment import Augmentation
from vision.networks.served import build_network
from vision.networks.spec import NetworkSpec
from vision.train import (
    Epoch,
    FitOptions,
    Samples,
    TrainingStopped,
    WholeNetwork,
    evaluate,
    fit,
    learning_rates,
    soft_targets,
)

OPTIONS = FitOptions(
    epochs=6,
    batch_size=8,
    optimizer="adam",
    momentum=0.9,
    weight_decay=0.0,
    lr_schedule="cosine",
    lr_init=0.0,
    lr_max=0.01,
    lr_end=0.0,
    warmup_steps=2,
    label_smoothing=0.0,
    patience=0,
    seed=3,
)
FEATURES = 84


def head() -> Any:
    mindspore.set_seed(5)
    return build_network(NetworkSpec(name="lenet5", classes=3, height_px=16, width_px=16)).head


def samples(count: int, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    targets = random.integers(0, 3, count)
    inputs = random.normal(0, 0.3, (count, FEATURES)).astype(np.float32)
    inputs[np.arange(count), targets] += 2
    return Samples(inputs=inputs, targets=targets)


def weights(model: Any) -> list[np.ndarray[Any, Any]]:
    return [parameter.asnumpy().copy() for parameter in model.get_parameters()]


def test_rates_follow_the_closed_forms_after_a_linear_warm_up() -> None:
    options = replace(OPTIONS, lr_init=0.1, lr_max=1.0, lr_end=0.2, warmup_steps=3)
    t = np.arange(7) / 6

    schedules: tuple[tuple[Any, NDArray[np.float64]], ...] = (
        ("constant", np.ones(7)),
        ("square", 0.2 + 0.8 * (1 - t) ** 2),
        ("cosine", 0.2 + 0.8 * (1 + np.cos(np.pi * t)) / 2),
    )
    for schedule, expected in schedules:
        rates = learning_rates(replace(options, lr_schedule=schedule), 10)
        np.testing.assert_allclose(rates[:3], [0.1, 0.4, 0.7], rtol=1e-6)
        np.testing.assert_allclose(rates[3:], expected, rtol=1e-6)


def test_a_warm_up_longer_than_the_training_is_all_there_is() -> None:
    assert len(learning_rates(replace(OPTIONS, warmup_steps=100), 5)) == 5


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "adamw", "sgd"])
def test_every_optimiser_learns(optimizer: Any) -> None:
    options = replace(OPTIONS, optimizer=optimizer, lr_max=0.01 if "adam" in optimizer else 0.1)

    history, best = fit(head(), samples(90), samples(30, 1), 3, options)

    assert best.val_top1 == 1.0
    assert history[-1].train_loss < history[0].train_loss / 2


def test_decay_shrinks_weights_and_spares_biases() -> None:
    frozen = replace(OPTIONS, optimizer="momentum", lr_schedule="constant", lr_max=0.1, warmup_steps=0, epochs=1)
    data = Samples(inputs=np.zeros((8, FEATURES), np.float32), targets=np.array([0, 1, 2, 0, 1, 2, 0, 1]))
    plain, decayed = head(), head()

    fit(plain, data, data, 3, frozen)
    fit(decayed, data, data, 3, replace(frozen, weight_decay=0.5))

    (matrix, bias), (small, same_bias) = weights(plain), weights(decayed)
    np.testing.assert_allclose(small, matrix * (1 - 0.1 * 0.5), rtol=1e-5)
    np.testing.assert_allclose(same_bias, bias, rtol=1e-5)


def test_metrics_weigh_a_short_last_batch_by_what_it_holds() -> None:
    model, data = head(), samples(21)

    assert evaluate(model, data, 8) == pytest.approx(evaluate(model, data, 21), rel=1e-5)


def test_smoothed_targets_sum_to_one_and_keep_the_true_class_on_top() -> None:
    goals = soft_targets(np.array([2, 0]), 4, 0.2)

    np.testing.assert_allclose(goals, [[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]], rtol=1e-6)


def test_the_best_epoch_is_kept_not_the_last() -> None:
    model, held_out = head(), samples(30, 1)
    ruin = replace(OPTIONS, optimizer="sgd", lr_schedule="constant", lr_max=9.0, warmup_steps=0, epochs=4)

    history, best = fit(model, samples(40), held_out, 3, ruin)

    assert best.val_top1 == max(epoch.val_top1 for epoch in history)
    assert evaluate(model, held_out, 8)[1] == best.val_top1


def test_patience_ends_a_training_that_gets_no_better() -> None:
    history, best = fit(head(), samples(90), samples(30, 1), 3, replace(OPTIONS, epochs=50, lr_max=1e-12, patience=3))

    assert (best.epoch, len(history)) == (1, 4)


def test_a_loss_that_is_no_number_stops_the_training_and_names_the_step() -> None:
    spoiled = samples(24)
    spoiled.inputs[:] = np.nan

    with pytest.raises(TrainingStopped, match=r"the loss is nan at step 1 \(epoch 1\); try a lower lr_max"):
        fit(head(), spoiled, samples(9), 3, OPTIONS)


def test_a_training_cut_off_after_any_epoch_ends_with_the_weights_of_an_undisturbed_one(tmp_path: Path) -> None:
    def train(model: Any, folder: Path | None, stop_after: int = 99) -> list[Epoch]:
        seen: list[Epoch] = []
        history, _ = fit(
            model,
            samples(45),
            samples(30, 1),
            3,
            OPTIONS,
            checkpoints=folder,
            on_epoch=seen.append,
            cancelled=lambda: len(seen) >= stop_after,
        )
        return history

    calm, again = head(), head()
    history = train(calm, None)
    for stop_after in (2, 1, 1):  # three deaths: after epochs 2, 3 and 4
        with pytest.raises(TrainingStopped, match="cancelled in epoch"):
            train(head(), tmp_path, stop_after)
    # A newest checkpoint that a full disk cut short is passed over for the one before.
    newest = max(tmp_path.glob("epoch-*.npz"))
    newest.write_bytes(newest.read_bytes()[:100])

    resumed = train(again, tmp_path)

    assert [path.name for path in sorted(tmp_path.iterdir())] == ["epoch-000005.npz", "epoch-000006.npz"]
    for one, other in zip(weights(calm), weights(again), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [replace(epoch, seconds=0) for epoch in resumed] == [replace(epoch, seconds=0) for epoch in history]


def test_a_checkpoint_of_another_recipe_is_not_taken_up(tmp_path: Path) -> None:
    fit(head(), samples(24), samples(9), 3, OPTIONS, checkpoints=tmp_path)
    fresh, seen = head(), list[Epoch]()

    fit(fresh, samples(24), samples(9), 3, replace(OPTIONS, lr_max=0.02), checkpoints=tmp_path, on_epoch=seen.append)

    assert [epoch.epoch for epoch in seen] == [1, 2, 3, 4, 5, 6]


def test_a_whole_network_learns_from_augmented_pixels() -> None:
    random = np.random.default_rng(0)
    targets = np.arange(48) % 2
    pixels = random.integers(0, 90, (48, 16, 16, 3), dtype=np.uint8) + (targets[:, None, None, None] * 150).astype(
        np.uint8
    )
    mindspore.set_seed(5)
    model = WholeNetwork(build_network(NetworkSpec(name="lenet5", classes=2, height_px=16, width_px=16)))
    data = Samples(inputs=pixels, targets=targets)

    _, best = fit(
        model, data, data, 2, replace(OPTIONS, epochs=12), augment=Augmentation(rotate_degrees=10, shift=0.1, flip=True)
    )

    assert best.val_top1 == 1.0


def test_augmentation_is_seeded_and_leaves_its_input_alone() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    before, augment = images.copy(), Augmentation(rotate_degrees=20, shift=0.2, zoom=0.2, flip=True)

    one, other = (augment(images, np.random.default_rng(7)) for _ in range(2))

    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(images, before)
    assert (one != images).any()
