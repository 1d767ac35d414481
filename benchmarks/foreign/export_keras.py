"""``python export_keras.py FRAMEWORK PHOTOS OUTPUT``: as export.py, for Keras, in an environment with keras.txt.

Keras takes photos by Pillow's bilinear filter, both sides on their own; MobileNetV2's own scaling is -1 to 1.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

SIDE = 224
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
RIDGE, SHARPNESS = 1.0, 8.0  # as in export.py


def load(path: Path) -> Any:
    image = keras.utils.load_img(path, target_size=(SIDE, SIDE), interpolation="bilinear")
    return keras.applications.mobilenet_v2.preprocess_input(keras.utils.img_to_array(image))


def main() -> None:
    photos_root, output = Path(sys.argv[2]), Path(sys.argv[3])
    output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    photos = sorted(path for path in photos_root.rglob("*") if path.suffix.lower() in SUFFIXES)
    classes = sorted({path.parent.name for path in photos})
    network = keras.applications.MobileNetV2(weights=None, classes=len(classes), input_shape=(SIDE, SIDE, 3))
    head = network.layers[-1]
    body = keras.Model(network.input, head.input)
    pixels = np.stack([load(photo) for photo in photos])
    features = body.predict(pixels, verbose=0).astype(np.float64)
    mean, scale = features.mean(0), features.std(0) + 1e-12
    columns = (features - mean) / scale
    truth = np.eye(len(classes))[[classes.index(photo.parent.name) for photo in photos]]
    weights = np.linalg.solve(columns.T @ columns + RIDGE * len(photos) * np.eye(columns.shape[1]), columns.T @ truth)
    weights = SHARPNESS * weights / scale[:, None]
    head.set_weights([weights, SHARPNESS * truth.mean(0) - mean @ weights])
    answers = network.predict(pixels, verbose=0)
    network.export(str(output / "model.onnx"), format="onnx")
    (output / "labels.txt").write_text("\n".join(classes), encoding="utf-8")
    with (output / "samples.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *classes])
        for photo, row in zip(photos, answers.tolist(), strict=True):
            writer.writerow([photo.absolute(), *(f"{value:.7f}" for value in row)])


if __name__ == "__main__":
    main()
