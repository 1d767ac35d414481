"""What Prometheus and a log collector get from real processes."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import SORTLINE, RedisServer, end, environment, free_port, sortline, wait_until, write_images

pytestmark = pytest.mark.slow

FLOWERS = {
    "flower_events": "counter",
    "flower_task_runtime_seconds": "histogram",
    "flower_task_prefetch_time_seconds": "gauge",
    "flower_worker_prefetched_tasks": "gauge",
    "flower_worker_online": "gauge",
    "sortline_queued_messages": "gauge",
    "sortline_still_seconds": "gauge",
    "flower_worker_number_of_currently_executing_tasks": "gauge",
}
OURS = {
    "sortline_images": "counter",
    "sortline_failed_images": "counter",
    "sortline_stage_seconds": "counter",
    "sortline_chunk_seconds": "histogram",
    "sortline_queue_wait_seconds": "histogram",
    "sortline_batch_images": "gauge",
    "sortline_device_utilisation": "gauge",
    "sortline_model_loads": "counter",
    "sortline_model_hits": "counter",
    "sortline_model_loaded": "gauge",
    "sortline_worker_info": "gauge",
    "process_resident_memory_bytes": "gauge",
}


def page(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own http server
            return str(answer.read().decode())
    except OSError:
        return ""


def test_metrics_and_logs_tell_of_a_run(
    redis_server: RedisServer, home: Path, tmp_path: Path, model_store: Path
) -> None:
    images = write_images(tmp_path / "photos", 20)
    images[3].write_text("no picture")
    (tmp_path / "photos" / "a\n2026 ERROR forged.png").write_bytes(images[4].read_bytes())
    env = {
        "SORTLINE_BROKER": redis_server.url,
        "SORTLINE_STORE": str(model_store),
        "SORTLINE_DATA_ROOT": str(tmp_path / "photos"),
        "SORTLINE_CHUNK_IMAGES": "7",
    }
    ours, flowers = free_port(), free_port()
    log = home / "worker.log"
    commands = {
        log: ["worker", "--queues", "label", "--name", "bench", "--log-format", "json"],
        home / "flower.log": ["monitor", "--port", str(flowers)],
    }
    started = []
    for path, command in commands.items():
        with path.open("wb") as output:
            process = subprocess.Popen(
                [SORTLINE, *command],
                env=environment(home, {**env, "SORTLINE_METRICS_PORT": str(ours)}),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
    try:
        beat = 'flower_worker_online{worker="bench@'
        wait_until(lambda: beat in page(f"http://127.0.0.1:{flowers}/metrics"), 60, "Flower to hear of the worker")
        sortline("label", str(tmp_path / "photos"), home=home, env=env)
        wait_until(lambda: "task-succeeded" in page(f"http://127.0.0.1:{flowers}/metrics"), 30, "events")
        of_flower = list(text_string_to_metric_families(page(f"http://127.0.0.1:{flowers}/metrics")))
        of_worker = list(text_string_to_metric_families(page(f"http://127.0.0.1:{ours}/metrics")))
    finally:
        for process in started:
            process.terminate()
        assert [process.wait(60) for process in started] == [0, 0]

    assert {family.name: family.type for family in of_flower}.items() >= FLOWERS.items()
    assert {family.name: family.type for family in of_worker}.items() >= OURS.items()
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in of_worker
        for sample in family.samples
    }
    assert samples["sortline_images_total", "colours:1", "ok"] == 20
    assert samples["sortline_images_total", "colours:1", "error"] == 1
    assert samples["sortline_failed_images_total", "not_an_image"] == 1
    assert samples[("sortline_chunk_seconds_count",)] == 3
    assert samples["sortline_model_loads_total", "colours:1"] == 1
    assert samples["sortline_model_hits_total", "colours:1"] == 2
    assert samples[("sortline_queue_wait_seconds_count",)] == 3
    assert samples[("process_resident_memory_bytes",)] > 1e7
    assert 0 <= samples["sortline_device_utilisation", "cpu"] <= 1
    assert any(name == "sortline_model_loaded" and "colours:1" in labels for name, *labels in samples)
    (online,) = [sample for family in of_flower for sample in family.samples if sample.name == "flower_worker_online"]
    assert online.labels["worker"].startswith("bench@")

    events = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    chunks = [event for event in events if event["event"] == "chunk labelled"]
    assert [event["chunk"] for event in chunks] == [0, 7, 14]
    assert sum(event["images"] for event in chunks) == 21
    assert sum(event["failed"] for event in chunks) == 1
    assert all(event["model"] == "colours:1" and event["run"].startswith("photos-") for event in chunks)
    assert all(event["seconds"] >= 0 for event in chunks)
    assert "forged" not in log.read_text()
    kept = list(home.glob("flower.db*"))
    assert kept
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)  # Flower trusts what it reads from it


def test_metrics_are_off_unless_a_port_is_given(
    redis_server: RedisServer, home: Path, tmp_path: Path, model_store: Path
) -> None:
    log = home / "worker.log"
    env = {"SORTLINE_BROKER": redis_server.url, "SORTLINE_DATA_ROOT": str(tmp_path), "SORTLINE_STORE": str(model_store)}
    with log.open("wb") as output:
        command = [sys.executable, "-m", "worker", "--queues", "label"]
        worker = subprocess.Popen(
            command, env=environment(home, env), stdout=output, stderr=subprocess.STDOUT, cwd=home
        )
    try:
        wait_until(lambda: "ready." in log.read_text(), 60, "the worker")
        sockets = Path(f"/proc/{worker.pid}/net/tcp").read_text()
        inodes = {link.readlink().name for link in Path(f"/proc/{worker.pid}/fd").iterdir() if link.is_symlink()}
    finally:
        end(worker, 60)

    listening = [line.split() for line in sockets.splitlines()[1:] if line.split()[3] == "0A"]
    assert not [line for line in listening if f"socket:[{line[9]}]" in inodes]
    assert "metrics served" not in log.read_text()
