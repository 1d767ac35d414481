"""How busy this machine's devices are, as far as is known: this process's share of the CPUs, each NVIDIA GPU."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from base.process import available_cpus

NVML = "libnvidia-ml.so.1"  # comes with NVIDIA's driver
UUID_BYTES = 96
SHORTEST_S = 1.0  # a share of less time says nothing; two scrapers would see each other's leftovers


class DeviceUse(Collector):
    """``sortline_device_utilisation``: 0 to 1 for each device, looked at when somebody scrapes."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        cpu_seconds: Callable[[], float] = time.process_time,
        cores: int | None = None,
    ) -> None:
        self._clock = clock
        self._cpu_seconds = cpu_seconds
        self._cores = cores or available_cpus()
        self._at, self._spent, self._share = clock(), cpu_seconds(), 0.0
        self._lock = threading.Lock()  # scrapes come from several threads
        self._nvidia: Nvidia | None = None

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Name the metric without looking: nothing is loaded before the first scrape."""
        yield _family()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = _family()
        with self._lock:
            family.add_metric(["cpu"], self._cpu_share())
            if self._nvidia is None:
                self._nvidia = Nvidia()
            for index, share in self._nvidia.shares():
                family.add_metric([f"nvidia{index}"], share)
        yield family

    def _cpu_share(self) -> float:
        """Return the share of the CPUs that this process may use and did use since it was last asked."""
        now, spent = self._clock(), self._cpu_seconds()
        if now - self._at >= SHORTEST_S:
            self._share = min(1.0, (spent - self._spent) / (now - self._at) / self._cores)
            self._at, self._spent = now, spent
        return self._share


class Nvidia:
    """NVIDIA's management library, where the driver brought one; without it, there are no GPUs to report."""

    def __init__(self, library: Any = None) -> None:
        self._library = library
        try:
            self._library = library or ctypes.CDLL(NVML)
            found = ctypes.c_uint()
            ready = not self._library.nvmlInit_v2() and not self._library.nvmlDeviceGetCount_v2(ctypes.byref(found))
        except (OSError, AttributeError):  # no such library, or one too old
            ready = False
        self._devices = found.value if ready else 0

    def free_memory(self, name: str) -> int | None:
        """Return the free bytes of the GPU that CUDA_VISIBLE_DEVICES calls ``name``: an index or a UUID; None: none."""
        handle, memory = ctypes.c_void_p(), _Memory()
        if not self._devices:
            return None
        if name.isdecimal():
            missing = self._library.nvmlDeviceGetHandleByIndex_v2(int(name), ctypes.byref(handle))
        else:
            missing = self._library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
        if missing or self._library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)):
            return None
        return int(memory.free)

    def names(self) -> list[str]:
        """Return the UUID of each GPU."""
        found = []
        for index in range(self._devices):
            handle, uuid = ctypes.c_void_p(), ctypes.create_string_buffer(UUID_BYTES)
            if self._library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)):
                continue
            if not self._library.nvmlDeviceGetUUID(handle, uuid, UUID_BYTES):
                found.append(uuid.value.decode())
        return found

    def shares(self) -> Iterator[tuple[int, float]]:
        """Yield (index, share of the last moment in which the GPU computed) of each GPU that reports it."""
        for index in range(self._devices):
            handle, use = ctypes.c_void_p(), _Utilisation()
            if self._library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)):
                continue
            if not self._library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(use)):
                yield index, use.gpu / 100


class _Utilisation(ctypes.Structure):
    """nvmlUtilization_t: percent of the last sample period (1/6 to 1 s)."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    """nvmlMemory_t: bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def _family() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "sortline_device_utilisation",
        "Share of a device's time in use: of the CPUs by this process, of a GPU by all",
        labels=["device"],
    )
