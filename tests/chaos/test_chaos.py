"""The promise: through all kills together, one row an input, and the bytes of an undisturbed run."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from tests.chaos.storm import FORMATS, POISON, QUEUED, Plan, Storm, write_mixed_images

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

IMAGES = 2000
STORM = Plan(
    images=IMAGES,
    workers=3,
    worker_kills=10,
    redis_kills=2,
    redis_losses=2,
    flushes=2,
    producer_kills=3,
    stops=1,
    seed=1,
)


def test_a_run_through_every_kind_of_kill_has_the_bytes_of_an_undisturbed_one(
    home: Path, tmp_path: Path, model_store: Path
) -> None:
    photos = tmp_path / "photos"
    faults = write_mixed_images(photos, IMAGES, poison=True)
    calm = Storm(Plan(images=IMAGES, workers=3), home / "calm", photos, model_store, faults).run(250)

    stormy = Storm(STORM, home / "stormy", photos, model_store, f"{faults},before publish=nap").run(300)

    print(f"calm {calm.seconds:.0f} s, stormy {stormy.seconds:.0f} s, {stormy.done}, {stormy.worker_codes}")
    print(f"keys left {stormy.keys}")
    assert stormy.done == {
        "worker kill": 10, "redis kill": 2, "redis loss": 2, "flush": 2, "producer kill": 3, "stop": 1
    }  # fmt: skip
    for name in FORMATS:
        assert stormy.reports[name] == calm.reports[name], name
    assert calm.betrayed == stormy.betrayed == []
    assert not {*QUEUED, "sortline:unacked_index"} & {*calm.keys, *stormy.keys}
    rows = list(csv.DictReader(io.StringIO(calm.reports["csv"].decode())))
    assert [row["path"] for row in rows] == sorted(path.name for path in photos.iterdir())
    lost = {row["path"]: row for row in rows if row["status"] != "ok"}
    assert sorted(name.partition("-")[2].removesuffix(".png") for name in lost) == sorted(POISON)
    for name, row in lost.items():
        assert row["error"] == "worker_lost"
        assert POISON[name.partition("-")[2].removesuffix(".png")] in row["error_detail"]
