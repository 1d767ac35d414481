"""What a worker lets in: the one look at each message before Celery acts upon it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import Celery, Task
from celery.exceptions import InvalidTaskError
from celery.worker import state
from celery.worker.strategy import default
from kombu.exceptions import DecodeError

from worker.kinds import BY_TASK
from worker.lease import Lease
from worker.runtime import Runtime

log = logging.getLogger("sortline.worker")


def guard(app: Celery, runtime: Runtime) -> None:
    """Let a worker of ``app`` refuse what no producer of ours sends; it is logged, and not put back."""
    app.conf.task_annotations = {"*": {"Strategy": partial(strategy, runtime)}}


def strategy(runtime: Runtime, task: Task, app: Celery, consumer: Any, **options: Any) -> Callable[..., None]:
    """Return Celery's handler of the messages of ``task``, behind a check.

    Celery unpacks a body that is not ``[args, kwargs, embed]`` where nothing catches the error: the worker
    ends, and the message goes back, to end the next one.
    """
    handle = default(task, app, consumer, **options)

    def check(message: Any, *rest: Any) -> None:
        try:
            if (fault := fault_of(task.name, message.payload)) is not None:
                raise InvalidTaskError(fault)
            handle(message, *rest)
            if BY_TASK[task.name].is_in_child:
                _hold(message, runtime)
        except (InvalidTaskError, DecodeError):
            raise  # Celery logs it and rejects the message
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
            _forget(message)
            raise InvalidTaskError(f"its headers can't be used: {error!r:.200}") from error

    return check


def _forget(message: Any) -> None:
    """Let Celery count ``message`` no more among those at hand: with one that never ends it would take no other."""
    for request in [known for known in state.reserved_requests if known.message is message]:
        state.task_ready(request)


def _hold(message: Any, runtime: Runtime) -> None:
    """Renew the lease of a job from here, the parent of the process that works, which may train a network.

    That process takes seconds to start, and may hold the interpreter's lock while MindSpore compiles: its own lease
    would run out. Once the connection that brought the message is gone, that lease is the only one left, so that a
    child's death is seen.
    """
    Lease(
        runtime.client,
        runtime.keys,
        message.delivery_tag,
        visibility_timeout_s=runtime.settings.visibility_timeout_s,
        ended=lambda: message.acknowledged or message.channel.closed,
    ).start()


def fault_of(task: str, body: object) -> str | None:
    """Return what makes ``body`` unfit as the message of ``task``, or None."""
    if task not in BY_TASK:
        return f"{task} is no task of Sortline"
    if not isinstance(body, list) or len(body) != 3:
        return "its body is not [args, kwargs, embed]"
    args, kwargs, embed = body
    if not isinstance(args, list) or len(args) != 1 or not isinstance(args[0], str):
        return "its arguments are not one text"
    if kwargs != {} or not isinstance(embed, dict | None):
        return "it has keyword arguments"
    if any((embed or {}).values()):
        return "it asks for other tasks after it"
    return None
