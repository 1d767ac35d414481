"""Work on a stranger's file in a process of its own, with limits: whatever the file does ends that process alone."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

from base.process import how_it_ended
from vision import VisionError

WAIT_S = 600  # a slow disk is no fault of the file
FAULT = 3  # exit code: the sentence is on stderr


def run_apart(module: str, arguments: list[str], undone: str, error: type[VisionError] = VisionError) -> None:
    """Run ``python -m module`` to its end; ``undone`` says what is not done where it fails, for messages.

    Raises:
        error: what the process says is wrong; or it was ended by the file, or by a limit.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
            cwd="/",  # `python -m` imports from where it stands first
        )
    except subprocess.TimeoutExpired as late:
        raise error(f"{undone}: that takes more than {WAIT_S} s") from late
    if done.returncode == FAULT:
        raise error(done.stderr.strip())
    if done.returncode:
        end = [how_it_ended(done.returncode), *done.stderr.strip().splitlines()[-1:]]
        raise error(f"{undone}: the process that read it ended with {': '.join(end)}")


def within_limits(work: Callable[[], None], what: str, limits: dict[int, int]) -> int:
    """Do ``work`` in this process, which ends after it, with these limits of resources; return the exit code."""
    for limit, value in limits.items():
        most = resource.getrlimit(limit)[1]
        with suppress(ValueError, OSError):  # macOS knows no limit of addresses
            resource.setrlimit(limit, (value, most) if most == resource.RLIM_INFINITY else (min(value, most), most))
    try:
        work()
    except VisionError as error:
        print(error, file=sys.stderr)
        return FAULT
    except MemoryError:
        most_gb = limits[resource.RLIMIT_AS] >> 30
        print(f"{what}: reading it takes more than {most_gb} GB of memory", file=sys.stderr)
        return FAULT
    return 0
