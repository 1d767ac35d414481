"""The life of a job in a worker, for every kind of job: what is done in which order, and what becomes of an error.

A job may be delivered twice and a worker may die at every line, so the order of the effects matters: results are
published before the message is acknowledged, and attempts are counted before the work begins.
"""

from __future__ import annotations

from typing import Any

from base.fault import fault
from jobs import AWAY, JobMessage, SchemaMismatch, from_json
from worker.errors import WorkerError
from worker.handler import Delivery, Handler
from worker.lease import Lease
from worker.logs import at_hand
from worker.runtime import Runtime

TRIES = 12  # of a job that waits for its surroundings and is not put back: 50 s in the default configuration
LONGEST_WAIT_S = 15
RETURNS = 1000  # of a message that goes back: without an end, what an ended command left would go round for ever


class TryLater(WorkerError):
    """The message is to be delivered again, in ``pause_s`` seconds; the cause says why."""

    def __init__(self, pause_s: float) -> None:
        super().__init__(f"again in {pause_s:g} s")
        self.pause_s = pause_s


class PutBack(TryLater):
    """The message is to be queued again at once, for any worker; this one then pauses for ``pause_s`` seconds."""


def run_job(kind: type[Handler[Any, Any]], runtime: Runtime, delivery: Delivery, payload: object) -> str:
    """Do the job in ``payload``; return a sentence for Flower.

    Celery acknowledges the message when this returns or raises, and not when the process dies.

    Raises:
        TryLater: the surroundings are away, or those of this worker; the message is to be delivered again.
        Exception: of all else the job's own stream says what is wrong, and Celery shows it as failed.
    """
    job = _decoded(kind, runtime, delivery, payload)
    with at_hand(job.ids):
        return _run(kind, runtime, delivery, job)


def _run(kind: type[Handler[Any, Any]], runtime: Runtime, delivery: Delivery, job: JobMessage) -> str:
    fault("fetched")
    runtime.metrics.note_wait(delivery.queued_at)
    handler = kind(runtime, job, delivery)
    visibility_timeout_s = runtime.settings.visibility_timeout_s
    with Lease(
        runtime.client, runtime.keys, delivery.tag, visibility_timeout_s=visibility_timeout_s, beat=handler.beat
    ):
        if (why := handler.unwanted()) is not None:
            return why
        try:
            with handler.attempt() as attempt:
                fault("counted")
                result = handler.work(attempt)
        except Exception as error:
            if delivery.retries < RETURNS and (pause_s := handler.put_back(error)) is not None:
                raise PutBack(pause_s) from error
            # Redis being away is no reason to wait: it can't take another try either.
            if isinstance(error, AWAY) or not handler.may_pass(error) or delivery.retries >= TRIES:
                handler.refuse(error)
                raise
            pause_s = wait_s(delivery.retries, visibility_timeout_s)
            handler.wait(error, pause_s)
            raise TryLater(pause_s) from error
        fault("before publish")
        if (why := handler.overtaken()) is not None:
            return why
        handler.publish(result)
    fault("before ack")
    return handler.conclude(result)


def _decoded(kind: type[Handler[Any, Any]], runtime: Runtime, delivery: Delivery, payload: object) -> JobMessage:
    try:
        return from_json(kind.message, payload)
    except SchemaMismatch as error:
        known = runtime.board.get(error.job)
        is_awaited = known is not None and not known.ended  # else a stranger's, and nobody reads an answer
        if (
            is_awaited
            and delivery.retries < RETURNS
            and (pause_s := kind.refuse_mismatch(runtime, error, delivery.worker)) is not None
        ):
            raise PutBack(pause_s) from error
        raise


def wait_s(retries: int, visibility_timeout_s: float) -> float:
    """Return how long the next try waits: longer each time, up to half of the visibility timeout."""
    # A waiting message is held without a lease: it must be taken up again before it is given to another worker.
    return min(2.0**retries, LONGEST_WAIT_S, visibility_timeout_s / 2)
