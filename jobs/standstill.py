"""Whether labelling stands still: chunks are queued or at work, and no row has come for a while.

Anybody may have written what is read here: what can't be used is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from jobs.broker import Keys, redis_now
from jobs.label import LabelChunk
from jobs.messages import QUEUED_AT

MOST_READ = 1000  # of the messages that workers hold
FULL_FROM = 0.75  # of Redis's maxmemory: from there on commands send nothing more


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelQueue:
    """The label queue at one moment.

    Attributes:
        waiting, held: chunks in the queue, and with workers.
        still_s: how long there have been chunks and no row, of whatever run; 0 while there are none.
        refusals: what workers have said since they last sent rows, by their names.
        memory: bytes that Redis uses, and may use; 0 where it has no limit or does not say.
    """

    waiting: int = 0
    held: int = 0
    still_s: float = 0.0
    refusals: Mapping[str, str] = field(default_factory=dict)
    memory: tuple[int, int] = (0, 0)

    @property
    def is_full(self) -> bool:
        """Whether Redis has no room for more chunks."""
        used, limit = self.memory
        return bool(limit) and used > limit * FULL_FROM


def look_at_label_queue(client: redis.Redis, keys: Keys) -> LabelQueue:
    """Return how the label queue stands now; raises what redis-py raises."""
    queues = keys.queues(LabelChunk.queue)
    pipeline = client.pipeline(transaction=False)
    for queue in queues:
        pipeline.llen(queue)
        pipeline.lindex(queue, -1)  # workers take from the end
    pipeline.hscan(keys.unacked, 0, count=MOST_READ)
    pipeline.get(keys.newest)
    pipeline.hgetall(keys.refusals)
    *lists, (_, held), newest, refusals = pipeline.execute()
    waiting, oldest = sum(lists[::2]), lists[1::2]
    of_labels = [found for text in held.values() if (found := _entry(text)) is not None]
    moments = [moment for moment in (*map(_queued_at, oldest), *of_labels) if moment is not None]
    still_s = max(0.0, redis_now(client) - max(min(moments), _moment(newest))) if moments else 0.0
    return LabelQueue(waiting=waiting, held=len(of_labels), still_s=still_s, refusals=refusals, memory=_memory(client))


def _entry(text: str) -> float | None:
    """Return when the chunk of an unacknowledged entry was queued; None of another job."""
    try:
        message, _, queue = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
    return _queued_at(message) if queue == LabelChunk.queue else None


def _queued_at(message: object) -> float | None:
    try:
        found: Any = json.loads(message) if isinstance(message, str) else message
        return _moment(found["headers"][QUEUED_AT]) if found is not None else None
    except (ValueError, TypeError, LookupError, RecursionError):
        return None


def _moment(value: object) -> float:
    try:
        moment = float(str(value))
    except ValueError:
        return 0.0
    return moment if 0 <= moment < 253_402_300_800 else 0.0


def _memory(client: redis.Redis) -> tuple[int, int]:
    try:
        found = client.info("memory")
        return int(found.get("used_memory", 0)), int(found.get("maxmemory", 0))
    except redis.exceptions.NoPermissionError:
        return 0, 0


def reasons(found: LabelQueue, workers: Iterable[str]) -> list[str]:
    """Return why ``found`` stands still, as far as can be seen from here; ``workers`` are those that answer."""
    there = list(workers)
    why = []
    if not there:
        why.append("no label worker answers; start one: sortline worker --queues label")
    why += [f"{worker} keeps away: {found.refusals[worker]}" for worker in there if worker in found.refusals]
    if found.is_full:
        used, limit = found.memory
        why.append(f"Redis is full: {used} of its {limit} bytes (maxmemory) are used; give it more")
    if not why:
        why.append(f"{len(there)} label workers answer, and none says why ({', '.join(there)}): look at their logs")
    return why
