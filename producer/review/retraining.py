"""A training that the page starts: `sortline train` as a process of its own, and the last lines that it says."""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any, Final

from base.text import printable
from configs import Settings
from producer.errors import UsageError

LINES: Final = 6


class Retraining:
    """Trains the reviewed model once more with the corrections, one training at a time."""

    def __init__(self, settings: Settings, version: str, corrections: Path) -> None:
        model = version.partition(":")[0]
        self._words = ["train", "--from", model, "--corrections", str(corrections)] if model else []
        self._home = settings.home
        self._where = ["--home", str(settings.home), "--store", str(settings.store_root)]
        self._process: subprocess.Popen[str] | None = None
        self._lines: deque[str] = deque(maxlen=LINES)

    @property
    def command(self) -> str:
        """What a person would type; "" where the model isn't known."""
        return shlex.join(["sortline", *self._words]) if self._words else ""

    def start(self) -> dict[str, Any]:
        """Start it; UsageError when it can't be or is at work already."""
        if not self._words:
            raise UsageError("this table does not say which model it is of: train by hand")
        if self._process is not None and self._process.poll() is None:
            raise UsageError("a training is at work already")
        self._lines.clear()
        # In the home, since ``python -m`` would import from whatever folder the user stands in.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "producer", *self._words, *self._where],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=self._home,
        )
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        return self.state()

    def state(self) -> dict[str, Any]:
        """Return whether it is at work, how it ended, and its last lines."""
        code = self._process.poll() if self._process is not None else None
        return {"running": self._process is not None and code is None, "code": code, "lines": list(self._lines)}

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        with process.stdout as lines:
            for line in lines:
                self._lines.append(printable(line.rstrip()))
