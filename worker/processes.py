"""How many processes a label worker has on this host, and what each of them gets.

One process can't fill a GPU: Python's lock keeps it from decoding on more than a few cores. A CPU, which decodes and
computes on the same cores, is filled by one. The figures are in docs/development/benchmarks.md, section GPU.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from base.process import available_cpus, available_memory_bytes
from configs import MAX_PROCESSES, Settings, environment_of
from vision import EngineError
from vision.serving import ENGINES
from worker.device_use import Nvidia

CORES_A_PROCESS = 2
HOST_BYTES_A_PROCESS = 2_000_000_000
GPU_BYTES_A_PROCESS = {"f16": 7_000_000_000}
FULL_GPU_BYTES_A_PROCESS = 12_000_000_000  # in f32, which "auto" may turn out to be
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What processes share.

    Attributes:
        memory_bytes: of RAM that is free; 0 when unknown.
        gpus: free bytes of each GPU that labels can be computed on, by its name in CUDA_VISIBLE_DEVICES.
    """

    cores: int
    memory_bytes: int = 0
    gpus: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def here(cls, settings: Settings) -> Host:
        """Look at this host. ONNX Runtime is imported only where there is a GPU for it."""
        gpus: dict[str, int] = {}
        if settings.device in ("auto", "cuda") and settings.engine in ("auto", "onnxruntime"):
            gpus = visible_gpus(Nvidia(), os.environ.get(VISIBLE))
        if gpus:
            try:
                ENGINES["onnxruntime"]["cuda"].found_here()
            except EngineError:  # built for CPUs: opening the engine says so
                gpus = {}
        return cls(cores=available_cpus(), memory_bytes=available_memory_bytes(), gpus=gpus)


@dataclass(frozen=True, slots=True)
class Plan:
    """The environment that each process gets beside its parent's, and why there are so many."""

    parts: list[dict[str, str]]
    reason: str


def plan_processes(settings: Settings, host: Host) -> Plan:
    """Return the parts of ``settings.processes`` processes, or with 0 of as many as this host wants."""
    count, reason = settings.processes, "asked for"
    if not count:
        count, reason = _chosen(settings, host)
    settings = settings.model_copy(update={"processes": 1})
    gpus = list(host.gpus)
    parts = []
    for index in range(count):
        own = {
            "cores": settings.cores or max(1, (host.cores + index) // count),  # what doesn't divide goes to the last
            "metrics_port": settings.metrics_port + index if settings.metrics_port else 0,
        }
        part = environment_of(settings.model_copy(update=own))
        if len(gpus) > 1:
            part[VISIBLE] = gpus[index % len(gpus)]
        parts.append(part)
    return Plan(parts, reason)


def visible_gpus(nvidia: Nvidia, chosen: str | None) -> dict[str, int]:
    """Return the free bytes of each GPU that CUDA shows with CUDA_VISIBLE_DEVICES set to ``chosen``, in its order."""
    names: Sequence[str] = nvidia.names() if chosen is None else [name.strip() for name in chosen.split(",")]
    found: dict[str, int] = {}
    for name in names:
        free = nvidia.free_memory(name)
        if free is None:  # CUDA stops at the first name that is none, too
            break
        found[name] = free
    return found


def _chosen(settings: Settings, host: Host) -> tuple[int, str]:
    if not host.gpus:
        return 1, "no GPU for ONNX Runtime: one process uses all cores"
    gpus, bytes_each = len(host.gpus), GPU_BYTES_A_PROCESS.get(settings.precision, FULL_GPU_BYTES_A_PROCESS)
    limits = {
        f"{host.cores} cores at {CORES_A_PROCESS} a process": host.cores // (CORES_A_PROCESS * gpus),
        f"free GPU memory at {bytes_each // 10**9} GB a process": min(host.gpus.values()) // bytes_each,
        "the most there may be": MAX_PROCESSES // gpus,
    }
    if host.memory_bytes:
        limits[f"free memory at {HOST_BYTES_A_PROCESS // 10**9} GB a process"] = host.memory_bytes // (
            HOST_BYTES_A_PROCESS * gpus
        )
    limit = min(limits, key=lambda name: limits[name])
    each = max(1, limits[limit])
    return gpus * each, f"one process can't fill a GPU; {each} on each of {gpus} by {limit}"
