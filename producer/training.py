"""Queue a training job, and follow one."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import redis

from configs.settings import Settings
from jobs.app import TRAIN_MODEL, TRAIN_QUEUE
from jobs.messages import JobEvent, ModelPin, TrainModel, from_json, to_json
from jobs.paths import path_to_text
from model_store.errors import ModelNotFound, StoreUnavailable
from model_store.store import ModelStore
from producer.errors import BrokerUnreachable, UsageError
from producer.gather import AWAY, PATIENCE_S
from producer.session import Session

ENDS = frozenset({"done", "failed", "cancelled"})


def plan_training(
    settings: Settings, dataset: Path, name: str, promote: Literal["gate", "always", "never"]
) -> TrainModel:
    """Return the message of a training job; what can be seen to be wrong is refused here, before anything is queued."""
    folder = Path(os.path.abspath(dataset))  # noqa: PTH100 - links stay links
    if not folder.is_dir():
        raise UsageError(
            f"no such folder: {dataset}. DATASET holds one folder a class, or train/ and val/ with such folders"
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
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
        backbone = ModelPin(
            name=version.manifest.name, version=version.manifest.version, digest=version.manifest.digest
        )
    return TrainModel(
        job=f"train-{name}-{time.strftime('%Y%m%d')}-{secrets.token_hex(3)}",
        dataset=path_to_text(below),
        name=name,
        recipe=settings.training.model_dump(),
        backbone=backbone,
        promote=promote,
    )


def enqueue_training(session: Session, job: TrainModel) -> None:
    """Put the job on the board and on the queue."""
    title = f"train {job.name} on {Path(job.dataset).name}"
    session.board.add(job.job, kind="train", title=title)
    session.app.send_task(TRAIN_MODEL, args=[to_json(job)], queue=TRAIN_QUEUE, argsrepr=title, kwargsrepr=job.job)


def follow(session: Session, job: str, *, from_start: bool = True) -> Iterator[JobEvent | None]:
    """Yield the events of a job until it ends; None now and then while nothing happens.

    Raises:
        BrokerUnreachable: Redis was away for two minutes.
    """
    stream, last = session.keys.results(job), "0" if from_start else "$"
    away_since = 0.0
    while True:
        try:
            found = session.client.xread({stream: last}, count=100, block=1000)
            away_since = 0.0
        except AWAY as error:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > PATIENCE_S:
                raise BrokerUnreachable(f"Redis has been away for {PATIENCE_S:.0f} s: {error}") from error
            time.sleep(1.0)
            found = None
        for _, entries in found or ():
            for last, values in entries:  # noqa: B007 - the last one read is where the next read begins
                event = from_json(JobEvent, values.get("json"))
                yield event
                if event.state in ENDS:
                    return
        if not found:
            yield None


def board_end(session: Session, job: str) -> str | None:
    """Return how a job ended by the board, when its stream is gone; None while it goes on."""
    try:
        state = session.board.get(job)
    except redis.RedisError:
        return None
    return state.state if state is not None and state.ended else None
