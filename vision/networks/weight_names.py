"""How other projects name the arrays of our networks: what all networks share. Ours are torchvision's names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

RBF: Final = "rbf"  # our prefix of the hidden layer of a head of RBF units
RBF_CENTERS: Final = f"{RBF}.centers"
RBF_WIDTH: Final = f"{RBF}.width"

AS_IS: Final = "as it is"
HWIO: Final = "HWIO to OIHW"  # TensorFlow's convolutions: (height, width, in, out)
HWIM: Final = "HWIM to OIHW"  # TensorFlow's depthwise convolutions: (height, width, channels, 1)
DENSE: Final = "transposed"  # Keras' dense layers: (in, out)
CONV_DENSE: Final = "1x1 HWIO to (out, in)"  # a dense layer that is stored as a convolution
FOLDED: Final = "batch norm's beta"  # a bias left by folding batch norm into the convolution
AXES: Final = {HWIO: (3, 2, 0, 1), HWIM: (2, 3, 0, 1), DENSE: (1, 0), CONV_DENSE: (3, 2, 0, 1)}

TORCH_BN: Final = ("weight", "bias", "running_mean", "running_var")  # ours
TF_BN: Final = ("gamma", "beta", "moving_mean", "moving_variance")  # and MindSpore's


@dataclass(frozen=True, slots=True)
class Translation:
    """One array of a foreign file: its name there, its name here and what to do with its axes."""

    foreign: str
    ours: str
    shape: tuple[int, ...]  # in our layout; -1 where the file decides
    layout: str = AS_IS


@dataclass(frozen=True, slots=True)
class Naming:
    """Every array that a project's file of one network has, the head's among them.

    ``convention`` is the usual one of files with such names, for networks that have conventions.
    """

    arrays: list[Translation]
    convention: str = "torch"


def dense_layer(
    foreign: str,
    ours: str,
    size_in: int,
    *,
    weight: str = ".weight",
    bias: str = ".bias",
    layout: str = AS_IS,
) -> list[Translation]:
    """Translate a dense layer of any number of outputs, such as a head's."""
    return [
        Translation(foreign + weight, f"{ours}.weight", (-1, size_in), layout),
        Translation(foreign + bias, f"{ours}.bias", (-1,)),
    ]


def batch_norm(
    foreign: str, ours: str, channels: int, ends: tuple[str, ...], separator: str = "."
) -> list[Translation]:
    """Translate the four arrays of a batch norm, whose foreign names end in ``ends``."""
    return [
        Translation(f"{foreign}{separator}{theirs}", f"{ours}.{mine}", (channels,))
        for theirs, mine in zip(ends, TORCH_BN, strict=True)
    ]


def plain_name(name: str) -> str:
    """Return a stored name without what frameworks wrap around it.

    Examples: "backbone.features.0.features.0.weight" -> without "backbone."; "head.head.1.weight",
    "head.dense.weight" -> "head.weight".
    """
    name = name.removeprefix("network.").removeprefix("backbone.")
    return re.sub(r"^(?:head\.)?(?:head\.\d|head|dense)\.(weight|bias)$", r"head.\1", name)


def is_bookkeeping(name: str) -> bool:
    """Whether an array belongs to the training, not the network: counters, optimizer moments, averaged weights."""
    return _BOOKKEEPING.search(name) is not None


_BOOKKEEPING: Final = re.compile(
    r"num_batches_tracked$|^(global_step|learning_rate|momentum|epoch_num|step_num|current_\w+_num|last_\w+_num)$"
    r"|^(moments|moment1|moment2|accum|mean_square)\.|/(ExponentialMovingAverage|RMSProp(_1)?|Momentum)$"
)
