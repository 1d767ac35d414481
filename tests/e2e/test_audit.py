"""``sortline audit`` through the queue: planted wrong labels are found, and the mended table is a dataset."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import sortline
from vision.training import read_table_dataset

pytestmark = pytest.mark.slow


def write(path: Path, bright: bool, seed: int) -> None:
    """Noise, since plain images would be near-duplicates of each other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 120, (8, 8), np.uint8) + (130 if bright else 0)
    Image.fromarray(noise.astype(np.uint8)).save(path)


def test_planted_wrong_labels_come_first_and_the_table_is_a_dataset(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for seed in range(40):
        write(photos / "dark" / f"{seed}.png", False, seed)
        write(photos / "light" / f"{seed}.png", True, 100 + seed)
    planted = {"dark/wrong-1.png", "light/wrong-2.png"}
    write(photos / "dark" / "wrong-1.png", True, 201)
    write(photos / "light" / "wrong-2.png", False, 202)
    (photos / "dark" / "twin.png").write_bytes((photos / "dark" / "0.png").read_bytes())

    recipe = ("--config", "digits", "--set", "epochs=30")
    done = sortline("audit", "photos", *recipe, "--folds", "3", "-o", "audit.csv", home=tmp_path)
    assert "labels look wrong" in done.stdout
    assert "1 images are another's bytes" not in done.stdout  # both of a pair are named
    with (tmp_path / "audit.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 83
    assert {str(Path(row["path"]).relative_to(photos)) for row in rows[:2]} == planted
    assert all(row["suggested"] != row["label"] for row in rows[:2])
    assert {Path(row["path"]).name for row in rows if row["same_as"]} == {"0.png", "twin.png"}

    assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("blur", "dark", "overexposed"))
    assert {(row["tiny"], row["odd_shape"], row["outlier"]) for row in rows} == {("0.9643", "0.0", "")}  # no backbone
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "twin.png" in page
    assert "data:image/webp;base64," in page

    for row in rows[:2]:
        row["label"] = row["suggested"]
    with (tmp_path / "mended.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    dataset = read_table_dataset(tmp_path / "mended.csv", Path("/"))
    trained = {image.path.relative_to(photos).as_posix(): image.class_index for image in dataset.train}
    assert [info.label for info in dataset.classes] == ["dark", "light"]
    assert (len(trained), trained["dark/wrong-1.png"], trained["light/wrong-2.png"]) == (83, 1, 0)
