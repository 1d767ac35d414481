"""A detached run in Redis: its plan and inputs, so that any host can gather it."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path

import redis

from base.paths import text_to_path
from jobs import Keys
from producer.errors import UsageError
from producer.local.session import Session
from producer.runfile import Plan, RunFile

INPUTS_A_PIECE = 5000
DETACHED_CHUNK_IMAGES = 128
MAX_PIECE_BYTES = 256 * 1024 * 1024  # of one piece, decompressed: whoever wrote it may not be us


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


def find_detached(session: Session, job: str) -> RunFile:
    """Return the run file of a detached run: that of this machine, or one made of what Redis has."""
    runs = session.settings.home / "runs"
    for path in sorted(runs.glob("*.run")):
        if job.startswith(path.stem):
            run = RunFile(path)
            if run.plan.run == job:
                return run
            run.close()
    if by := session.board.ended_by(job):
        raise UsageError(f"run {job} was gathered by {by}; only there, and where it was sent, is its run file")
    return download(session.client, session.keys, job, runs / f"{job}.run")


def download(client: redis.Redis, keys: Keys, job: str, path: Path) -> RunFile:
    """Make the run file of ``job`` at ``path`` from what ``upload`` left; all its chunks count as sent.

    Raises:
        UsageError: Redis knows no such detached run.
    """
    name = keys.inputs(job)
    head = client.lindex(name, 0)
    if not head:
        raise UsageError(f"no detached run {job} on this broker; `sortline jobs list` shows what there is")
    plan = Plan.from_json(str(head))
    run = RunFile.create(path, plan, _inputs(client, name))
    size = chunk_images(plan)
    for first in range(0, run.total, size):
        run.note_sent(first, min(size, run.total - first))
    return run


def _inputs(client: redis.Redis, name: str) -> Iterator[str]:
    for piece in range(1, int(client.llen(name))):
        packed = zlib.decompressobj()
        text = packed.decompress(b64decode(str(client.lindex(name, piece))), MAX_PIECE_BYTES)
        for path in json.loads(text):
            yield text_to_path(path)
