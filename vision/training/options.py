"""How a network is fitted, and the figures of each epoch. Loads no MindSpore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """The recipe of ``fit``. Rates and decay as in the optimisers' papers; steps are batches."""

    epochs: int
    batch_size: int
    optimizer: Literal["momentum", "adam", "adamw", "sgd"]
    momentum: float
    beta1: float  # of adam and adamw, like beta2
    beta2: float
    weight_decay: float
    lr_schedule: Literal["constant", "square", "cosine"]
    lr_init: float
    lr_max: float
    lr_end: float
    warmup_steps: int
    loss: Literal["cross_entropy", "squared"]
    label_smoothing: float
    dropout: float  # probability in [0, 1) of zeroing an input of the head, in training only
    class_weights: Literal["none", "balanced"]  # balanced: an image of class c counts N / (classes * images of c)
    patience: int  # epochs without a better one before training stops; 0 never stops early
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """Figures of one pass over the training data; ``val_`` figures are those after it. Rates in [0, 1]."""

    epoch: int  # from 1
    train_loss: float  # with label smoothing and augmentation, as it was minimised
    val_loss: float  # of the recipe's kind, without smoothing or weights: cross-entropy in nats, or squared distance
    val_top1: float
    val_top5: float
    lr: float  # of the last step
    seconds: float


def best_of(history: Sequence[Epoch]) -> Epoch:
    """Return the epoch of the highest validation top-1, among equals of the lowest validation loss, then the first."""
    return max(history, key=lambda epoch: (epoch.val_top1, -epoch.val_loss, -epoch.epoch))


def kept_of(history: Sequence[Epoch], options: FitOptions) -> Epoch:
    """Return the epoch whose weights are kept: the last one of a learning rate that decayed to its end, else the best.

    At the end of a decay the epochs differ by chance alone, and few validation images choose among them by luck.
    """
    decayed = options.lr_schedule != "constant" and len(history) == options.epochs
    return history[-1] if decayed else best_of(history)


def learning_rates(options: FitOptions, steps: int) -> NDArray[np.float32]:
    """Return the learning rate of each of ``steps`` steps.

    Linear from ``lr_init`` to ``lr_max`` over the warm-up. Then, with t from 0 (first step after it) to 1 (last):
    constant ``lr_max``; square ``lr_end + (lr_max - lr_end) (1 - t)^2``; cosine
    ``lr_end + (lr_max - lr_end) (1 + cos(pi t)) / 2`` (Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5).
    """
    warm = min(options.warmup_steps, steps)
    rates = np.empty(steps, np.float64)
    rates[:warm] = options.lr_init + (options.lr_max - options.lr_init) * np.arange(warm) / max(warm, 1)
    t = np.arange(steps - warm) / max(steps - warm - 1, 1)
    part = {"constant": np.ones_like(t), "square": (1 - t) ** 2, "cosine": (1 + np.cos(np.pi * t)) / 2}[
        options.lr_schedule
    ]
    end = options.lr_max if options.lr_schedule == "constant" else options.lr_end
    rates[warm:] = end + (options.lr_max - end) * part
    return rates.astype(np.float32)
