"""MobileNetV2, width 1.0: Sandler et al. 2018 (arXiv:1801.04381), table 2."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from vision.networks.inverted_residuals import (
    Block,
    InvertedResidualSpec,
    Layer,
    Stage,
    blocks_of,
    timm_names,
    torchvision_names,
)
from vision.networks.spec import FloatEnds
from vision.networks.weight_names import (
    CONV_DENSE,
    DENSE,
    FOLDED,
    TF_BN,
    Naming,
    Translation,
    dense_layer,
    plain_name,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MobileNetV2Spec(InvertedResidualSpec):
    """MobileNetV2 of 19 layers: stem, 17 blocks, last convolution."""

    name: ClassVar[str] = "mobilenet_v2"
    head_name: ClassVar[str] = "classifier.1"
    checkpoint_naming: ClassVar[str] = "MindSpore model zoo"
    tells_near_duplicates: ClassVar[bool] = True
    # The stem and the first block, and the last three blocks: with them in 8 bits, too, the answers to 5 % of the waste
    # photos changed, so it takes 2 to 3 %.
    float_ends: ClassVar[tuple[FloatEnds, ...]] = (FloatEnds(first=3, last=9),)
    blocks: ClassVar[tuple[Block, ...]] = blocks_of(
        (
            Stage(1, 16, 1, 1),
            Stage(6, 24, 2, 2),
            Stage(6, 32, 3, 2),
            Stage(6, 64, 4, 2),
            Stage(6, 96, 3, 1),
            Stage(6, 160, 3, 2),
            Stage(6, 320, 1, 1),
        ),
        channels_in=32,
    )

    @classmethod
    def namings(cls) -> dict[str, Naming]:
        head, size = cls.head_name, cls.last_channels
        keras_head = dense_layer("predictions", head, size, weight="/kernel", bias="/bias", layout=DENSE)
        slim_head = dense_layer(
            "MobilenetV2/Logits/Conv2d_1c_1x1", head, size, weight="/weights", bias="/biases", layout=CONV_DENSE
        )
        return {
            "torchvision": cls.naming(torchvision_names, cls.head(head)),
            "torchvision, batch norm folded": Naming(cls._folded() + cls.head(head)),
            "timm": cls.naming(timm_names, cls.head("classifier")),
            "Keras": cls.naming(_keras, keras_head, TF_BN, "/", "tf"),
            "TF-Slim": cls.naming(_slim, slim_head, TF_BN, "/", "tf"),
            "MindSpore model zoo": cls.naming(_zoo, cls.head("head"), TF_BN),
        }

    @classmethod
    def _folded(cls) -> list[Translation]:
        found = []
        for layer in cls.convolutions():
            # Without batch norm in between, the project convolution keeps torchvision's place: conv.1 or conv.2.
            found.append(Translation(f"{layer.convolution}.weight", f"{layer.convolution}.weight", layer.shape))
            found.append(Translation(f"{layer.convolution}.bias", f"{layer.batch_norm}.bias", layer.shape[:1], FOLDED))
        return found

    @classmethod
    def plain_name(cls, stored: str) -> str:
        """Return a stored name without what frameworks wrap around it: of "Conv1/Conv1/kernel:0" "Conv1/kernel"."""
        if "/" not in stored and not stored.endswith(":0"):
            return plain_name(stored)
        parts = stored.removesuffix(":0").split("/")
        parts = [part for index, part in enumerate(parts) if index == 0 or part != parts[index - 1]]
        name = "/".join(parts[-2:] if parts[0] != "MobilenetV2" else parts)  # Keras 2 nests the model's name in front
        name = name.replace("depthwise/depthwise_kernel", "depthwise/kernel")  # Keras 2; Keras 3 says kernel
        return re.sub(r"^Logits/(kernel|bias)$", r"predictions/\1", name)


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
