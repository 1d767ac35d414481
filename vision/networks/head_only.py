"""A head alone: what is trained where the frozen part is a graph that came as such, or is of several backbones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mindspore import nn

from vision.checks import integer
from vision.networks.spec import WHAT, NetworkSpec
from vision.networks.weight_names import Naming

MOST_FEATURES = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec(NetworkSpec):
    """A head on features of this ``width``. Not in the table of networks: no version is such a network by itself."""

    name: ClassVar[str] = "a graph"
    head_name: ClassVar[str] = "head"
    checkpoint_naming: ClassVar[str] = ""

    width: int

    def __post_init__(self) -> None:
        integer(WHAT, "width", self.width, 1, MOST_FEATURES)
        NetworkSpec.__post_init__(self)  # not super(): slots make this class anew

    @property
    def features(self) -> int:
        return self.width

    def build_backbone(self) -> nn.Cell:
        return nn.Identity()

    @classmethod
    def namings(cls) -> dict[str, Naming]:
        return {}
