"""What a worker counts, as Prometheus reads it."""

from __future__ import annotations

import re
import socket
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from base.drift import Expected
from jobs.label import ChunkResult, LabelChunk, Row
from jobs.messages import ModelPin
from tests.broker.conftest import MeanEngine
from tests.conftest import free_port
from worker.device_use import DeviceUse, Nvidia
from worker.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
PINS = [ModelPin(name="waste", version=number, digest=str(number) * 64) for number in (1, 2, 3)]
CHUNK = LabelChunk(run="inbox-1", first=0, paths=("a", "b", "c"), model=PINS[0], top_k=1)
ROWS = (Row(top=((0, 1.0),)), Row(error="truncated"), Row(top=((1, 0.5),)))
RESULT = ChunkResult(run="inbox-1", first=0, rows=ROWS, seconds={"decode_s": 0.5, "chunk_s": 0.25})


def families(text: str) -> dict[str, str]:
    """Type of each metric by name."""
    return {family.name: family.type for family in text_string_to_metric_families(text)}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    found = metrics.registry.get_sample_value(name, labels)
    return None if found is None else float(found)


def test_rows_count_by_status_and_version_and_times_by_stage() -> None:
    metrics = Metrics()

    metrics.note_chunk(CHUNK, RESULT)
    metrics.note_chunk(CHUNK, RESULT)

    assert value(metrics, "sortline_images_total", status="ok", model="waste:1") == 4
    assert value(metrics, "sortline_images_total", status="error", model="waste:1") == 2
    assert value(metrics, "sortline_failed_images_total", reason="truncated") == 2
    assert value(metrics, "sortline_stage_seconds_total", stage="decode") == 1.0
    assert value(metrics, "sortline_stage_seconds_total", stage="chunk") == 0.5
    assert value(metrics, "sortline_chunk_seconds_count") == 2
    assert value(metrics, "sortline_chunk_seconds_bucket", le="0.25") == 2
    assert value(metrics, "sortline_chunk_seconds_bucket", le="0.1") == 0


def test_rows_count_by_what_the_thresholds_of_their_version_decide() -> None:
    metrics = Metrics()
    rows = (*ROWS, Row(top=((0, 1.0),), outlier=1.5))

    metrics.note_chunk(CHUNK, RESULT)  # of a version without any
    assert value(metrics, "sortline_decided_images_total", decision="accept", model="waste:1") is None
    metrics.note_thresholds(PINS[0], [0.9, None])
    metrics.note_chunk(CHUNK, RESULT.model_copy(update={"rows": rows}))

    for decision in ("accept", "review", "unknown"):
        assert value(metrics, "sortline_decided_images_total", decision=decision, model="waste:1") == 1


def test_the_wait_in_the_queue_is_counted_where_the_message_tells_it() -> None:
    metrics = Metrics()

    for queued_at in (time.time() - 3, time.time() + 60, None, "yesterday", 10**400):  # a clock ahead is no wait
        metrics.note_wait(queued_at)

    assert value(metrics, "sortline_queue_wait_seconds_count") == 2
    assert value(metrics, "sortline_queue_wait_seconds_sum") == pytest.approx(3, abs=0.5)


def test_the_newest_answers_are_compared_with_those_about_images_held_out() -> None:
    metrics, model = Metrics(), str(PINS[0])

    def shown(of: str) -> list[float | None]:
        return [value(metrics, f"sortline_drift_{name}", model=model, of=of) for name in ("index", "limit")]

    def label(confidence: float, images: int, best: int = 0, outlier: float | None = None) -> list[float | None]:
        rows = tuple(Row(top=((best, confidence),), outlier=outlier) for _ in range(images))
        metrics.note_chunk(CHUNK, RESULT.model_copy(update={"rows": rows}))
        return [*shown("confidences"), value(metrics, "sortline_confidence_change", model=model)]

    assert label(0.5, 100) == [None] * 3  # of a version that keeps no such answers
    quantiles = [part / 100 for part in range(101)]
    metrics.expect(PINS[0], Expected([0] * 85 + [200] + [0] * 14, [100, 100], quantiles))
    assert label(0.855, 29) == [None] * 3
    index, limit, change = label(0.855, 1)
    assert index is not None
    assert index < 0.1
    assert change == pytest.approx(0)
    assert limit is not None
    assert limit > 0.25  # of 30 images
    assert shown("labels")[0] is not None
    assert shown("distances") == [None, None]  # no image had one
    index, limit, change = label(0.405, 1000, outlier=0.95)  # of which the window is full
    assert index is not None
    assert limit == 0.25
    assert index > 5
    assert change == pytest.approx(-0.45)
    assert shown("distances") == [pytest.approx(0.94, abs=0.02), 0.2]
    mixed, _ = shown("labels")
    label(0.405, 500, best=1)
    assert shown("labels") == [pytest.approx(0, abs=0.01), 0.25]
    assert mixed is not None
    assert mixed > 1  # all were of one class of two
    for pin in PINS:
        metrics.note_loaded(pin, MeanEngine(), [pin.digest])
    assert "sortline_drift" not in str([family.samples for family in metrics.registry.collect()])
    assert value(metrics, "sortline_confidence_change", model=model) is None


def test_only_versions_that_are_held_show_as_loaded() -> None:
    metrics, engine = Metrics(), MeanEngine()
    kept: list[str] = []
    for pin in PINS:
        kept = [*kept[-1:], pin.digest]
        metrics.note_loaded(pin, engine, kept)

    assert [str(pin) for pin, _ in metrics.held] == ["waste:2", "waste:3"]
    shown = {"engine": "mean", "device": "cpu", "precision": "f32"}
    held = [value(metrics, "sortline_model_loaded", model=f"waste:{number}", **shown) for number in (1, 2, 3)]
    assert held == [None, 1, 1]
    assert value(metrics, "sortline_batch_images", model="waste:1") is None
    assert value(metrics, "sortline_batch_images", model="waste:3") == engine.micro_batch
    assert value(metrics, "sortline_model_loads_total", model="waste:1") == 1


def test_the_page_lists_the_metrics_and_their_types_as_they_are() -> None:
    metrics = Metrics()
    metrics.note_chunk(CHUNK, RESULT)
    table, _, _ = (ROOT / "docs" / "guide" / "monitor.md").read_text(encoding="utf-8").partition("\nFlower adds")
    documented = dict(re.findall(r"^\| `(sortline_\w+)` \| (\w+) \|", table, re.MULTILINE))

    found = families(generate_latest(metrics.registry).decode())

    counters = {name.removesuffix("_total"): kind for name, kind in documented.items()}
    ours = {name: kind for name, kind in found.items() if name.startswith("sortline_")}
    assert counters == {name: kind for name, kind in ours.items() if not name.endswith("_created")}


def test_metrics_are_served_on_one_address_and_a_taken_port_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    port, metrics = free_port(), Metrics()
    with caplog.at_level("INFO"):
        metrics.serve("127.0.0.1", port)
        Metrics().serve("127.0.0.1", port)

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert "sortline_images" in families(answer.read().decode())
    with socket.socket() as probe, pytest.raises(OSError, match="refused"):
        probe.connect(("127.0.0.2", port))
    assert "metrics served" in caplog.text
    assert "metrics can't be served; give each worker a SORTLINE_METRICS_PORT of its own" in caplog.text


def shares(use: DeviceUse) -> dict[str, float]:
    return {sample.labels["device"]: sample.value for family in use.collect() for sample in family.samples}


def test_the_share_of_the_cpus_is_that_of_the_time_between_two_scrapes() -> None:
    now, spent = [100.0], [10.0]
    use = DeviceUse(clock=lambda: now[0], cpu_seconds=lambda: spent[0], cores=2)

    found = []
    for seconds, busy in ((10, 5), (10, 20), (0.5, 0.0), (9.5, 0.0)):
        now[0] += seconds
        spent[0] += busy
        found.append(shares(use)["cpu"])

    assert found == [0.25, 1.0, 1.0, 0.0]  # half a second is too short to tell


def test_a_process_that_computes_uses_a_cpu() -> None:
    use = DeviceUse(cores=1)
    until = time.monotonic() + 1.1
    while time.monotonic() < until:
        sum(range(10_000))

    assert 0 < shares(use)["cpu"] <= 1


def management_library(init: int) -> SimpleNamespace:
    """Two GPUs, of which one can't tell, as NVIDIA's library answers."""

    def put(place: Any, name: str, value: int) -> int:
        setattr(place._obj, name, value)
        return 0

    return SimpleNamespace(
        nvmlInit_v2=lambda: init,
        nvmlDeviceGetCount_v2=lambda count: put(count, "value", 2),
        nvmlDeviceGetHandleByIndex_v2=lambda index, handle: put(handle, "value", 100 + index),
        nvmlDeviceGetUtilizationRates=lambda handle, use: put(use, "gpu", 87) if handle.value == 100 else 3,
    )


def test_gpus_that_tell_have_a_share_and_a_library_that_fails_has_none() -> None:
    assert list(Nvidia(management_library(init=0)).shares()) == [(0, 0.87)]
    assert list(Nvidia(management_library(init=9)).shares()) == []
    assert list(Nvidia(SimpleNamespace()).shares()) == []
