"""How many processes a label worker has, and what each of them gets."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest

from configs import Settings
from worker.device_use import Nvidia
from worker.processes import Host, plan_processes, visible_gpus

GB = 1_000_000_000
H200 = {"GPU-a": 140 * GB}


def cores(parts: list[dict[str, str]]) -> list[int]:
    return [int(part["SORTLINE_CORES"]) for part in parts]


@pytest.mark.parametrize(
    ("host", "settings", "count", "reason"),
    [
        (Host(cores=16), Settings(), 1, "no GPU for ONNX Runtime: one process uses all cores"),
        (Host(cores=16, memory_bytes=128 * GB, gpus=H200), Settings(), 8, "8 on each of 1 by 16 cores at 2 a process"),
        (Host(cores=2, gpus=H200), Settings(), 1, "1 on each of 1 by 2 cores"),
        (Host(cores=1, gpus=H200), Settings(), 1, "1 on each of 1 by 1 cores"),
        (Host(cores=16, gpus={"0": 79 * GB}), Settings(), 6, "by free GPU memory at 12 GB a process"),
        (Host(cores=16, gpus={"0": 79 * GB}), Settings(precision="f16"), 8, "by 16 cores at 2 a process"),
        (Host(cores=16, gpus={"0": 24 * GB}), Settings(precision="f16"), 3, "by free GPU memory at 7 GB a process"),
        (Host(cores=16, gpus={"0": 2 * GB}), Settings(), 1, "1 on each of 1 by free GPU memory"),
        (Host(cores=16, memory_bytes=8 * GB, gpus=H200), Settings(), 4, "by free memory at 2 GB a process"),
        (Host(cores=32, gpus={"0": 80 * GB, "1": 25 * GB}), Settings(), 4, "2 on each of 2 by free GPU memory"),
        (Host(cores=256, gpus={str(n): 140 * GB for n in range(8)}), Settings(), 64, "8 on each of 8 by the most"),
        (Host(cores=16, gpus=H200), Settings(processes=3), 3, "asked for"),
        (Host(cores=16, gpus=H200), Settings(processes=1), 1, "asked for"),
    ],
)
def test_cores_devices_and_memory_say_how_many(host: Host, settings: Settings, count: int, reason: str) -> None:
    plan = plan_processes(settings, host)

    assert len(plan.parts) == count
    assert reason in plan.reason


def test_processes_share_all_cores_and_none_of_them_divides_again() -> None:
    plan = plan_processes(Settings(processes=3), Host(cores=16))

    assert sorted(cores(plan.parts)) == [5, 5, 6]
    assert {part["SORTLINE_PROCESSES"] for part in plan.parts} == {"1"}
    assert cores(plan_processes(Settings(processes=3), Host(cores=2)).parts) == [1, 1, 1]
    assert cores(plan_processes(Settings(processes=2, cores=3), Host(cores=16)).parts) == [3, 3]


def test_processes_take_turns_on_the_gpus_and_a_single_gpu_is_left_as_it_is() -> None:
    two = plan_processes(Settings(), Host(cores=12, gpus={"GPU-a": 140 * GB, "GPU-b": 140 * GB}))
    one = plan_processes(Settings(), Host(cores=12, gpus=H200))

    assert [part["CUDA_VISIBLE_DEVICES"] for part in two.parts] == ["GPU-a", "GPU-b"] * 3
    assert not any("CUDA_VISIBLE_DEVICES" in part for part in one.parts)


def test_each_process_serves_its_metrics_on_a_port_of_its_own() -> None:
    served = plan_processes(Settings(processes=3, metrics_port=9808), Host(cores=4))
    silent = plan_processes(Settings(processes=3), Host(cores=4))

    assert [part["SORTLINE_METRICS_PORT"] for part in served.parts] == ["9808", "9809", "9810"]
    assert {part["SORTLINE_METRICS_PORT"] for part in silent.parts} == {"0"}


def nvidia() -> Nvidia:
    """Three GPUs as NVIDIA's library answers; the last has lost its memory."""
    uuids = ["GPU-a", "GPU-b", "GPU-c"]

    def put(place: Any, name: str, value: int) -> int:
        setattr(place._obj, name, value)
        return 0

    def by_uuid(uuid: bytes, handle: Any) -> int:
        return put(handle, "value", uuids.index(uuid.decode()) + 1) if uuid.decode() in uuids else 6

    def uuid_of(handle: ctypes.c_void_p, text: Any, _: int) -> int:
        text.value = uuids[(handle.value or 0) - 1].encode()
        return 0

    return Nvidia(
        SimpleNamespace(
            nvmlInit_v2=lambda: 0,
            nvmlDeviceGetCount_v2=lambda count: put(count, "value", 3),
            nvmlDeviceGetHandleByIndex_v2=lambda n, handle: put(handle, "value", n + 1) if n < 3 else 2,
            nvmlDeviceGetHandleByUUID=by_uuid,
            nvmlDeviceGetUUID=uuid_of,
            nvmlDeviceGetMemoryInfo=lambda handle, memory: (
                put(memory, "free", handle.value * GB) if handle.value < 3 else 15
            ),
        )
    )


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        (None, {"GPU-a": GB, "GPU-b": 2 * GB}),
        ("1,0", {"1": 2 * GB, "0": GB}),
        ("GPU-b", {"GPU-b": 2 * GB}),
        ("0, GPU-x, 1", {"0": GB}),  # CUDA, too, passes over what follows a wrong name
        ("7", {}),
        ("-1", {}),
        ("", {}),
    ],
)
def test_the_gpus_are_those_that_cuda_shows(chosen: str | None, found: dict[str, int]) -> None:
    assert list(visible_gpus(nvidia(), chosen).items()) == list(found.items())


def test_a_host_without_a_driver_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert visible_gpus(Nvidia(SimpleNamespace()), None) == {}
    assert visible_gpus(Nvidia(SimpleNamespace()), "0") == {}


@pytest.mark.parametrize(
    "settings", [Settings(device="cpu"), Settings(engine="openvino"), Settings(engine="mindspore")]
)
def test_a_gpu_that_does_not_compute_the_labels_does_not_count(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr("worker.processes.visible_gpus", lambda *_: H200)
    monkeypatch.setattr("vision.serving.engines.onnx_cuda.OnnxCudaEngine.found_here", lambda: "1.31 with CUDA")

    assert not Host.here(settings).gpus
    assert Host.here(Settings()).gpus == H200


def test_an_onnx_runtime_that_was_built_without_cuda_makes_no_gpu_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.processes.visible_gpus", lambda *_: H200)

    host = Host.here(Settings())

    assert not host.gpus
    assert host.cores >= 1
    assert host.memory_bytes > 0
