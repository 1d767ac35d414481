"""A job as people see it, and how it stands now: commands are killed and workers go on, so a note may be past."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import redis
from pydantic import Field, TypeAdapter

from jobs.broker import Keys, redis_now
from jobs.messages import RunId
from jobs.train import TrainModel

ENDED = frozenset({"done", "failed", "cancelled"})
STOPPED = ENDED | {"labelled", "interrupted"}  # nothing more happens until somebody gives a command
Kind = Literal["label", "train"]
# "labelled": all rows wait for who gathers. "interrupted": its command is gone, or no worker is at it.
State = Literal["queued", "running", "labelled", "interrupted", "done", "failed", "cancelled"]
Moment = Annotated[
    float, Field(ge=0, lt=253_402_300_800, allow_inf_nan=False)
]  # until the year 10,000, which has no date
Count = Annotated[int, Field(ge=0, lt=2**53)]
FRESH_S = 15.0  # after its last sign, a command that holds no run may be about to
SILENT_S = 60.0  # after which a training that no worker notes is looked for in the queue
LAST_AT = "at"  # field of the hash of what workers have labelled: when the newest chunk came, in seconds since 1970


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """One job. Times are seconds since 1970.

    Attributes:
        done: images of a run that its command had written into the run file.
        total: images of a run.
        again: the command that goes on, and where.
    """

    job: RunId
    kind: Kind
    title: str
    state: State = "queued"
    text: str = ""
    model: str = ""
    created: Moment = 0.0
    updated: Moment = 0.0
    done: Count = 0
    total: Count = 0
    again: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ENDED


JOB_STATE = TypeAdapter(JobState)


def as_it_is(client: redis.Redis, keys: Keys, noted: JobState) -> JobState:
    """Return how the job of ``noted`` stands now."""
    if noted.ended:
        return noted
    return _run(client, keys, noted) if noted.kind == "label" else _training(client, keys, noted)


def images_labelled(chunks: Mapping[str, str], total: int) -> int:
    """Return how many of ``total`` images are in ``chunks``: images by the index of the first. They may overlap."""
    found = sorted(
        (int(first), int(images)) for first, images in chunks.items() if _is_count(first) and _is_count(images)
    )
    covered = end = 0
    for first, images in found:
        stop = min(first + images, total)
        covered += max(0, stop - max(first, end))
        end = max(end, stop)
    return covered


def _is_count(text: str, digits: int = 15) -> bool:
    """Whether ``text`` is a number of at most so many digits; anybody may have written it."""
    return len(text) <= digits and text.isascii() and text.isdecimal()


def _run(client: redis.Redis, keys: Keys, noted: JobState) -> JobState:
    pipeline = client.pipeline(transaction=False)
    pipeline.hget(keys.job(noted.job), "cancel")
    pipeline.exists(keys.holder(noted.job))
    pipeline.exists(keys.inputs(noted.job))
    pipeline.hgetall(keys.labelled(noted.job))
    try:
        cancel, is_held, is_detached, chunks = pipeline.execute()
    except redis.ResponseError:  # a key that no Sortline wrote
        return noted
    if cancel:
        return replace(noted, state="cancelled")
    if is_held:
        return replace(noted, state="running")
    seconds = chunks.pop(LAST_AT, "").partition(".")[0]
    updated = max(noted.updated, float(seconds)) if _is_count(seconds, digits=11) else noted.updated
    done = max(noted.done, images_labelled(chunks, noted.total))
    text = f"{done} of {noted.total} images"
    why = f"; {noted.text}" if noted.text and noted.state == "interrupted" else ""
    if is_detached:
        if done >= noted.total:
            gather = f"{text} are labelled; to get the report: sortline jobs gather {noted.job}"
            return replace(noted, state="labelled", updated=updated, done=done, text=gather)
        state: State = "running" if done else "queued"
        return replace(noted, state=state, updated=updated, done=done, text=text + why)
    if noted.state != "interrupted" and redis_now(client) - noted.updated < FRESH_S:
        return noted
    again = noted.again or ": the same command"
    return replace(noted, state="interrupted", updated=updated, done=done, text=f"{text}{why}; to go on{again}")


def _training(client: redis.Redis, keys: Keys, noted: JobState) -> JobState:
    if redis_now(client) - noted.updated < SILENT_S:
        return noted
    pipeline = client.pipeline(transaction=False)
    for name in keys.queues(TrainModel.queue):
        pipeline.lrange(name, 0, -1)
    pipeline.hvals(keys.unacked)
    try:
        if any(f'"{noted.job}"' in str(message) for messages in pipeline.execute() for message in messages):
            return noted
    except redis.ResponseError:
        return noted
    text = f"{noted.text}; no worker is at it, and it is not queued; to go on: the same `sortline train` again"
    return replace(noted, state="interrupted", text=text.removeprefix("; "))
