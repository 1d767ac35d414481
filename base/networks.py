"""Which networks there are, and where each is. Adding one is its file and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# Name in recipes and manifests -> "module:class", imported by `vision.networks.registry` when a job asks for it: the
# module of a network loads MindSpore, and a recipe is checked without.
NETWORKS: Final[Mapping[str, str]] = {
    "lenet5": "vision.networks.lenet5:LeNet5Spec",
    "mobilenet_v2": "vision.networks.mobilenet_v2:MobileNetV2Spec",
    "resnet18": "vision.networks.resnet18:ResNet18Spec",
}
