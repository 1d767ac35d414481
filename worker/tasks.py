"""The Celery tasks: decode a message, call a plain function, send what it returns, decide about trying again."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from celery import Celery, Task
from celery.signals import setup_logging

from base.errors import UnavailableError
from base.fault import fault
from configs import Settings, read_recipe
from jobs.app import LABEL_CHUNK, QUEUED_AT, TRAIN_MODEL, make_app
from jobs.broker import AWAY
from jobs.errors import OtherForm
from jobs.messages import ChunkResult, JobEvent, LabelChunk, ModelPin, TrainModel, from_json
from model_store import StoreUnavailable
from worker.errors import JobCancelled, JobRefused
from worker.intake import guard
from worker.label.chunk import label_chunk
from worker.label.isolated import label_isolated
from worker.label.watchdog import watchdog
from worker.lease import Lease
from worker.monitoring import show
from worker.runtime import ATTEMPTS, Runtime

log = logging.getLogger("sortline.worker")

TRIES = 12  # of a job whose surroundings are away: 50 s in the default configuration
LONGEST_WAIT_S = 15


class WorkerApp(Celery):
    """The app with its tasks. A spawned child gets the settings and builds its own, since closures don't travel."""

    settings: Settings

    def __reduce__(self) -> Any:
        return worker_app, (self.settings, os.getpid())


def worker_app(settings: Settings, parent_pid: int | None = None) -> WorkerApp:
    """Return the worker's app with both tasks registered; a pool child says whose it is. Loads no model."""
    app = make_app(settings, WorkerApp)
    app.settings = settings
    setup_logging.connect(_keep_our_logging, weak=False)
    runtime = Runtime(settings)
    register(app, runtime)
    show(app, runtime)
    if parent_pid is not None:
        from worker.child import prepare_child

        prepare_child(settings, parent_pid)
    return app


def _keep_our_logging(**_: object) -> None:
    """A receiver of this signal, whatever it does, keeps Celery from setting up logging of its own."""


def register(app: Celery, runtime: Runtime) -> None:
    """Register the tasks of both queues; which one a worker does is decided by the queues it consumes."""
    guard(app, runtime)

    # shared=False: a second app in this process (every test) must not inherit these closures.
    @app.task(name=LABEL_CHUNK, bind=True, shared=False, max_retries=TRIES)
    def label_chunk_task(task: Task, payload: object) -> str:
        try:
            chunk = from_json(LabelChunk, payload)
        except OtherForm as error:
            if runtime.board.get(error.job) is not None:  # else a stranger's, and nobody reads an answer
                why, worker = str(error), task.request.hostname or ""
                runtime.publish(error.job, ChunkResult(run=error.job, first=error.first, refused=why, worker=worker))
            raise
        fault("fetched")
        runtime.metrics.note_wait((task.request.headers or {}).get(QUEUED_AT))
        with _lease(task, runtime):
            try:
                if not runtime.board.is_wanted(chunk.run):
                    runtime.forget_attempts(chunk.run)
                    return "cancelled, or done"
                with runtime.attempt(chunk) as attempt:
                    result = _label(chunk, runtime, attempt, task.request.hostname or "")
            except AWAY:
                raise  # Redis can't take another try either; the producer sends again what has no rows
            except JobRefused as error:
                runtime.publish(chunk.run, _refusal(task, chunk, str(error)))
                raise
            except Exception as error:  # the surroundings are away, or an engine failed: another try, elsewhere perhaps
                if task.request.retries >= TRIES:
                    runtime.publish(chunk.run, _refusal(task, chunk, f"{type(error).__name__}: {error}"))
                    raise
                pause_s = wait_s(task.request.retries, runtime.settings.visibility_timeout_s)
                log.warning("chunk run=%s first=%d waits %g s: %s", chunk.run, chunk.first, pause_s, error)
                raise task.retry(exc=error, countdown=pause_s) from error
            fault("before publish")
            if not runtime.board.is_wanted(chunk.run):
                return "cancelled, or done by another"  # its rows would lie in Redis for nobody
            runtime.publish(chunk.run, result)
            runtime.metrics.note_chunk(chunk, result)
        fault("before ack")
        runtime.end_if_large()
        failed = sum(row.error is not None for row in result.rows)
        rate = len(result.rows) / max(result.seconds.get("chunk_s", 0.0), 1e-9)
        return f"{len(result.rows)} images, {failed} failed, {rate:.0f} img/s, {chunk.model}"

    @app.task(name=TRAIN_MODEL, bind=True, shared=False, max_retries=TRIES)
    def train_model_task(task: Task, payload: object) -> str:
        try:
            job = from_json(TrainModel, payload)
        except OtherForm as error:
            if runtime.board.get(error.job) is not None:
                runtime.publish(error.job, JobEvent(job=error.job, state="failed", text=str(error)))
                runtime.board.update(error.job, state="failed", text=str(error))
            raise

        def report(event: JobEvent) -> None:
            runtime.publish(job.job, event)
            runtime.board.update(job.job, state="running", text=event.text)
            fault("event")
            task.send_event("task-progress", result=event.text)

        def end(
            state: Literal["done", "failed", "cancelled"],
            text: str,
            model: ModelPin | None = None,
            scores: dict[str, float] | None = None,
        ) -> str:
            runtime.publish(job.job, JobEvent(job=job.job, state=state, text=text, model=model, scores=scores))
            runtime.board.update(job.job, state=state, text=text, model=str(model or ""))
            return text

        known = runtime.board.get(job.job)
        if known is not None and known.ended:
            return f"already {known.state}"  # delivered twice: its first worker was only slow to say so
        try:
            if runtime.board.count_attempt(job.job) > ATTEMPTS:
                raise JobRefused(f"{ATTEMPTS} training processes died on this job; see the training worker's log")
            from worker.train.job import train_model  # MindSpore: never in a label worker

            recipe = read_recipe(job.recipe)
            with _lease(task, runtime, job) as cancelled:
                trained = train_model(job, recipe, runtime, report=report, cancelled=cancelled.is_set)
        except JobCancelled:
            return end("cancelled", "cancelled before a version was published")
        except (UnavailableError, StoreUnavailable) as error:
            if task.request.retries >= TRIES:
                end("failed", str(error))
                raise
            report(JobEvent(job=job.job, state="progress", text=f"waiting: {error}"))
            raise task.retry(
                exc=error, countdown=wait_s(task.request.retries, runtime.settings.visibility_timeout_s)
            ) from error
        except Exception as error:
            end("failed", str(error) or type(error).__name__)
            raise
        return end("done", trained.text, trained.pin, trained.scores)


@contextmanager
def _lease(task: Task, runtime: Runtime, job: TrainModel | None = None) -> Iterator[threading.Event]:
    """Renew the lease of the task's message inside the block; the event is set when somebody cancels ``job``."""
    cancelled = threading.Event()

    def beat() -> None:
        if job is None:
            return
        if runtime.board.is_cancelled(job.job):
            cancelled.set()
        runtime.board.keep(job.job, kind="train", title=f"train {job.name} on {Path(job.dataset).name}")

    tag = (task.request.properties or {}).get("delivery_tag")
    timeout_s = runtime.settings.visibility_timeout_s
    with Lease(runtime.client, runtime.keys, tag, visibility_timeout_s=timeout_s, beat=beat):
        yield cancelled


def _label(chunk: LabelChunk, runtime: Runtime, attempt: int, worker: str) -> ChunkResult:
    """Return the rows of ``chunk``; an image that has ended its workers can't end this one."""
    if attempt > ATTEMPTS:
        log.error(
            "%d workers died on chunk run=%s first=%d: now image by image, in a process of its own",
            attempt - 1, chunk.run, chunk.first,
        )  # fmt: skip
        runtime.unload()  # the other process needs the device's memory
        return label_isolated(chunk, runtime.settings, worker)
    with watchdog(runtime.settings.stuck_s, f"chunk {chunk.first} of run {chunk.run}"):
        return label_chunk(chunk, runtime.classifier(chunk.model), runtime.data_root, runtime.limits, worker)


def wait_s(retries: int, visibility_timeout_s: float) -> float:
    """Return how long the next try waits: longer each time, up to half of the visibility timeout."""
    # A waiting message is held without a lease: it must be taken up again before it is given to another worker.
    return min(2.0**retries, LONGEST_WAIT_S, visibility_timeout_s / 2)


def _refusal(task: Task, chunk: LabelChunk, why: str) -> ChunkResult:
    return ChunkResult(run=chunk.run, first=chunk.first, refused=why, worker=task.request.hostname or "")
