"""A detached run in Redis: its plan and inputs, so that any host can gather it."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import redis
from pydantic import Field, TypeAdapter, ValidationError

from base.paths import text_to_path
from base.text import printable
from base.urls import is_url
from jobs import RUN_ID, Keys, MessageError, PathText, SampledInput, faults_of
from producer.errors import UsageError
from producer.local.session import Session
from producer.run.enqueue import ChunkSender
from producer.runfile import Plan, RunFile

INPUTS_A_PIECE = 1000
DETACHED_CHUNK_IMAGES = 128
MAX_PIECE_BYTES = 16 * 1024 * 1024  # of one piece, decompressed: whoever wrote it may not be us

_PIECE = TypeAdapter(Annotated[list[PathText], Field(min_length=1, max_length=INPUTS_A_PIECE)])


def upload(client: redis.Redis, keys: Keys, run: RunFile) -> None:
    """Put the plan and the compressed input list of ``run`` into Redis; an earlier copy is replaced."""
    name = keys.inputs(run.plan.run)
    pipeline = client.pipeline()
    pipeline.delete(name)
    pipeline.rpush(name, run.plan.to_json())
    for first in range(0, run.total, INPUTS_A_PIECE):
        text = json.dumps(run.paths(first, INPUTS_A_PIECE))
        pipeline.rpush(name, b64encode(zlib.compress(text.encode())).decode())
    pipeline.execute()


def chunk_images(plan: Plan) -> int:
    """Return the images of each chunk of a detached run, which is enqueued before any worker's rate is known."""
    return plan.chunk_images or DETACHED_CHUNK_IMAGES


def send_all(run: RunFile, sender: ChunkSender, sample: Callable[[], tuple[SampledInput, ...]], window: int) -> None:
    """Queue ``window`` chunks of what has no row and was not sent; leave the others for workers to queue."""
    for number, (first, paths) in enumerate(run.missing_chunks(partial(chunk_images, run.plan), run.sent())):
        sender.send(first, paths, sample(), waits=number >= window)
        run.note_sent(first, len(paths))


def find_detached(session: Session, job: str, data_root: Path | str | None = None) -> RunFile:
    """Return the run file of a detached run: that of this machine, or one made of what Redis has.

    Args:
        data_root: of this machine, as configured: a URL that Redis names must be this one.

    Raises:
        UsageError: Redis knows no such detached run, or its images are behind another URL.
        MessageError: what Redis has is not what ``upload`` wrote.
    """
    if not re.fullmatch(RUN_ID, job):
        raise UsageError(f"{job!r:.200} is no name of a run; `sortline jobs list` shows what there is")
    runs = session.settings.home / "runs"
    for path in sorted(runs.glob("*.run")):
        if job.startswith(path.stem):
            run = RunFile(path)
            if run.plan.run == job:
                return run
            run.close()
    try:
        if not session.board.ended_by(job):
            return download(session.client, session.keys, job, runs / f"{job}.run", data_root)
    except (UsageError, MessageError):
        if not session.board.ended_by(job):  # it may end while we read
            raise
    by = printable(session.board.ended_by(job))
    raise UsageError(f"run {job} was gathered by {by:.200}; only there, and where it was sent, is its run file")


def download(client: redis.Redis, keys: Keys, job: str, path: Path, data_root: Path | str | None = None) -> RunFile:
    """Make the run file of ``job`` at ``path`` from what ``upload`` left; all its chunks count as sent.

    Raises:
        UsageError, MessageError: see ``find_detached``.
    """
    name = keys.inputs(job)
    try:
        plan = _plan(client, name, job)
        if is_url(plan.data_root) and plan.data_root != data_root:
            where = printable(plan.data_root)
            raise UsageError(f"the images of {job} are at {where}: set SORTLINE_DATA_ROOT to it, if you trust it")
        run = RunFile.create(path, plan, _inputs(client, name, plan))
    except (ValueError, TypeError, zlib.error, redis.ResponseError) as error:
        path.with_suffix(".new").unlink(missing_ok=True)
        why = str(error) or type(error).__name__
        raise MessageError(f"what Redis has of {job} is no detached run of Sortline: {why:.500}") from error
    size = chunk_images(plan)
    for first in range(0, run.total, size):
        run.note_sent(first, min(size, run.total - first))
    return run


def _plan(client: redis.Redis, name: str, job: str) -> Plan:
    head = client.lindex(name, 0)
    if not head:
        raise UsageError(f"no detached run {job} on this broker; `sortline jobs list` shows what there is")
    plan = Plan.from_json(str(head))
    if plan.run != job:
        raise ValueError(f"its plan is of the run {plan.run}")
    if client.llen(name) != 1 + -(-plan.total // INPUTS_A_PIECE):
        raise ValueError(f"its inputs are not the {plan.total} of its plan")
    return plan


def _inputs(client: redis.Redis, name: str, plan: Plan) -> Iterator[str]:
    for first in range(0, plan.total, INPUTS_A_PIECE):
        packed = zlib.decompressobj()
        text = packed.decompress(b64decode(str(client.lindex(name, 1 + first // INPUTS_A_PIECE))), MAX_PIECE_BYTES)
        try:
            paths = _PIECE.validate_json(text)
        except ValidationError as error:
            raise ValueError(faults_of(error)) from error
        if len(paths) != min(INPUTS_A_PIECE, plan.total - first):
            raise ValueError(f"its inputs are not the {plan.total} of its plan")
        for path in map(text_to_path, paths):
            if "\0" in path or (plan.walked and (path.startswith("/") or ".." in path.split("/"))):
                raise ValueError(f"{path!r:.200} is no file below its folder")
            yield path
