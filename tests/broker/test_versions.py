"""A worker changes over to a new version without a restart, and keeps the proven ones when a new one is no good."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from configs.settings import Settings
from jobs.messages import ModelPin
from model_store.manifest import ManifestDraft
from model_store.store import ModelStore
from producer.errors import RunRefused
from tests.broker.conftest import NewProducer, really_working
from worker.errors import JobRefused
from worker.runtime import Runtime


@pytest.fixture
def pins(real_settings: Settings, tmp_path: Path) -> list[ModelPin]:
    """Three versions: two that are sound, and one that answers its golden images wrongly on every machine."""
    store = ModelStore(tmp_path / "store")
    source = ModelStore(real_settings.store_root)
    given = source.resolve("colours:1").manifest
    files = {name: source.open_file("colours", 1, name) for name in given.files}
    pins = []
    for sound in (True, True, False):

        def write(folder: Path, sound: bool = sound) -> ManifestDraft:
            for name, data in files.items():
                (folder / name).write_bytes(data)
            if not sound:
                with np.load(folder / "golden.npz") as golden:
                    images, outputs = golden["images"], golden["outputs"]
                np.savez(folder / "golden.npz", images=images, outputs=1 - outputs)  # beyond what bf16 may differ
            return ManifestDraft(**{field: getattr(given, field) for field in ManifestDraft.model_fields})

        version = store.publish("colours", write)
        pins.append(ModelPin(name="colours", version=version.version, digest=version.manifest.digest))
    return pins


def test_runs_on_sound_versions_go_on_after_one_whose_version_fails_its_golden_images(
    real_settings: Settings, tmp_path: Path, pins: list[ModelPin], new_producer: NewProducer
) -> None:
    with really_working(real_settings.model_copy(update={"store": tmp_path / "store"})):
        for number, pin in enumerate([pins[0], pins[1]]):
            producer = new_producer(name=f"before-{number}", pin=pin)
            producer.finish()
            assert {row.error for row in producer.run.rows()} == {None}
        with pytest.raises(RunRefused, match=r"model colours:3: .* would serve this model wrongly"):
            new_producer(name="bad", pin=pins[2]).finish()
        after = new_producer(name="after", pin=pins[0])
        after.finish()

    assert {row.error for row in after.run.rows()} == {None}


def test_a_version_that_fails_its_checks_costs_no_loaded_one_its_place(
    real_settings: Settings, tmp_path: Path, pins: list[ModelPin]
) -> None:
    runtime = Runtime(real_settings.model_copy(update={"store": tmp_path / "store"}))
    loaded = [runtime.classifier(pin) for pin in pins[:2]]

    with pytest.raises(JobRefused, match="would serve this model wrongly"):
        runtime.classifier(pins[2])

    assert [runtime.classifier(pin) for pin in pins[:2]] == loaded
