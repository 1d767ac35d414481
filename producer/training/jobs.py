"""Queue a training job, and follow one."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from base.names import MODEL_NAME
from base.paths import path_to_text
from configs import Settings
from jobs.board import JobState
from jobs.broker import AWAY
from jobs.messages import from_json, to_json
from jobs.train import JobEvent, TrainModel
from model_store import ModelNotFound, ModelStore, StoreUnavailable
from producer.errors import PATIENCE_S, BrokerUnreachable, ProducerError, UsageError
from producer.local.session import Session
from producer.models import pin_of

ENDS = frozenset({"done", "failed", "cancelled"})
BOARD_EVERY_S = 5.0


class JobForgotten(ProducerError):
    """Redis has lost a job that this command can't queue again."""


def new_job(name: str) -> str:
    """Return an unused name for a job that trains model ``name``."""
    return f"train-{name}-{time.strftime('%Y%m%d')}-{secrets.token_hex(3)}"


def plan_training(
    settings: Settings,
    dataset: Path,
    name: str,
    promote: Literal["gate", "always", "never"],
    *,
    job: str = "",
    purpose: Literal["publish", "score", "folds"] = "publish",
    folds: int = 0,
    fail_on_leak: bool = False,
) -> TrainModel:
    """Return the message of a training job; what can be seen to be wrong is refused here, before anything is queued."""
    folder = Path(os.path.abspath(dataset))  # noqa: PTH100 - links stay links
    if not folder.is_dir():
        raise UsageError(
            f"no such folder: {dataset}. DATASET holds one folder a class, or train/ and val/ with such folders"
        )
    if not re.fullmatch(MODEL_NAME, name):
        raise UsageError(f"--name {name!r}: a model's name is lower-case letters, digits, '.', '_' and '-'")
    if settings.data_root is None:
        raise UsageError(
            "with a broker of your own, pass --data-root: the folder that this machine and the workers share"
        )
    below = os.path.relpath(folder, settings.data_root)
    if below.startswith(".."):
        raise UsageError(f"{dataset} is not below the data root {settings.data_root}, so no worker could read it")
    backbone = None
    if settings.training.backbone is not None:
        reference = settings.training.backbone
        try:
            version = ModelStore(settings.store_root).resolve(reference)
        except (ModelNotFound, StoreUnavailable) as error:
            raise UsageError(
                f"the recipe trains on the backbone {reference}: {error}. "
                f"Import it: sortline models import FILE --name {reference.split(':')[0].split('@')[0]}"
            ) from error
        backbone = pin_of(version)
    return TrainModel(
        job=job or new_job(name),
        dataset=path_to_text(below),
        name=name,
        recipe=settings.training.model_dump(),
        backbone=backbone,
        promote=promote,
        purpose=purpose,
        folds=folds,
        fail_on_leak=fail_on_leak,
    )


def enqueue_training(session: Session, job: TrainModel, note: str = "") -> None:
    """Put the job on the board and on the queue; ``note`` ends its title there."""
    what = {"publish": "train", "score": "score", "folds": f"{job.folds} folds of"}[job.purpose]
    title = f"{what} {job.name} on {Path(job.dataset).name}{note and ': '}{note}"
    session.board.add(job.job, kind="train", title=title)
    session.app.send_task(job.task, args=[to_json(job)], queue=job.queue, argsrepr=title, kwargsrepr=job.job)


def follow(
    session: Session, jobs: Sequence[str], messages: Sequence[TrainModel] = ()
) -> Iterator[JobEvent | JobState | None]:
    """Yield the events of ``jobs``, from their first on, until all have ended; None after a second without any.

    A JobState stands for the end of a job whose stream Redis has dropped: what the board still knows of it. A job that
    Redis has lost, flushed or started anew without its data, is queued again if its message is among ``messages``.

    Raises:
        BrokerUnreachable: Redis was away for two minutes.
        JobForgotten: Redis has lost a job whose message is not known here.
    """
    signs = _Signs(session)
    message_of = {message.job: message for message in messages}
    read = {session.keys.results(job): "0" for job in jobs}
    names = {session.keys.results(job): job for job in jobs}
    away_since, looked = 0.0, float("-inf")
    while read:
        lost: dict[str, JobState] = {}
        try:
            if time.monotonic() - looked >= BOARD_EVERY_S:
                # Before the streams: a worker writes a job's end there first, so a stream without it is lost.
                states = {at: session.board.get(names[at]) for at in read}
                lost = {at: state for at, state in states.items() if state and state.ended}
                looked = time.monotonic()
                for at, state in states.items():
                    if not (state and state.ended) and signs.are_none(names[at], state):
                        yield _queued_again(session, names[at], message_of)
            found = session.client.xread(read, count=100, block=1000)
            away_since = 0.0
        except AWAY as error:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > PATIENCE_S:
                raise BrokerUnreachable(f"Redis has been away for {PATIENCE_S:.0f} s: {error}") from error
            time.sleep(1.0)
            signs.forget()
            lost, found = {}, None
        for stream, entries in found or ():
            lost.pop(stream, None)
            for entry, values in entries:
                read[stream] = entry
                event = from_json(JobEvent, values.get("json"))
                yield event
                if event.state in ENDS:
                    del read[stream]
                    break
        for stream, state in lost.items():
            del read[stream]
            yield state
        if not found and not lost:
            yield None


class _Signs:
    """Signs of jobs: on the board, where a worker notes every two seconds that it is at one, and on the queue."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seen: dict[str, tuple[float, float]] = {}  # of each job: its latest sign, and when it came by our clock

    def forget(self) -> None:
        """Wait for signs anew: there could be none while Redis was away."""
        self._seen.clear()

    def are_none(self, job: str, state: JobState | None) -> bool:
        """Return whether there was no sign for ``stale_s``, and the job is neither queued nor with a worker."""
        sign, now = state.updated if state else 0.0, time.monotonic()
        latest, since = self._seen.get(job, (None, now))
        if sign != latest or (now - since > self._session.settings.stale_s and self._is_queued_or_lent(job)):
            self._seen[job] = sign, now
            return False
        if now - since <= self._session.settings.stale_s:
            return False
        del self._seen[job]
        return True

    def _is_queued_or_lent(self, job: str) -> bool:
        pipeline = self._session.client.pipeline()
        pipeline.lrange(self._session.keys.queue(TrainModel.queue), 0, -1)
        pipeline.hvals(self._session.keys.unacked)
        return any(f'"{job}"' in message for messages in pipeline.execute() for message in messages)


def _queued_again(session: Session, job: str, message_of: Mapping[str, TrainModel]) -> JobEvent:
    if job not in message_of:
        raise JobForgotten(
            f"Redis has lost job {job}: it was flushed, or started anew without its data, and no worker is at it; "
            "run the same `sortline train` again, and keep Redis from forgetting with appendonly yes"
        )
    enqueue_training(session, message_of[job])
    return JobEvent(job=job, state="progress", text="Redis had lost this job; it is queued again")
