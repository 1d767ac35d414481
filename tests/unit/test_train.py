"""Training on small arrays: schedules, optimisers, metrics, checkpoints."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import mostly_long
from vision.networks.lenet5 import LeNet5Spec
from vision.networks.network import build_network
from vision.training.augment import Augmentation
from vision.training.checkpoint import Checkpoint, load_newest, save
from vision.training.fitting import TrainingStopped, evaluate, fit
from vision.training.options import Epoch, FitOptions, kept_of, learning_rates
from vision.training.parts import build_trained
from vision.training.samples import Samples, StoredRows, class_weights, dropout_mask, soft_targets

pytestmark = pytest.mark.slow

OPTIONS = FitOptions(
    epochs=6,
    batch_size=8,
    optimizer="adam",
    momentum=0.9,
    beta1=0.9,
    beta2=0.999,
    weight_decay=0.0,
    lr_schedule="cosine",
    lr_init=0.0,
    lr_max=0.01,
    lr_end=0.0,
    warmup_steps=2,
    loss="cross_entropy",
    label_smoothing=0.0,
    dropout=0.0,
    class_weights="none",
    patience=0,
    seed=3,
)
FEATURES = 84
ROOT = Path(__file__).resolve().parents[2]


def head(seed: int = 5, **spec: Any) -> Any:
    mindspore.set_seed(seed)
    return build_network(LeNet5Spec(classes=3, height_px=16, width_px=16, **spec)).head


def samples(count: int, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    targets = random.integers(0, 3, count)
    inputs = random.normal(0, 0.3, (count, FEATURES)).astype(np.float32)
    inputs[np.arange(count), targets] += 2
    return Samples(inputs=inputs, targets=targets)


def weights(model: Any) -> list[np.ndarray[Any, Any]]:
    return [parameter.asnumpy().copy() for parameter in model.get_parameters()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a finished training of ``head()``, of its last two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    history, _ = fit(head(), samples(24), samples(9), 3, OPTIONS, checkpoints=folder)
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4, 5, 6]
    return folder


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


def test_the_validation_loss_is_of_the_kind_that_training_minimises() -> None:
    model, data = head(), samples(21)
    matrix, bias = weights(model)
    logits = np.asarray(data.inputs) @ matrix.T + bias

    loss, _, _ = evaluate(model, data, 8, "squared")

    assert loss == pytest.approx(np.square(logits - np.eye(3)[data.targets]).sum(axis=1).mean(), rel=1e-5)


def test_smoothed_targets_sum_to_one_and_keep_the_true_class_on_top() -> None:
    goals = soft_targets(np.array([2, 0]), 4, 0.2)

    np.testing.assert_allclose(goals, [[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]], rtol=1e-6)


@pytest.mark.parametrize(("schedule", "epochs", "kept"), [("cosine", 3, 3), ("constant", 3, 1), ("square", 9, 1)])
def test_the_last_epoch_counts_where_the_rate_has_decayed_to_its_end_and_else_the_best(
    schedule: Any, epochs: int, kept: int
) -> None:
    history = [
        Epoch(epoch=number, train_loss=1.0, val_loss=1.0, val_top1=top1, val_top5=1.0, lr=0.1, seconds=1.0)
        for number, top1 in ((1, 0.9), (2, 0.8), (3, 0.8))
    ]

    assert kept_of(history, replace(OPTIONS, lr_schedule=schedule, epochs=epochs)).epoch == kept


def test_the_best_epoch_of_a_constant_rate_is_kept_not_the_last() -> None:
    model, held_out = head(), samples(30, 1)
    ruin = replace(OPTIONS, optimizer="sgd", lr_schedule="constant", lr_max=9.0, warmup_steps=0, epochs=4)

    history, best = fit(model, samples(40), held_out, 3, ruin)

    assert best.val_top1 == max(epoch.val_top1 for epoch in history)
    assert evaluate(model, held_out, 8)[1] == best.val_top1


@pytest.mark.parametrize("last_epoch", [3, 4])
def test_with_a_last_epoch_training_ends_there_and_nothing_is_chosen(last_epoch: int) -> None:
    model, right = head(), samples(30, 1)
    held_out = replace(right, targets=(right.targets + 1) % 3)  # what is learnt makes it worse
    options = replace(OPTIONS, lr_schedule="constant", epochs=4)
    whole, best = fit(head(), samples(40), held_out, 3, options)

    history, last = fit(model, samples(40), held_out, 3, replace(options, patience=1), last_epoch=last_epoch)

    assert best.epoch < 3
    assert last is history[-1]
    assert [epoch.val_loss for epoch in history] == [epoch.val_loss for epoch in whole[:last_epoch]]
    assert evaluate(model, held_out, 8)[0] == last.val_loss


def test_patience_ends_a_training_that_gets_no_better() -> None:
    history, best = fit(head(), samples(90), samples(30, 1), 3, replace(OPTIONS, epochs=50, lr_max=1e-12, patience=3))

    assert (best.epoch, len(history)) == (1, 4)


def test_a_loss_that_is_no_number_stops_the_training_and_names_the_step() -> None:
    spoiled = replace(samples(24), inputs=np.full((24, FEATURES), np.nan, np.float32))

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


def test_a_checkpoint_of_another_recipe_is_not_taken_up(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    fresh, seen = head(), list[Epoch]()

    fit(fresh, samples(24), samples(9), 3, replace(OPTIONS, lr_max=0.02), checkpoints=tmp_path, on_epoch=seen.append)

    assert [epoch.epoch for epoch in seen] == [1, 2, 3, 4, 5, 6]


def test_a_whole_network_learns_from_augmented_pixels() -> None:
    random = np.random.default_rng(0)
    targets = np.arange(48) % 2
    pixels = random.integers(0, 90, (48, 16, 16, 3), dtype=np.uint8) + (targets[:, None, None, None] * 150).astype(
        np.uint8
    )
    model = lenet()
    data = Samples(inputs=pixels, targets=targets)

    _, best = fit(
        model, data, data, 2, replace(OPTIONS, epochs=12), augment=Augmentation(rotate_degrees=10, shift=0.1, flip=True)
    )

    assert best.val_top1 == 1.0


def flat(model: Any) -> NDArray[np.float32]:
    return np.concatenate([array.ravel() for array in weights(model)])


def lenet(classes: int = 2) -> Any:
    mindspore.set_seed(5)
    network = build_network(LeNet5Spec(classes=classes, height_px=16, width_px=16))
    return build_trained(network, "none", batch_norm_frozen=False)


def pixels(count: int = 20) -> Samples:
    random = np.random.default_rng(0)
    return Samples(inputs=random.integers(0, 256, (count, 16, 16, 3), np.uint8), targets=np.arange(count) % 2)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


ONE_STEP = replace(
    OPTIONS, epochs=1, batch_size=99, optimizer="sgd", lr_schedule="constant", lr_max=0.1, warmup_steps=0
)


def descent(data: Samples, options: FitOptions) -> NDArray[np.float64]:
    """Return the gradient (classes, F + 1) that one step of plain gradient descent followed; the bias comes last."""
    model = head()
    matrix, bias = weights(model)
    fit(model, data, data, 3, options)
    new_matrix, new_bias = weights(model)
    return np.column_stack([matrix - new_matrix, bias - new_bias]) / options.lr_max


def gradient(data: Samples, slopes: NDArray[np.float64], weigh: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the gradient of the weighted mean loss, given the loss's slopes (N, classes) at the logits."""
    inputs = np.column_stack([np.asarray(data.inputs), np.ones(len(data))])
    return (slopes * weigh[:, None]).T @ inputs / len(data)


def first_logits(data: Samples) -> NDArray[np.float64]:
    matrix, bias = weights(head())
    found: NDArray[np.float64] = np.asarray(data.inputs, np.float64) @ matrix.T + bias
    return found


def test_balanced_classes_count_the_same_and_an_image_1_on_average() -> None:
    targets = np.repeat([0, 1, 3], [6, 3, 1])

    found = class_weights(targets, 4, "balanced")

    np.testing.assert_allclose(found[[0, 1, 3]], [10 / 3 / 6, 10 / 3 / 3, 10 / 3 / 1], rtol=1e-6)
    assert found[targets].mean() == pytest.approx(1)
    assert np.isfinite(found).all()  # a class without images, too
    assert class_weights(targets, 4, "none").tolist() == [1, 1, 1, 1]


def test_a_weighted_step_follows_the_gradient_of_the_weighted_loss() -> None:
    data = samples(20)
    data = replace(data, targets=np.where(np.arange(20) < 14, 0, data.targets))
    goals = np.eye(3)[data.targets]
    counts = np.bincount(data.targets, minlength=3)

    found = descent(data, replace(ONE_STEP, class_weights="balanced"))

    slopes = softmax(first_logits(data)) - goals
    np.testing.assert_allclose(found, gradient(data, slopes, (20 / 3 / counts)[data.targets]), atol=2e-5)
    assert np.abs(found - gradient(data, slopes, np.ones(20))).max() > 0.01


@pytest.mark.parametrize("smoothing", [pytest.param(0.0, marks=pytest.mark.long), 0.3])
def test_the_squared_loss_is_the_distance_of_the_logits_to_the_targets(smoothing: float) -> None:
    data = samples(20)
    goals = np.eye(3)[data.targets] * (1 - smoothing) + smoothing / 3
    options = replace(ONE_STEP, loss="squared", label_smoothing=smoothing)

    found = descent(data, options)

    distances: NDArray[np.float64] = first_logits(data) - goals
    np.testing.assert_allclose(found, gradient(data, 2 * distances, np.ones(20)), atol=5e-5)
    history, _ = fit(head(), data, data, 3, options)
    assert history[0].train_loss == pytest.approx((distances**2).sum(1).mean(), rel=1e-5)


def test_smoothed_cross_entropy_has_the_smoothed_gradient() -> None:
    data = samples(20)

    found = descent(data, replace(ONE_STEP, label_smoothing=0.3))

    slopes = softmax(first_logits(data)) - (np.eye(3)[data.targets] * 0.7 + 0.1)
    np.testing.assert_allclose(found, gradient(data, slopes, np.ones(20)), atol=2e-5)


def test_dropout_zeroes_its_part_and_keeps_the_mean() -> None:
    random = np.random.default_rng(0)

    mask = dropout_mask(400, 84, 0.3, random)

    assert (mask.dtype.name, mask.shape) == ("float32", (400, 84))
    assert set(np.unique(mask)) == {0.0, np.float32(1 / 0.7)}
    assert (mask == 0).mean() == pytest.approx(0.3, abs=0.01)
    assert mask.mean() == pytest.approx(1, abs=0.01)
    assert not np.array_equal(mask, dropout_mask(400, 84, 0.3, random))
    assert np.array_equal(dropout_mask(4, 84, 0.0, random), np.ones((4, 1)))


def test_dropout_masks_the_heads_inputs_in_training_and_nothing_in_evaluation() -> None:
    data, options = samples(20), replace(ONE_STEP, dropout=0.5)
    random = np.random.default_rng(options.seed)
    order = random.permutation(20)
    masked = replace(data, inputs=data.inputs[order] * dropout_mask(20, FEATURES, 0.5, random))
    masked = replace(masked, targets=data.targets[order])

    np.testing.assert_allclose(descent(data, options), descent(masked, ONE_STEP), atol=2e-5)
    history, _ = fit(head(), data, data, 3, replace(options, lr_max=1e-9))
    logits = first_logits(data)
    expected = -np.log(softmax(logits)[np.arange(20), data.targets]).mean()
    assert history[0].val_loss == pytest.approx(expected, rel=1e-5)


def test_dropout_masks_the_heads_inputs_of_a_network_that_is_trained_whole() -> None:
    options = replace(ONE_STEP, loss="squared", dropout=1 - 1e-7)

    history, _ = fit(lenet(), pixels(), pixels(), 2, options)

    # All inputs of the head are dropped and its first biases are 0: all logits are, and the target is 1 away.
    assert history[0].train_loss == pytest.approx(1)


def test_a_network_trained_whole_goes_on_with_the_same_dropout_and_augmentation(tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=2, dropout=0.3, class_weights="balanced")
    augment = Augmentation(shift=0.1, flip=True)

    def train(model: Any, folder: Path | None, stop_after: int) -> Any:
        seen: list[Epoch] = []
        fit(
            model,
            pixels(),
            pixels(9),
            2,
            options,
            augment=augment,
            checkpoints=folder,
            on_epoch=seen.append,
            cancelled=lambda: len(seen) >= stop_after,
        )
        return model

    calm = train(lenet(), None, 9)
    with pytest.raises(TrainingStopped, match="cancelled in epoch 2"):
        train(lenet(), tmp_path, 1)

    assert np.array_equal(flat(train(lenet(), tmp_path, 9)), flat(calm))


@pytest.mark.long
def test_a_head_cut_off_goes_on_with_the_same_dropout(tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=4, dropout=0.3)
    calm, cut_off, again, dry = head(), head(), head(), head()

    fit(calm, samples(45), samples(30, 1), 3, options)
    seen: list[Epoch] = []
    with pytest.raises(TrainingStopped, match="cancelled in epoch 3"):
        fit(
            cut_off, samples(45), samples(30, 1), 3, options,
            checkpoints=tmp_path, on_epoch=seen.append, cancelled=lambda: len(seen) == 2,
        )  # fmt: skip
    fit(again, samples(45), samples(30, 1), 3, options, checkpoints=tmp_path, on_epoch=seen.append)

    assert [epoch.epoch for epoch in seen] == [1, 2, 3, 4]
    assert np.array_equal(flat(again), flat(calm))
    fit(dry, samples(45), samples(30, 1), 3, replace(options, dropout=0.0))
    assert not np.allclose(flat(dry), flat(calm))


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_beta1_and_beta2_reach_adam(optimizer: Any) -> None:
    data = samples(20)
    options = replace(ONE_STEP, optimizer=optimizer, epochs=2, beta1=0.6, beta2=0.8, lr_max=0.01)
    # Epochs of one step each.
    found = head()
    _, best = fit(found, data, data, 3, options)
    assert best.epoch == 2

    parameters = np.column_stack(weights(head())).astype(np.float64)
    inputs = np.column_stack([np.asarray(data.inputs), np.ones(20)])
    mean, square = np.zeros_like(parameters), np.zeros_like(parameters)
    for step in (1, 2):
        slopes = softmax(inputs @ parameters.T) - np.eye(3)[data.targets]
        own = slopes.T @ inputs / 20
        mean, square = 0.6 * mean + 0.4 * own, 0.8 * square + 0.2 * own**2
        # Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1; MindSpore's adamw leaves the correction out.
        first, second = (1 - 0.6**step, 1 - 0.8**step) if optimizer == "adam" else (1, 1)
        parameters -= 0.01 * (mean / first) / (np.sqrt(square / second) + (1e-8 if optimizer == "adam" else 1e-6))
    np.testing.assert_allclose(np.column_stack(weights(found)), parameters, atol=1e-4)


def test_every_call_of_the_graph_but_an_epochs_first_is_told_with_the_time_of_a_step() -> None:
    told: list[tuple[int, int, float]] = []

    fit(
        head(), samples(8 * 70 + 3), samples(9), 3, replace(OPTIONS, epochs=2),
        on_step=lambda step, steps, step_s: told.append((step, steps, step_s)),
    )  # fmt: skip

    assert [(step, steps) for step, steps, _ in told] == [(step, 142) for step in (64, 70, 71, 135, 141, 142)]
    assert all(0 < step_s < 5 for *_, step_s in told)


@pytest.mark.parametrize("optimizer", mostly_long(["momentum", "adam", "adamw", "sgd"], "adamw"))
def test_steps_in_one_call_of_a_graph_are_to_the_bit_those_of_single_calls(
    optimizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 14 steps an epoch: whole calls of 6, one of 2 that is filled up, and the short last batch.
    data = samples(8 * 14 + 5)
    options = replace(OPTIONS, optimizer=optimizer, dropout=0.2, weight_decay=0.01, class_weights="balanced", epochs=3)
    one_by_one, together = head(), head()

    monkeypatch.setattr("vision.training.steps.MOST_STEPS", 1)
    history, _ = fit(one_by_one, data, samples(9), 3, options)
    monkeypatch.setattr("vision.training.steps.MOST_STEPS", 6)
    same, _ = fit(together, data, samples(9), 3, options)

    assert np.array_equal(flat(one_by_one), flat(together))
    assert [epoch.val_loss for epoch in same] == [epoch.val_loss for epoch in history]
    assert [epoch.train_loss for epoch in same] == pytest.approx([epoch.train_loss for epoch in history], rel=1e-6)


def test_a_loss_that_is_no_number_amid_a_call_of_many_steps_is_named_by_its_own_step() -> None:
    inputs = np.asarray(samples(80).inputs).copy()
    inputs[np.random.default_rng(OPTIONS.seed).permutation(80)[8 * 4 + 3]] = np.nan  # falls into the fifth batch

    with pytest.raises(TrainingStopped, match=r"the loss is nan at step 5 \(epoch 1\)"):
        fit(head(), replace(samples(80), inputs=inputs), samples(9), 3, OPTIONS)


@pytest.mark.parametrize("dtype", [np.float16, pytest.param(np.float32, marks=pytest.mark.long)])
def test_rows_on_disk_train_to_the_weights_of_the_plain_array(tmp_path: Path, dtype: Any) -> None:
    plain = samples(30)
    plain = replace(plain, inputs=np.asarray(plain.inputs).astype(dtype).astype(np.float32))
    shuffled = np.random.default_rng(1).permutation(30)
    np.asarray(plain.inputs)[shuffled].astype(dtype).tofile(tmp_path / "rows")
    stored = np.memmap(tmp_path / "rows", dtype, "r", shape=(30, FEATURES))
    rows = StoredRows(stored, np.argsort(shuffled), (FEATURES,), np.float32)
    options, one, other = replace(OPTIONS, epochs=2), head(), head()

    fit(one, plain, plain, 3, options, checkpoints=tmp_path / "checkpoints")
    seen: list[Epoch] = []
    fit(other, replace(plain, inputs=rows), plain, 3, options)
    fit(
        head(), replace(plain, inputs=rows), plain, 3, options,
        checkpoints=tmp_path / "checkpoints", on_epoch=seen.append,
    )  # fmt: skip

    assert np.array_equal(flat(one), flat(other))
    assert seen == []  # the same data, so the finished training was taken up


def test_a_network_ruined_by_its_last_step_is_not_taken_for_the_best() -> None:
    data = samples(9)
    # One step whose loss is still a number, and weights beyond float32 after it.
    huge = replace(data, inputs=np.asarray(data.inputs) * np.float32(1e25))

    with pytest.raises(TrainingStopped, match=r"the validation loss is nan after epoch 1; try a lower lr_max than 1"):
        fit(head(), huge, huge, 3, replace(ONE_STEP, loss="cross_entropy", lr_max=1e30))


OTHERS: dict[str, dict[str, Any]] = {
    "network": {"model": lambda: head(head_bias=False)},
    "first weights": {"model": lambda: head(seed=6)},
    "training images": {"training": samples(24, 5)},
    "validation images": {"validation": samples(9, 5)},
    "dropout": {"options": replace(OPTIONS, dropout=0.5)},
}


@pytest.mark.parametrize("other", mostly_long(OTHERS, "training images"))
def test_a_checkpoint_of_another_training_is_passed_over(trained: Path, tmp_path: Path, other: str) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    taken = {"model": head, "training": samples(24), "validation": samples(9), "options": OPTIONS}
    mine: dict[str, Any] = taken | OTHERS[other]

    def train(what: dict[str, Any], stop_after: int = 99) -> tuple[list[int], Any]:
        model, seen = what["model"](), list[Epoch]()
        with suppress(TrainingStopped):
            fit(
                model, what["training"], what["validation"], 3, what["options"],
                checkpoints=tmp_path, on_epoch=seen.append, cancelled=lambda: len(seen) >= stop_after,
            )  # fmt: skip
        return [epoch.epoch for epoch in seen], model

    def undisturbed() -> Any:
        model = mine["model"]()
        fit(model, mine["training"], mine["validation"], 3, mine["options"])
        return model

    # The other's six epochs are newer than our second; they must neither be taken up nor push ours out.
    assert train(mine, stop_after=2)[0] == [1, 2]
    rest, model = train(mine)

    assert rest == [3, 4, 5, 6]
    assert np.array_equal(flat(model), flat(undisturbed()))


def test_a_disk_that_fills_up_leaves_the_earlier_checkpoint_usable(tmp_path: Path) -> None:
    code = f"""
import resource
from pathlib import Path
from tests.unit.test_train import OPTIONS, fit, head, samples
folder = Path({str(tmp_path)!r})

def fill(epoch):
    if epoch.epoch == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

try:
    fit(head(), samples(24), samples(9), 3, OPTIONS, checkpoints=folder, on_epoch=fill)
except OSError as error:
    print(error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "File too large"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-000001.npz", "epoch-000002.npz"]
    seen: list[Epoch] = []
    again, calm = head(), head()
    fit(again, samples(24), samples(9), 3, OPTIONS, checkpoints=tmp_path, on_epoch=seen.append)
    fit(calm, samples(24), samples(9), 3, OPTIONS)
    assert [epoch.epoch for epoch in seen] == [3, 4, 5, 6]
    assert np.array_equal(flat(again), flat(calm))


def test_a_damaged_checkpoint_is_never_taken_for_a_whole_one(tmp_path: Path) -> None:
    state = {"weight": np.arange(600, dtype=np.float32)}
    for epoch in (1, 2):
        checkpoint = Checkpoint(key="k", epoch=epoch, random={}, history=[{}], parameters=state, best=state)
        save(tmp_path, checkpoint, kept=2)
    newest = tmp_path / "epoch-000002.npz"
    whole, random = newest.read_bytes(), np.random.default_rng(0)

    for place in (*range(0, len(whole), 97), *random.integers(0, 400, 20), *range(len(whole) - 400, len(whole), 9)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(8))
        newest.write_bytes(damaged)
        found = load_newest(tmp_path, "k")
        assert found is not None
        assert found.epoch == 1, place


def test_augmentation_is_seeded_and_leaves_its_input_alone() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    before, augment = images.copy(), Augmentation(rotate_degrees=20, shift=0.2, zoom=0.2, flip=True)

    one, other = (augment(images, np.random.default_rng(7)) for _ in range(2))

    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(images, before)
    assert (one != images).any()
