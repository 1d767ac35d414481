"""The app as Flower loads it (``celery -A jobs.monitored:app flower``), and how Flower shows our jobs.

Settings come from the environment; no task is registered. What ``FLOWER_*`` says wins.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import flower.command
import redis.asyncio
from celery import states
from celery.events.state import TASK_EVENT_TO_STATE, Task
from flower.options import options
from flower.urls import handlers
from flower.utils import broker
from flower.views.tasks import TasksView
from kombu import Queue
from prometheus_client import REGISTRY, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from tornado.ioloop import IOLoop
from tornado.web import url

from configs import Settings, load_settings
from jobs.app import App, make_app
from jobs.board import JobBoard
from jobs.broker import AWAY, Keys, connect, sentinel_options, tls_options
from jobs.broker import broker_url as broker_of
from jobs.kinds import KINDS
from jobs.label import LABEL_RUN
from jobs.standstill import look_at_label_queue
from jobs.state import JobState

os.umask(0o077)  # its database holds arguments and results, and Flower trusts what it reads from it

# Without the name: the arguments say what it is. The newest are first, since `received` is there.
COLUMNS = "args,state,result,worker,received,runtime,uuid"

# A task that tells how far it is has started. Celery would make PROGRESS a state of its own, which Flower's filters and
# its Terminate button don't know.
TASK_EVENT_TO_STATE["progress"] = states.STARTED

# Flower's page of workers moves by itself, that of tasks would not. What somebody marks or has the focus on stays, a
# tab that nobody looks at asks nothing, and a Flower that is gone is no dialog (DataTables' way) every two seconds.
MOVING = b"""<script>
$(function () {
  var table = $("#tasks-table").DataTable();
  $.fn.dataTable.ext.errMode = "none";
  $("#tasks-table_processing").remove();
  function later() { setTimeout(look, 2000); }
  function look() {
    if (document.hidden || !getSelection().isCollapsed || $("#tasks-table tbody").has(document.activeElement).length) {
      return later();
    }
    table.one("xhr.dt", later);
    table.ajax.reload(null, false);
  }
  later();
});
</script>
"""


# Of a run that goes on, or that no event has ended; the end of others is what Celery knows.
STATES = {
    "queued": states.PENDING,
    "running": states.STARTED,
    "labelled": states.SUCCESS,
    "interrupted": states.REVOKED,
    "cancelled": states.REVOKED,
}
ASK_AGAIN_S = 10.0


class MovingTasks(TasksView):
    """Flower's page of tasks, asking for newer texts every two seconds unless ``FLOWER_AUTO_REFRESH`` is off."""

    def render_string(self, template_name: str, **named: Any) -> bytes:
        page: bytes = super().render_string(template_name, **named)
        if template_name != "tasks.html" or not self.application.options.auto_refresh:
            return page
        return page.replace(b"</body>", MOVING + b"</body>")


handlers[:] = [
    url("/tasks", MovingTasks, name="tasks") if getattr(rule, "handler_class", None) is TasksView else rule
    for rule in handlers
]


def quick_client(settings: Settings) -> redis.Redis:
    """Return a connection that keeps Flower's pages waiting for a second at most."""
    client = connect(settings)
    client.connection_pool.connection_kwargs.update(socket_timeout=1.0, socket_connect_timeout=1.0, retry=None)
    return client


class Board:
    """The states of runs as `sortline jobs list` shows them; asked again after a while where Redis does not answer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asks_from = 0.0  # monotonic seconds

    @cached_property
    def _board(self) -> JobBoard:
        return JobBoard(quick_client(self._settings), Keys(self._settings.key_prefix))

    def state_of(self, run: str) -> JobState | None:
        """Return how a run stands now; None where that is not known."""
        if time.monotonic() < self._asks_from:
            return None
        try:
            return self._board.look(run)
        except AWAY:
            self._asks_from = time.monotonic() + ASK_AGAIN_S
            return None


def shown(task: Task) -> Task:
    """Return ``task`` (a copy) as a person reads it: no quotes around text, and a failure's reason as its result.

    Celery's events say nothing of a command that was killed, or of a run that nobody gathers: of runs the board counts.
    """
    if task.name == LABEL_RUN and (found := board.state_of(task.uuid)) is not None and found.state in STATES:
        task.state = STATES[found.state]
        task.result = f"{found.state}: {found.text}" if found.state in ("labelled", "interrupted") else found.text
        task.exception = None
    for name in ("args", "kwargs", "result"):
        text = getattr(task, name, None)
        if isinstance(text, str) and len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
            setattr(task, name, text[1:-1])
    if task.state in (states.FAILURE, states.RETRY) and task.exception:
        task.result = task.exception
    task.root = task.parent = None  # their ids are shown as links
    return task


class QueueMetrics(Collector):
    """What no worker can say while none is there: how long the queues are, and how long no row has come."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _client(self) -> redis.Redis:
        return quick_client(self._settings)

    def describe(self) -> list[Metric]:
        return []  # so that nobody asks Redis while Flower starts

    def collect(self) -> Iterator[Metric]:
        keys = Keys(self._settings.key_prefix)
        queued = GaugeMetricFamily("sortline_queued_messages", "Waiting in the queue", labels=["queue"])
        try:
            for kind in KINDS:
                queued.add_metric([kind.queue], sum(map(self._client.llen, keys.queues(kind.queue))))
            still_s = look_at_label_queue(self._client, keys).still_s
        except (*AWAY, redis.ResponseError):
            return
        yield queued
        yield GaugeMetricFamily("sortline_still_seconds", "Since when there are chunks and no row", value=still_s)


settings = load_settings()
board = Board(settings)
REGISTRY.register(QueueMetrics(settings))
options.format_task = shown
options.tasks_columns = COLUMNS
options.natural_time = True

app: App = make_app(settings)


class Socket(broker.RedisBase):
    """A Redis on a unix socket: Flower's own class knows neither databases, users nor quoted paths."""

    def __init__(self, broker_url: str, *arguments: Any, **options: Any) -> None:
        super().__init__(broker_url, *arguments, **options)
        url = broker_of(settings)
        self.redis = redis.asyncio.Redis(
            unix_socket_path=url.path,
            db=url.db,
            username=url.username,
            password=url.password,
            socket_timeout=self.socket_timeout,
            retry=Retry(NoBackoff(), 0),
        )


class Sentinels(broker.RedisBase):
    """A Redis behind Sentinels: Flower's own class asks one of them, and uses the database 0."""

    def __init__(self, broker_url: str, *arguments: Any, **options: Any) -> None:
        super().__init__(broker_url, *arguments, **options)
        url, sentinels = broker_of(settings), sentinel_options(settings)
        times = {"socket_timeout": self.socket_timeout, "retry": Retry(NoBackoff(), 0)}
        self.redis = redis.asyncio.Sentinel(
            sentinels["sentinels"],
            sentinel_kwargs=sentinels["sentinel_kwargs"] | times,
            db=url.db,
            username=url.username,
            password=url.password,
            ssl=url.is_tls,
            **times,
            **(tls_options(settings) or {}),
        ).master_for(url.master_name)


broker.RedisSocket = Socket
broker.RedisSentinel = Sentinels


def _stop(_signal: int, _frame: object) -> None:
    """End Flower from its loop: raised in the midst of its start, SystemExit leaves a thread that nobody ends."""
    IOLoop.current().add_callback_from_signal(sys.exit, 0)


flower.command.sigterm_handler = _stop
# What the page of the broker shows while no worker is there to name its queues.
app.conf.task_queues = [Queue(kind.queue) for kind in KINDS]
