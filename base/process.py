"""Processes of this machine: how they end, that none outlives its parent, which cores they may use, what they hold."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

DRAINED = 3  # a worker was asked to end, and should not be started again
STUCK = 70  # EX_SOFTWARE of sysexits.h: a worker ended itself because one chunk took too long


# What a process brings upon itself. Any other signal comes from outside: SIGKILL, too, which memory pressure sends.
OWN_SIGNALS = {
    signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP
}  # fmt: skip


def ended_itself(code: int) -> bool:
    """Whether a process ended by its own doing, from ``Popen.returncode``."""
    return code >= 0 or -code in OWN_SIGNALS


def how_it_ended(code: int) -> str:
    """Return the name of the signal that ended a process, or its exit code, from ``Popen.returncode``."""
    if code >= 0:
        return f"code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def shut_out_strangers() -> None:
    """Let files that this process makes from now on be for its owner and group alone, or as the umask was if stricter.

    Not for a process that writes what a user asked for: that is for whom the user's umask says.
    """
    os.umask(os.umask(0o027) | 0o027)


def die_with(parent_pid: int) -> None:
    """Have Linux kill this process when its parent dies, kill -9 included. Elsewhere the parent's own exit must do."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent_pid:  # the parent died before the line above
            os._exit(1)


def available_cpus() -> int:
    """Return how many cores this process may use, by affinity and by a container's quota (at least 1).

    Runtimes look at the affinity only: in a container limited to 2 of 64 cores they would start 64 threads.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()  # cgroup v2: "200000 100000" = 2 cores
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def available_memory_bytes() -> int:
    """Return the memory that this process and others could still take, within a container's limit; 0 if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return 0
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return available
    return available if limit == "max" else max(0, min(available, int(limit) - used))


def trim_memory() -> None:
    """Give freed memory back to the system, which glibc keeps for later; elsewhere nothing happens."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM; 0 where the system doesn't say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
