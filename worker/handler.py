"""What is particular to one kind of job. A new kind is a handler, its message in `jobs`, and a line in each table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from configs import Settings
from jobs import JobBoard, JobMessage, SchemaMismatch
from worker.runtime import Runtime

AnyJob = TypeVar("AnyJob", bound=JobMessage)
AnyResult = TypeVar("AnyResult")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How a message came: the same one may come again, after a wait or after its worker has died."""

    retries: int  # waits so far
    worker: str  # the name of this one
    tag: str | None  # of the message among those that are not acknowledged
    queued_at: object  # seconds since 1970, if the producer says so
    show: Callable[[str], None]  # to people who look at Flower, how far the job is


class Handler(ABC, Generic[AnyJob, AnyResult]):
    """One delivery of one job; `worker.runner.run_job` calls its methods about in the order in which they stand here.

    Attributes:
        message: what the job is sent as, with the names of its queue and task.
        pool: of Celery's worker, by the names of its arguments.
        is_in_child: whether the pool works in a process that may die while its parent lives.
        in_processes: whether one worker may be several processes, each with its part of the host.
    """

    message: ClassVar[type[JobMessage]]
    pool: ClassVar[Mapping[str, Any]]
    is_in_child: ClassVar[bool] = False
    in_processes: ClassVar[bool] = False

    def __init__(self, runtime: Runtime, job: AnyJob, delivery: Delivery) -> None:
        self.runtime, self.job, self.delivery = runtime, job, delivery

    @classmethod
    @abstractmethod
    def check_host(cls, settings: Settings) -> None:
        """Raise an error when no such job can be done on this host."""

    @classmethod
    def tidy(cls, settings: Settings, board: JobBoard) -> None:
        """Remove what jobs that have ended left on this host; called at the start, where Redis is there."""

    @classmethod
    @abstractmethod
    def description(cls, settings: Settings) -> dict[str, object]:
        """Return what a worker that holds no model yet would compute with, for people."""

    @classmethod
    @abstractmethod
    def refuse_mismatch(cls, runtime: Runtime, error: SchemaMismatch, worker: str) -> float | None:
        """Answer a message of another version of the schema; return as ``put_back`` does."""

    @classmethod
    def end_revoked(cls, runtime: Runtime, job: Any, why: str) -> None:
        """Answer a message that Celery drops, since somebody revoked it in Flower."""

    @classmethod
    def attend(cls, runtime: Runtime) -> None:
        """Do what is due every second while the worker lives, with a job or without one, in a thread of its own."""

    def beat(self) -> None:
        """Do what is due every two seconds while the job runs, in a thread of its own."""

    @abstractmethod
    def unwanted(self) -> str | None:
        """Return why there is nothing to do, or None."""

    @abstractmethod
    def attempt(self) -> AbstractContextManager[int]:
        """Count an attempt in Redis and give its number. One that raises does not count; one that dies does."""

    @abstractmethod
    def work(self, attempt: int) -> AnyResult:
        """Do the job."""

    def put_back(self, error: Exception) -> float | None:
        """Return how long this worker pauses after the message went back for any worker, at once; None if it does not.

        A kind of which one job must never be done twice at the same time waits instead.
        """
        return None

    def may_pass(self, error: Exception) -> bool:
        """Return whether another try, later, may go better."""
        return False

    def wait(self, error: Exception, pause_s: float) -> None:
        """Say that the job waits for another try."""

    @abstractmethod
    def refuse(self, error: Exception) -> None:
        """Answer that the job can't be done."""

    def overtaken(self) -> str | None:
        """Return why nobody waits for the result any more, or None."""
        return None

    @abstractmethod
    def publish(self, result: AnyResult) -> None:
        """Answer with the result."""

    @abstractmethod
    def conclude(self, result: AnyResult) -> str:
        """Count what was done, and do what is left to do; return a sentence for Flower."""
