"""The kinds of jobs that workers do: a line for each. Their messages are in the table of `jobs.kinds`."""

from __future__ import annotations

from typing import Any

from worker.handler import Handler
from worker.label.handler import LabelHandler
from worker.train.handler import TrainHandler

KINDS: tuple[type[Handler[Any, Any]], ...] = (LabelHandler, TrainHandler)
BY_QUEUE = {kind.message.queue: kind for kind in KINDS}
BY_TASK = {kind.message.task: kind for kind in KINDS}
