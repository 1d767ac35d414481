"""A producer's connection: to the configured broker, to the stack that ``sortline up`` keeps, or to a private one."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from base.broker_url import unix_url
from configs import Settings
from jobs import BrokerError, JobBoard, Keys, check_broker, connect
from producer.errors import BrokerUnreachable, UsageError
from producer.local.leftovers import remove_leftovers
from producer.local.stack import LocalStack, is_answering, shared_stack_socket

if TYPE_CHECKING:
    from jobs import App

OUTAGE_LIMIT_S = 120.0


@dataclass
class Session:
    """An open connection. ``stack`` is the private stack, when this process owns one."""

    settings: Settings
    client: redis.Redis
    stack: LocalStack | None = None

    @property
    def keys(self) -> Keys:
        """Names of our keys."""
        return Keys(self.settings.key_prefix)

    @property
    def board(self) -> JobBoard:
        """State of all jobs."""
        return JobBoard(self.client, self.keys)

    @cached_property
    def app(self) -> App:
        """The Celery app that sends tasks. Its import takes longer than Redis' start: workers start meanwhile."""
        from jobs import make_app

        return make_app(self.settings)

    def watch(self) -> None:
        """Start again what has ended of the private stack; StackError when that would not help."""
        if self.stack is not None:
            self.stack.check()

    def workers(self, kind: str, timeout_s: float = 1.0) -> list[str]:
        """Return the names of the workers that consume queue ``kind`` and answer in time."""
        from jobs import UNREACHED

        try:
            answers = self.app.control.inspect(timeout=timeout_s).active_queues() or {}
        except (*UNREACHED, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return []  # or what came was no answer of a worker
        return sorted(name for name, queues in answers.items() if _has(queues, kind))


def _has(queues: object, kind: str) -> bool:
    """Whether a worker answers that it consumes queue ``kind``; anybody may have written that answer."""
    found = queues if isinstance(queues, list) else []
    return any(isinstance(queue, dict) and queue.get("name") == kind for queue in found)


class Outage:
    """How long Redis has been away."""

    def __init__(self) -> None:
        self._since: float | None = None

    def go_on(self, error: Exception) -> None:
        """Note that it is away; raise BrokerUnreachable once that has lasted for two minutes."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since > OUTAGE_LIMIT_S:
            raise BrokerUnreachable(f"Redis has been away for {OUTAGE_LIMIT_S:.0f} s: {error}") from error

    @property
    def is_on(self) -> bool:
        """Whether it is away now."""
        return self._since is not None

    def end(self) -> None:
        """Note that it is there."""
        self._since = None


def is_alone(settings: Settings) -> bool:
    """Whether ``open_session`` would start a private stack."""
    is_remote = isinstance(settings.data_root, str)  # workers of `sortline up` read this machine's folders
    return settings.broker is None and (is_remote or not is_answering(shared_stack_socket(settings)))


@contextmanager
def open_session(settings: Settings, workers: Sequence[str] = (), *, start: bool = True) -> Iterator[Session]:
    """Give a session; with no broker configured and no ``sortline up`` running, start a private stack with ``workers``.

    Raises:
        BrokerUnreachable: the configured broker can't be reached or used.
        UsageError: there is no broker, and ``start`` is false.
    """
    if "label" not in workers and isinstance(settings.data_root, str):
        settings = settings.model_copy(update={"data_root": None})  # nothing but labelling reads URLs
    if settings.broker is None and not is_alone(settings):
        socket = shared_stack_socket(settings)
        settings = settings.model_copy(update={"broker": unix_url(socket), "data_root": Path("/")})
    remove_leftovers(settings.home)
    if settings.broker is not None:
        with _connected(settings) as client:
            yield Session(settings, client)
    elif not start:
        raise UsageError(
            "no broker: pass --broker, set SORTLINE_BROKER, or keep a local stack running with `sortline up`"
            " (whose workers read no URLs)"
        )
    else:
        with LocalStack(settings, workers) as stack, _connected(stack.settings) as client:
            yield Session(stack.settings, client, stack)


@contextmanager
def _connected(settings: Settings) -> Iterator[redis.Redis]:
    try:
        client = connect(settings)
        check_broker(client, settings)
        _warn_of_eviction(client)
    except BrokerError as error:
        raise BrokerUnreachable(str(error)) from error
    try:
        yield client
    finally:
        client.close()


def _warn_of_eviction(client: redis.Redis) -> None:
    """Say when this Redis drops queued work once it is full; what it drops is sent again, late."""
    try:
        memory = client.info("memory")
    except redis.RedisError:
        return
    if memory.get("maxmemory") and (policy := memory.get("maxmemory_policy", "noeviction")) != "noeviction":
        print(
            f"warning: Redis evicts by {policy} when it is full, which loses queued work; "
            "set maxmemory-policy noeviction",
            file=sys.stderr,
        )
