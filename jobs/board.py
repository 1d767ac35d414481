"""What is known of each job, kept in Redis for ``sortline jobs``. It may be lost without losing work."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import asdict

import redis
from redis.client import Pipeline

from jobs.broker import AWAY, Keys
from jobs.counter import count_up
from jobs.state import ENDED, JOB_STATE, JobState, Kind, as_it_is

KEPT_S = 30 * 24 * 3600
UNREADABLE = (*AWAY, redis.ResponseError)  # Redis is away, or has something there that no Sortline wrote


class JobBoard:
    """The jobs of one broker, the newest first."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def add(self, job: str, *, kind: Kind, title: str, model: str = "", total: int = 0, again: str = "") -> None:
        """Put a queued job on the board. A Redis that is away or full keeps people from seeing it, and nothing else."""
        now = time.time()
        state = JobState(
            job=job, kind=kind, title=title, model=model, created=now, updated=now, total=total, again=again
        )
        pipeline = self._client.pipeline()
        pipeline.hdel(self._keys.job(job), "cancel", "attempts", "over")  # queued again: an earlier end is past
        pipeline.hset(self._keys.job(job), mapping=asdict(state))
        pipeline.expire(self._keys.job(job), KEPT_S)
        pipeline.zadd(self._keys.jobs, {job: now})
        pipeline.zremrangebyscore(self._keys.jobs, 0, now - KEPT_S)
        with suppress(*AWAY):
            pipeline.execute()

    def update(self, job: str, **values: str | int) -> None:
        """Change fields of a job. A job that Redis forgot stays forgotten; one that is away misses the change."""
        with suppress(*UNREADABLE):
            if self._client.hexists(self._keys.job(job), "job"):
                self._client.hset(self._keys.job(job), mapping={**values, "updated": time.time()})

    def forget(self, job: str, kept_s: int) -> None:
        """Take a job that has ended off the board; what late messages of it are judged by stays for ``kept_s``."""
        pipeline = self._client.pipeline()
        pipeline.zrem(self._keys.jobs, job)
        pipeline.expire(self._keys.job(job), kept_s)
        with suppress(*UNREADABLE):
            pipeline.execute()

    def keep(self, job: str, *, kind: Kind, title: str) -> None:
        """Note that a worker is at ``job``. One that Redis forgot comes back, without losing a cancel since then."""
        now, key = time.time(), self._keys.job(job)
        pipeline = self._client.pipeline()
        if self._client.hexists(key, "job"):
            pipeline.hset(key, "updated", str(now))
        else:
            state = JobState(job=job, kind=kind, title=title, state="running", created=now, updated=now)
            pipeline.hset(key, mapping=asdict(state))
            pipeline.zadd(self._keys.jobs, {job: now})
        pipeline.expire(key, KEPT_S)
        pipeline.execute()

    def get(self, job: str) -> JobState | None:
        """Return a job as it was noted last; None when Redis doesn't know it or has an entry that no Sortline wrote."""
        with suppress(redis.ResponseError, ValueError):  # a late attempt or cancel may have left a hash without its job
            state = JOB_STATE.validate_python(self._client.hgetall(self._keys.job(job)))
            return state if state.job == job else None
        return None

    def look(self, job: str) -> JobState | None:
        """Return how a job stands now, or None as ``get`` does."""
        noted = self.get(job)
        return as_it_is(self._client, self._keys, noted) if noted is not None else None

    def jobs(self) -> list[JobState]:
        """Return how all jobs stand now, the newest first. What can't be read is left out."""
        names: list[str] = self._client.zrevrange(self._keys.jobs, 0, -1)
        return [state for name in names if (state := self.look(name)) is not None]

    def count_attempt(self, job: str) -> int:
        """Count one more start of ``job``; return which one it is. Forgotten together with the job."""
        return self._leave(job, "attempts")

    def discount_attempt(self, job: str) -> None:
        """Take back the last start of ``job``, whose process has not died."""
        with suppress(*UNREADABLE):
            self._client.hincrby(self._keys.job(job), "attempts", -1)

    def ask_to_cancel(self, job: str) -> None:
        """Leave word for whoever works on ``job`` to stop."""
        self._leave(job, "cancel")

    def end_work(self, pipeline: Pipeline, job: str, by: str) -> None:
        """Leave word that ``by`` ended ``job``: no work on it is of use any more, also where Redis has forgotten it."""
        pipeline.hset(self._keys.job(job), "over", by)
        pipeline.expire(self._keys.job(job), KEPT_S)

    def ended_by(self, job: str) -> str:
        """Return who ended ``job``; empty when nobody did, or Redis has forgotten it."""
        with suppress(redis.ResponseError):
            return str(self._client.hget(self._keys.job(job), "over") or "")
        return ""

    def resume_work(self, job: str) -> None:
        """Take back the end of ``job``: somebody works on it again."""
        self._client.hdel(self._keys.job(job), "over")
        self.update(job, state="running")

    def is_wanted(self, job: str) -> bool:
        """Whether work on ``job`` is of use: nobody cancelled it, and it has not ended, as far as Redis can tell."""
        left: list[str | None] = []
        state = None
        with suppress(*UNREADABLE):
            state, *left = self._client.hmget(self._keys.job(job), "state", "cancel", "over")
        return not any(left) and state not in ENDED

    def is_cancelled(self, job: str) -> bool:
        with suppress(redis.ResponseError):
            return bool(self._client.hget(self._keys.job(job), "cancel"))
        return False

    def _leave(self, job: str, name: str) -> int:
        # Redis may have forgotten the job: what is left for it must then go away by itself too.
        return count_up(self._client, self._keys.job(job), name, KEPT_S)
