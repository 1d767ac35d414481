"""Dealing the images of a job into sides: what can't be read costs nobody else, and is counted."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from configs.settings import Settings, TrainingSettings
from vision.dataset import file_digests, read_dataset
from worker.runtime import Runtime
from worker.training_data import TrainingData


def test_files_that_can_not_be_opened_or_decoded_are_counted_and_left_out(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for label in ("dog", "cat"):
        for number in range(8):
            path = tmp_path / "photos" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), random.integers(0, 256, (16, 16, 3), np.uint8))
    cut, gone = tmp_path / "photos" / "cat" / "0.png", tmp_path / "photos" / "dog" / "gone.png"
    cut.write_bytes(cut.read_bytes()[:40])
    gone.symlink_to(tmp_path / "nowhere.png")
    dataset = read_dataset(tmp_path / "photos")
    recipe = TrainingSettings(network="lenet5", height_px=16, width_px=16, validation_fraction=0.25)
    digests = file_digests(image.path for image in dataset.train)
    runtime = Runtime(Settings(home=tmp_path / "home"))
    data = TrainingData(runtime, recipe, None, None, dataset, digests, tmp_path / "scratch", lambda text: None)

    split = data.split(fail_on_leak=False)

    used = [image.path for side in (split.training, split.validation) for image in side.images]
    assert len(used) == 15
    assert not {cut, gone} & set(used)
    assert sorted(error.split(":")[0] for error in data.skipped) == sorted([str(cut), str(gone)])
