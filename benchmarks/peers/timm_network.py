"""timm's MobileNetV2 and the images it takes, shared by the two peers on torch."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch

if torch.version.cuda is None and "+cpu" not in version("torchvision"):
    # A torchvision for CUDA can't load its kernels beside torch's CPU build, and then stumbles over these two names.
    # Neither timm's MobileNetV2 nor the transforms call them.
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")

import timm
from torchvision import transforms

CLASSES = 26
SIDE_PX = 224
PREPARE = transforms.Compose(
    [
        transforms.Resize((SIDE_PX, SIDE_PX)),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
)


def build() -> Any:
    """Return the network with seeded weights, for inference."""
    torch.manual_seed(0)
    return timm.create_model("mobilenetv2_100", pretrained=False, num_classes=CLASSES).eval()
