"""Half a minute of the hour on three hosts: every step is taken once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.chaos import hour

pytestmark = [pytest.mark.long, pytest.mark.timeout(0)]  # its own limits name what stands


def test_three_hosts_label_every_run_whatever_fails(model_store: Path) -> None:
    if os.geteuid() or shutil.which("ip") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("makes network namespaces: takes root and iproute2")

    found = hour.soak(model_store, minutes=0.5, runs=8, seed=5)

    assert found.faults == []
    assert {"fail_over", "kill_worker", "drain_host"} <= found.steps.keys()
