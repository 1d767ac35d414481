"""``python export.py FRAMEWORK PHOTOS OUTPUT``: a classifier of another framework, as its users export it.

Runs in an environment of the framework's own (requirements.txt). Writes into OUTPUT what `sortline models import` is
given, and samples.csv: every photo with the probabilities of the framework's own pipeline.

The backbone's weights are drawn with a seed; the last layer is fitted to the folders of the photos by ridge regression,
so that answers are spread over the classes as those of a trained network are.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

Answer = Callable[[Path], torch.Tensor]  # a photo -> probabilities (classes,)
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
RIDGE = 1.0
SHARPNESS = 8.0  # of the fitted layer: regression's answers are between 0 and 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", choices=FRAMEWORKS)
    parser.add_argument("photos", type=Path, help="a folder a class")
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    options.output.mkdir(parents=True, exist_ok=True)
    photos = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in SUFFIXES)
    classes = sorted({path.parent.name for path in photos})
    answer = FRAMEWORKS[options.framework](photos, classes, options)
    with (options.output / "samples.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *classes])
        for photo in photos:
            writer.writerow([photo.absolute(), *(f"{value:.7f}" for value in answer(photo).tolist())])


def timm_folder(photos: list[Path], classes: list[str], options: Any, name: str = "resnet18") -> Answer:
    import timm
    from timm.data import create_transform, resolve_data_config

    network = timm.create_model(name, num_classes=len(classes)).eval()
    transform = create_transform(**resolve_data_config({}, model=network))
    fit(network, network.get_classifier(), photos, classes, lambda path: transform(rgb(path))[None])
    timm.models.save_for_hf(network, options.output, model_config={"label_names": classes})
    export(network, network.pretrained_cfg["input_size"], options.output)
    return lambda path: network(transform(rgb(path))[None])[0].softmax(0)


def timm_bicubic(photos: list[Path], classes: list[str], options: Any) -> Answer:
    return timm_folder(photos, classes, options, "tf_efficientnet_lite0")


def convnext(photos: list[Path], classes: list[str], options: Any) -> Answer:
    from transformers import ConvNextConfig, ConvNextForImageClassification, ConvNextImageProcessor

    sizes = {"depths": [1, 1, 2, 1], "hidden_sizes": [32, 64, 96, 128], "image_size": 224}
    network = ConvNextForImageClassification(ConvNextConfig(**sizes, **named(classes))).eval()
    processor = ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.875)
    return hugging_face(network, network.classifier, processor, photos, classes, options.output)


def vit(photos: list[Path], classes: list[str], options: Any) -> Answer:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    sizes = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 192}
    network = ViTForImageClassification(ViTConfig(**sizes, **named(classes))).eval()
    return hugging_face(network, network.classifier, ViTImageProcessor(), photos, classes, options.output)


def hugging_face(network: Any, head: Any, processor: Any, photos: list[Path], classes: list[str], out: Path) -> Answer:
    def load(path: Path) -> torch.Tensor:
        return processor(rgb(path), return_tensors="pt")["pixel_values"]

    fit(network, head, photos, classes, load)
    network.save_pretrained(out)
    processor.save_pretrained(out)
    export(Logits(network), tuple(load(photos[0]).shape[1:]), out)
    return lambda path: network(load(path)).logits[0].softmax(0)


def ultralytics(photos: list[Path], classes: list[str], options: Any) -> Answer:
    from ultralytics import YOLO
    from ultralytics.data.augment import classify_transforms
    from ultralytics.nn.tasks import ClassificationModel

    network = ClassificationModel("yolo11n-cls.yaml", nc=len(classes), verbose=False).eval()
    network.names = dict(enumerate(classes))
    transform = classify_transforms(224)
    fit(network, network.model[-1].linear, photos, classes, lambda path: transform(rgb(path))[None])
    weights = options.output / "best.pt"
    torch.save({"model": network, "train_args": {"task": "classify", "imgsz": 224}}, weights)
    yolo = YOLO(weights)
    yolo.export(format="onnx", imgsz=224, simplify=False)
    return lambda path: yolo.predict(str(path), imgsz=224, verbose=False)[0].probs.data


def torchvision(photos: list[Path], classes: list[str], options: Any) -> Answer:
    from torchvision import transforms
    from torchvision.models import mobilenet_v2

    network = mobilenet_v2(num_classes=len(classes)).eval()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    transform = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    fit(network, network.classifier[1], photos, classes, lambda path: transform(rgb(path))[None])
    export(network, (3, 224, 224), options.output)
    (options.output / "labels.txt").write_text("\n".join(classes), encoding="utf-8")
    return lambda path: network(transform(rgb(path))[None])[0].softmax(0)


def openvino(photos: list[Path], classes: list[str], options: Any) -> Answer:
    import cv2
    import openvino as ov
    from model_api.adapters import OpenvinoAdapter
    from model_api.models import ClassificationModel
    from torchvision.models import resnet18

    network = resnet18(num_classes=len(classes)).eval()
    mean, scale = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

    def load(path: Path) -> torch.Tensor:
        pixels = cv2.resize(np.asarray(rgb(path)), (224, 224), interpolation=cv2.INTER_LINEAR)
        return torch.from_numpy((pixels - np.array(mean)) / np.array(scale)).permute(2, 0, 1)[None].float()

    fit(network, network.fc, photos, classes, load)
    model = ov.convert_model(network, input=[1, 3, 224, 224], example_input=torch.zeros(1, 3, 224, 224))
    info = {
        "model_type": "Classification",
        "labels": " ".join(classes),
        "resize_type": "standard",
        "mean_values": " ".join(map(str, mean)),
        "scale_values": " ".join(map(str, scale)),
        "reverse_input_channels": "True",
        "output_raw_scores": "True",
    }
    for name, value in info.items():
        model.set_rt_info(value, ["model_info", name])
    file = options.output / "network.xml"
    ov.save_model(model, file, compress_to_fp16=False)
    in_f32 = {"INFERENCE_PRECISION_HINT": "f32"}  # else bf16, where a CPU has it
    adapter = OpenvinoAdapter(ov.Core(), str(file), device="CPU", plugin_config=in_f32)
    answers = ClassificationModel.create_model(adapter)
    return lambda path: torch.from_numpy(answers(np.ascontiguousarray(np.asarray(rgb(path))[:, :, ::-1])).raw_scores)


def export(network: Any, shape: tuple[int, ...], folder: Path) -> None:
    example = torch.zeros(1, *shape)
    torch.onnx.export(network, example, str(folder / "model.onnx"), opset_version=17, dynamo=False)


def fit(network: Any, head: Any, photos: list[Path], classes: list[str], load: Callable[[Path], torch.Tensor]) -> None:
    """Fit the last linear layer to the photos' folders."""
    seen: list[Any] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].reshape(1, -1).numpy()))
    for photo in photos:
        network(load(photo))
    hook.remove()
    features = np.concatenate(seen).astype(np.float64)
    mean, scale = features.mean(0), features.std(0) + 1e-12
    columns = (features - mean) / scale
    truth = np.eye(len(classes))[[classes.index(photo.parent.name) for photo in photos]]
    weights = np.linalg.solve(columns.T @ columns + RIDGE * len(photos) * np.eye(columns.shape[1]), columns.T @ truth)
    weights = SHARPNESS * weights / scale[:, None]
    head.weight.copy_(torch.from_numpy(weights.T))
    head.bias.copy_(torch.from_numpy(SHARPNESS * truth.mean(0) - mean @ weights))


class Logits(torch.nn.Module):  # type: ignore[misc]
    """The tensor of a Hugging Face network's answer."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network(pixels).logits


def named(classes: list[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(classes)), "label2id": {name: index for index, name in enumerate(classes)}}


def rgb(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


FRAMEWORKS: dict[str, Callable[[list[Path], list[str], Any], Answer]] = {
    "timm-resnet18": timm_folder,
    "timm-efficientnet-lite0": timm_bicubic,
    "hf-convnext": convnext,
    "hf-vit": vit,
    "ultralytics": ultralytics,
    "torchvision": torchvision,
    "openvino": openvino,
}

if __name__ == "__main__":
    with torch.no_grad():
        main()
