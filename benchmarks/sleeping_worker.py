"""``python -m benchmarks.sleeping_worker``: a worker that stands for one with an accelerator of its own.

It is `python -m worker` but for the classifier: that one opens no image, sleeps, and is sure of its labels. How long it
sleeps for an image is in the environment: ``SLEEP_S_AN_IMAGE``, seconds, 0 by default.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast
from unittest.mock import patch

from jobs.messages import ModelPin
from vision.serving.classifier import Classifier, Outcome, Source
from vision.serving.engines import Engine
from worker.__main__ import main
from worker.runtime import Runtime

SIDE_PX = 224


class SleepingClassifier(Classifier):
    """Sleeps as long as an accelerator would compute; what it answers has the size of real rows."""

    def __init__(self, seconds_an_image: float) -> None:
        """Load nothing."""
        self.engine = cast(
            "Engine", SimpleNamespace(name="sleeping", device="none", precision="f32")
        )  # as rows name it
        self._seconds_an_image = seconds_an_image

    def classify(self, sources: Sequence[Source], top_k: int) -> tuple[list[Outcome], dict[str, float]]:
        """Return the same labels for every source, none of which is read."""
        started = time.perf_counter()
        time.sleep(self._seconds_an_image * len(sources))
        top = [(index, 0.5123456 / 2**index) for index in range(top_k)]
        return [Outcome(top, SIDE_PX, SIDE_PX) for _ in sources], {"chunk_s": time.perf_counter() - started}

    def close(self) -> None:
        """Nothing is open."""


class SleepingRuntime(Runtime):
    """A worker's runtime that has one classifier for all versions."""

    def classifier(self, pin: ModelPin) -> Classifier:
        """Return the sleeping one."""
        return SleepingClassifier(float(os.environ.get("SLEEP_S_AN_IMAGE", "0")))


if __name__ == "__main__":
    # The only seam: pool, lease, events, publishing and stopping stay those of the worker that people run.
    with patch("worker.tasks.Runtime", SleepingRuntime):
        sys.exit(main(["--queues", "label", *sys.argv[1:]]))
