"""No worker takes more than it works on, whatever broke before."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import hoarding


@pytest.mark.long
def test_no_worker_holds_a_chunk_beside_the_one_at_hand(home: Path) -> None:
    # So seldom that no chunk is met four times: a process of its own would label it then, with a real model.
    found = hoarding.run(home, chunks=40, workers=2, chunk_s=1.0, every_s=4.0)

    assert found.code == 0
    assert found.rows == 40 * hoarding.CHUNK_IMAGES
    assert min(found.kills, found.breaks) > 0
    assert found.beside.keys() == {0}
