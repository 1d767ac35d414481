"""A kind of job is a message and a handler: all else is done for it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import pytest
import redis

import jobs.kinds
import worker.kinds
from base.errors import UnavailableError
from configs import Settings
from jobs import JobMessage, SchemaMismatch, to_json
from tests.broker.conftest import KEYS, Desk, enqueue, waiting, with_arguments, working
from tests.conftest import wait_until
from worker.handler import Handler
from worker.runner import TRIES
from worker.runtime import Runtime


class Greeting(JobMessage):
    """A job of a third kind."""

    queue: ClassVar[str] = "greet"
    task: ClassVar[str] = "sortline.greet"
    to: str


class GreetingHandler(Handler[Greeting, str]):
    """Notes in Redis what becomes of a greeting."""

    message = Greeting
    pool = {"pool": "threads", "concurrency": 1}  # noqa: RUF012

    @classmethod
    def check_host(cls, settings: Settings) -> None:
        pass

    @classmethod
    def description(cls, settings: Settings) -> dict[str, object]:
        return {}

    @classmethod
    def refuse_mismatch(cls, runtime: Runtime, error: SchemaMismatch, worker: str) -> None:
        pass

    def unwanted(self) -> str | None:
        return "nobody is there" if self.job.to == "nobody" else None

    def attempt(self) -> AbstractContextManager[int]:
        return nullcontext(1)

    def work(self, attempt: int) -> str:
        self._note("work")
        if self.job.to == "the deaf" or (self.job.to == "the late" and self.delivery.retries == 0):
            raise UnavailableError(f"{self.job.to} can't be reached")
        if self.job.to == "the rude":
            raise ValueError("no")
        return f"hello {self.job.to}"

    def may_pass(self, error: Exception) -> bool:
        return isinstance(error, UnavailableError)

    def wait(self, error: Exception, pause_s: float) -> None:
        self._note("wait")

    def refuse(self, error: Exception) -> None:
        self._note(f"refuse {type(error).__name__}")

    def publish(self, result: str) -> None:
        self._note(f"publish {result}")

    def conclude(self, result: str) -> str:
        self._note("conclude")
        return result

    def _note(self, what: str) -> None:
        self.runtime.client.rpush("noted", what)


@pytest.fixture
def _third_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.tasks.KINDS", (*worker.kinds.KINDS, GreetingHandler))
    monkeypatch.setitem(worker.kinds.BY_TASK, Greeting.task, GreetingHandler)
    monkeypatch.setattr("worker.runner.LONGEST_WAIT_S", 0)


def test_both_tables_have_the_same_kinds() -> None:
    assert [kind.message for kind in worker.kinds.KINDS] == list(jobs.kinds.KINDS)
    assert len(worker.kinds.BY_QUEUE) == len(worker.kinds.BY_TASK) == len(worker.kinds.KINDS)


@pytest.mark.parametrize(
    ("to", "noted"),
    [
        ("Ada", ["work", "publish hello Ada", "conclude"]),
        ("nobody", []),
        ("the late", ["work", "wait", "work", "publish hello the late", "conclude"]),
        ("the rude", ["work", "refuse ValueError"]),
        ("the deaf", ["work", "wait"] * TRIES + ["work", "refuse UnavailableError"]),
    ],
)
@pytest.mark.usefixtures("_third_kind")
def test_the_life_of_a_job_is_the_same_for_every_kind(
    desk: Desk, client: redis.Redis, to: str, noted: list[str]
) -> None:
    with working(desk):
        enqueue(client, with_arguments(to_json(Greeting(to=to)), task=Greeting.task))
        wait_until(lambda: client.llen("noted") >= len(noted), 20, "the end of the job")
        wait_until(lambda: waiting(client) == client.hlen(KEYS.unacked) == 0, 10, "an empty queue")

    assert client.lrange("noted", 0, -1) == noted
