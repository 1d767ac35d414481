"""What the fixtures promise to tests that run side by side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import free_port


def test_no_two_test_processes_get_the_same_port() -> None:
    ours = {free_port() for _ in range(20)}
    script = "from tests.conftest import free_port; print(*(free_port() for _ in range(20)))"

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    theirs = {int(port) for port in done.stdout.split()}

    assert len(ours) == len(theirs) == 20
    assert not ours & theirs
