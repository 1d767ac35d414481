"""How other projects name the arrays of our networks.

A naming is a function from one of our layers to the names of its arrays. ``translations`` gives, for each naming, every
array it expects: its foreign name, our name and the change of layout between them. Ours are torchvision's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from vision.networks.spec import BOTTLENECKS, LAST_CHANNELS, LENET5, MOBILENET_V2, STEM_CHANNELS

HEADS: Final[Mapping[str, str]] = {MOBILENET_V2: "classifier.1", LENET5: "fc3"}
RADIAL: Final = "classifier.0"  # the hidden layer of MobileNetV2's head, where it has one

AS_IS: Final = "as it is"
HWIO: Final = "HWIO to OIHW"  # TensorFlow's convolutions: (height, width, in, out)
HWIM: Final = "HWIM to OIHW"  # TensorFlow's depthwise convolutions: (height, width, channels, 1)
DENSE: Final = "transposed"  # Keras' dense layers: (in, out)
FOLDED: Final = "batch norm's beta"  # a bias left by folding batch norm into the convolution


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution with its batch norm: ``block`` from 0 (stem) to 18 (last), ``part`` within a block."""

    block: int
    part: str  # "stem", "expand", "depthwise", "project" or "last"
    convolution: str  # our names
    batch_norm: str
    shape: tuple[int, int, int, int]  # of the convolution's weight, OIHW
    stage: int = 0  # row of the paper's table 2 and repeat within it, from 0, for the bottlenecks
    repeat: int = 0


@dataclass(frozen=True, slots=True)
class Translation:
    """One array of a foreign file: its name there, its name here and what to do with its axes."""

    foreign: str
    ours: str
    shape: tuple[int, ...]  # in our layout; -1 where the file decides
    layout: str = AS_IS


def layers() -> Iterator[Layer]:
    """Yield MobileNetV2's 52 convolutions in the order of the forward pass, under torchvision's names."""
    yield Layer(0, "stem", "features.0.0", "features.0.1", (STEM_CHANNELS, 3, 3, 3))
    block, channels = 0, STEM_CHANNELS
    for stage, (expansion, channels_out, repeats, _) in enumerate(BOTTLENECKS):
        for repeat in range(repeats):
            block += 1
            at, hidden, position = f"features.{block}.conv", channels * expansion, 0
            if expansion != 1:
                yield Layer(block, "expand", f"{at}.0.0", f"{at}.0.1", (hidden, channels, 1, 1), stage, repeat)
                position = 1
            names = f"{at}.{position}.0", f"{at}.{position}.1"
            yield Layer(block, "depthwise", *names, (hidden, 1, 3, 3), stage, repeat)
            names = f"{at}.{position + 1}", f"{at}.{position + 2}"
            yield Layer(block, "project", *names, (channels_out, hidden, 1, 1), stage, repeat)
            channels = channels_out
    yield Layer(
        block + 1, "last", f"features.{block + 1}.0", f"features.{block + 1}.1", (LAST_CHANNELS, channels, 1, 1)
    )


def translations() -> dict[str, list[Translation]]:
    """Return the arrays that each known naming expects, the head's among them."""
    return {
        "LeNet-5": [
            translation
            for name, shape in _LENET5.items()
            for translation in (
                Translation(f"{name}.weight", f"{name}.weight", shape),
                Translation(f"{name}.bias", f"{name}.bias", shape[:1]),
            )
        ],
        "torchvision": _of_layers(_torchvision, _TORCH_BN) + _head("classifier.1"),
        "torchvision, batch norm folded": _folded() + _head("classifier.1"),
        "timm": _of_layers(_timm, _TORCH_BN) + _head("classifier"),
        "Keras": _of_layers(_keras, _TF_BN, "/") + _head("predictions", "/kernel", "/bias", DENSE),
        "TF-Slim": _of_layers(_slim, _TF_BN, "/")
        + _head("MobilenetV2/Logits/Conv2d_1c_1x1", "/weights", "/biases", HWIO),
        "MindSpore model zoo": _of_layers(_zoo, _MINDSPORE_BN) + _head("head"),
    }


def plain_name(name: str) -> str:
    """Return a stored name without what frameworks wrap around it, in the form ``translations`` expects.

    Examples: "Conv1/Conv1/kernel:0" -> "Conv1/kernel"; "backbone.features.0.features.0.weight" -> without "backbone.";
    "head.head.1.weight", "head.dense.weight" -> "head.weight".
    """
    if "/" in name or name.endswith(":0"):
        parts = name.removesuffix(":0").split("/")
        parts = [part for index, part in enumerate(parts) if index == 0 or part != parts[index - 1]]
        name = "/".join(parts[-2:] if parts[0] != "MobilenetV2" else parts)  # Keras 2 nests the model's name in front
        name = name.replace("depthwise/depthwise_kernel", "depthwise/kernel")  # Keras 2; Keras 3 says kernel
        return re.sub(r"^Logits/(kernel|bias)$", r"predictions/\1", name)
    name = name.removeprefix("network.").removeprefix("backbone.")
    return re.sub(r"^(?:head\.)?(?:head\.\d|head|dense)\.(weight|bias)$", r"head.\1", name)


def is_bookkeeping(name: str) -> bool:
    """Whether an array belongs to the training, not the network: counters, optimizer moments, averaged weights."""
    return _BOOKKEEPING.search(name) is not None


_BOOKKEEPING: Final = re.compile(
    r"num_batches_tracked$|^(global_step|learning_rate|momentum|epoch_num|step_num|current_\w+_num|last_\w+_num)$"
    r"|^(moments|moment1|moment2|accum|mean_square)\.|/(ExponentialMovingAverage|RMSProp(_1)?|Momentum)$"
)

_LENET5: Final[Mapping[str, tuple[int, ...]]] = {
    "conv1": (6, 1, 5, 5),
    "conv2": (16, 6, 5, 5),
    "fc1": (120, -1),
    "fc2": (84, 120),
    "fc3": (-1, 84),
}
_TORCH_BN: Final = ("weight", "bias", "running_mean", "running_var")
_TF_BN: Final = ("gamma", "beta", "moving_mean", "moving_variance")
_MINDSPORE_BN: Final = _TF_BN


def _of_layers(
    naming: Callable[[Layer], tuple[str, str]], batch_norm: tuple[str, ...], separator: str = "."
) -> list[Translation]:
    """Translate every layer; ``naming`` gives the full name of a convolution's weight and a batch norm's prefix."""
    found = []
    for layer in layers():
        convolution, prefix = naming(layer)
        layout = AS_IS if separator == "." else HWIM if layer.part == "depthwise" else HWIO
        found.append(Translation(convolution, f"{layer.convolution}.weight", layer.shape, layout))
        for theirs, ours in zip(batch_norm, _TORCH_BN, strict=True):
            found.append(Translation(f"{prefix}{separator}{theirs}", f"{layer.batch_norm}.{ours}", layer.shape[:1]))
    return found


def _folded() -> list[Translation]:
    found = []
    for layer in layers():
        # Without batch norm in between, the project convolution keeps its place: conv.1 or conv.2, as torchvision's.
        found.append(Translation(f"{layer.convolution}.weight", f"{layer.convolution}.weight", layer.shape))
        found.append(Translation(f"{layer.convolution}.bias", f"{layer.batch_norm}.bias", layer.shape[:1], FOLDED))
    return found


def _head(prefix: str, weight: str = ".weight", bias: str = ".bias", layout: str = AS_IS) -> list[Translation]:
    ours = HEADS[MOBILENET_V2]
    return [
        Translation(prefix + weight, f"{ours}.weight", (-1, LAST_CHANNELS), layout),
        Translation(prefix + bias, f"{ours}.bias", (-1,)),
    ]


def _torchvision(layer: Layer) -> tuple[str, str]:
    return f"{layer.convolution}.weight", layer.batch_norm


def _timm(layer: Layer) -> tuple[str, str]:
    if layer.part == "stem":
        return "conv_stem.weight", "bn1"
    if layer.part == "last":
        return "conv_head.weight", "bn2"
    if layer.stage == 0:  # timm's depthwise-separable block: conv_dw, bn1, conv_pw, bn2
        convolution, norm = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}[layer.part]
    else:
        parts = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
        convolution, norm = parts[layer.part]
    prefix = f"blocks.{layer.stage}.{layer.repeat}"
    return f"{prefix}.{convolution}.weight", f"{prefix}.{norm}"


def _keras(layer: Layer) -> tuple[str, str]:
    if layer.part == "stem":
        return "Conv1/kernel", "bn_Conv1"
    if layer.part == "last":
        return "Conv_1/kernel", "Conv_1_bn"
    prefix = "expanded_conv" if layer.block == 1 else f"block_{layer.block - 1}"
    return f"{prefix}_{layer.part}/kernel", f"{prefix}_{layer.part}_BN"


def _slim(layer: Layer) -> tuple[str, str]:
    if layer.part in ("stem", "last"):
        prefix = "MobilenetV2/Conv" if layer.part == "stem" else "MobilenetV2/Conv_1"
        return f"{prefix}/weights", f"{prefix}/BatchNorm"
    block = "expanded_conv" if layer.block == 1 else f"expanded_conv_{layer.block - 1}"
    prefix = f"MobilenetV2/{block}/{layer.part}"
    weights = "depthwise_weights" if layer.part == "depthwise" else "weights"
    return f"{prefix}/{weights}", f"{prefix}/BatchNorm"


def _zoo(layer: Layer) -> tuple[str, str]:
    # Each convolution, batch norm and ReLU6 is a cell with its own `features`; the linear project layer is not.
    if layer.part == "project":
        return f"{layer.convolution}.weight", layer.batch_norm
    cell = layer.convolution.removesuffix(".0")
    return f"{cell}.features.0.weight", f"{cell}.features.1"
