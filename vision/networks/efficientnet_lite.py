"""EfficientNet-Lite 0 to 2: Tan & Le 2019 (arXiv:1905.11946), table 1, with the changes of Lite.

Those are (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite): no squeeze and excitation,
ReLU6 instead of swish, and a stem, a last convolution and depths of the first and last stage that don't grow.
"""

from __future__ import annotations

import math
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
from vision.networks.spec import USUAL_FLOAT_ENDS, Channels, FloatEnds
from vision.networks.weight_names import Naming

STAGES = (
    Stage(1, 16, 1, 1, 3),
    Stage(6, 24, 2, 2, 3),
    Stage(6, 40, 2, 2, 5),
    Stage(6, 80, 3, 2, 3),
    Stage(6, 112, 3, 1, 5),
    Stage(6, 192, 4, 2, 5),
    Stage(6, 320, 1, 1, 3),
)


def scaled_blocks(width: float, depth: float) -> tuple[Block, ...]:
    """Return the blocks with channels and repeats multiplied by so much; see section 3.3 of the paper."""
    stages = [stage._replace(channels=_rounded(stage.channels * width)) for stage in STAGES]
    inner = [stage._replace(repeats=math.ceil(stage.repeats * depth)) for stage in stages[1:-1]]
    return blocks_of([stages[0], *inner, stages[-1]], channels_in=32)


def _rounded(channels: float) -> int:
    """Return the nearest multiple of 8 that is not more than a tenth below."""
    nearest = int(channels + 4) // 8 * 8
    return nearest + 8 if nearest < 0.9 * channels else nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficientNetLiteSpec(InvertedResidualSpec):
    """What the sizes have in common; their weights come from TensorFlow."""

    head_name: ClassVar[str] = "classifier"
    checkpoint_naming: ClassVar[str] = "Sortline"
    conventions: ClassVar[tuple[str, ...]] = ("tf",)
    float_ends: ClassVar[tuple[FloatEnds, ...]] = (FloatEnds(0, 0), *USUAL_FLOAT_ENDS)

    convention: str = "tf"

    def _usual_scaling(self) -> tuple[Channels, Channels]:
        return (1 / 128, 1 / 128, 1 / 128), (-127 / 128, -127 / 128, -127 / 128)

    @classmethod
    def namings(cls) -> dict[str, Naming]:
        return {
            "Sortline": cls.naming(torchvision_names, cls.head("classifier"), convention="tf"),
            "efficientnet_lite_pytorch": cls.naming(_pytorch_names, cls.head("_fc"), convention="tf"),
            "timm": cls.naming(timm_names, cls.head("classifier"), convention="tf"),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficientNetLite0Spec(EfficientNetLiteSpec):
    """EfficientNet-Lite0 of 18 layers, for 224 pixels."""

    name: ClassVar[str] = "efficientnet_lite0"
    blocks: ClassVar[tuple[Block, ...]] = scaled_blocks(1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficientNetLite1Spec(EfficientNetLiteSpec):
    """EfficientNet-Lite1 of 23 layers, for 240 pixels."""

    name: ClassVar[str] = "efficientnet_lite1"
    usual_size_px: ClassVar[int] = 240
    tells_near_duplicates: ClassVar[bool] = True
    blocks: ClassVar[tuple[Block, ...]] = scaled_blocks(1.0, 1.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficientNetLite2Spec(EfficientNetLiteSpec):
    """EfficientNet-Lite2 of 23 layers, for 260 pixels."""

    name: ClassVar[str] = "efficientnet_lite2"
    usual_size_px: ClassVar[int] = 260
    blocks: ClassVar[tuple[Block, ...]] = scaled_blocks(1.1, 1.2)


def _pytorch_names(layer: Layer) -> tuple[str, str]:
    if layer.part in ("stem", "last"):
        return ("_conv_stem.weight", "_bn0") if layer.part == "stem" else ("_conv_head.weight", "_bn1")
    norm = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}[layer.part]
    at = f"_blocks.{layer.block - 1}"
    return f"{at}._{layer.part}_conv.weight", f"{at}.{norm}"
