"""The kinds of jobs: a line for each. What a worker does with one is in the table of `worker.kinds`."""

from __future__ import annotations

from jobs.label import LabelChunk
from jobs.messages import JobMessage
from jobs.train import TrainModel

KINDS: tuple[type[JobMessage], ...] = (LabelChunk, TrainModel)
