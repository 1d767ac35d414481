"""The waste photos, as a user with a pretrained backbone would do it: import, train a head, label."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import SHARED, sortline
from tests.e2e.test_label import rows_of

pytestmark = [pytest.mark.slow, pytest.mark.shared]


@pytest.mark.skipif(not SHARED.exists() and os.environ.get("CI") != "true", reason="needs ../shared")
def test_a_head_trained_on_imported_weights_sorts_photos_of_other_families(home: Path) -> None:
    data = SHARED / "data" / "waste"
    weights = SHARED / "models" / "mobilenetv2_100_imagenet_bn.safetensors"

    imported = sortline("models", "import", str(weights), home=home).stdout
    trained = sortline("train", str(data), "--config", "waste26", home=home, limit_s=400)
    labelled = sortline("label", str(data / "val"), "--top-k", "3", home=home)

    rows = rows_of(home / "report.csv")
    right = sum(Path(row["path"]).parent.name == codes()[row["label"]] for row in rows)
    assert "mobilenetv2-imagenet:1: mobilenet_v2, backbone, tf convention" in imported
    assert "have a near copy in train/" in trained.stderr
    assert "256 images: 256 labelled, 0 failed" in labelled.stderr
    assert right / len(rows) >= 0.78
    assert {row["group"] for row in rows} == {"Recyclable", "Residual (dry)", "Hazardous", "Household food (wet)"}


def codes() -> dict[str, str]:
    """Label -> class code, from the data set's own list."""
    import csv

    with (SHARED / "data" / "waste" / "classes.csv").open(encoding="utf-8", newline="") as file:
        return {row["name_en"]: row["class"] for row in csv.DictReader(file)}
