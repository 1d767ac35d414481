"""The plots of a training report, drawn by a process of their own while this one exports the network.

The export holds Python's lock on one core for seconds, and importing matplotlib takes half a second: a training process
never does unless the other process fails.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from base.process import how_it_ended

log = logging.getLogger("sortline.training")

LIMIT_S = 120.0  # the first one on a host looks through all fonts, which may take half a minute
PLOTS = (
    "loss.png", "accuracy.png", "learning_rate.png", "confusion_matrix.png", "reliability_before.png",
    "reliability_after.png",
)  # fmt: skip


class Drawing:
    """A process that draws, from the beginning of a block to its end at most."""

    def __init__(self, plotted: Mapping[str, Any], folder: Path) -> None:
        """Start to draw ``plotted``, which is plain JSON, into ``folder``."""
        self._plotted, self._folder = plotted, folder
        request = folder / "plotted.json"
        request.write_text(json.dumps(plotted), encoding="ascii")
        with request.open("rb") as stdin:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "worker.train.plots", str(os.getpid()), str(folder.resolve())],
                stdin=stdin,
                cwd=Path(__file__).parents[2],  # `python -m` looks here first
            )

    def __enter__(self) -> Drawing:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()

    def plots(self) -> dict[str, bytes]:
        """Return the PNG files by name, once they are drawn; if that process fails, they are drawn by this one."""
        try:
            code = self._child.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            why = f"took longer than {LIMIT_S:g} s"
        else:
            if code == 0:
                return {name: (self._folder / name).read_bytes() for name in PLOTS}
            why = f"ended with {how_it_ended(code)}"
        log.warning("the process that draws the report's plots %s; drawing them in this one", why)
        from worker.train.plots import draw

        return draw(self._plotted)
