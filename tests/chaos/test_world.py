"""A model of the system takes random steps for some minutes; every history must keep the promise.

`TEST_WORLD_MINUTES` sets how long, `TEST_WORLD_SEED` the seed. Shrunk failures are tests of their own.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.world import NAMES, explore

pytestmark = [pytest.mark.long, pytest.mark.timeout(0)]  # its own limits name what stands

MINUTES = float(os.environ.get("TEST_WORLD_MINUTES", "5"))
SEED = int(os.environ.get("TEST_WORLD_SEED", "20"))


def test_every_input_has_its_row_whatever_commands_workers_disks_and_redis_do(model_store: Path) -> None:
    done = explore(model_store, seed=SEED, minutes=MINUTES, say=print)

    print(done)
    assert done["histories"] > 0
    assert set(done) <= {*NAMES, "histories"}
