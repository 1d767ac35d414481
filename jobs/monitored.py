"""The app as Flower loads it (``celery -A jobs.monitored:app flower``), and how Flower shows our jobs.

Settings come from the environment; no task is registered. What ``FLOWER_*`` says wins.
"""

from __future__ import annotations

import os
import sys
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
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from tornado.ioloop import IOLoop
from tornado.web import url

from configs import load_settings
from jobs.app import App, make_app
from jobs.broker import broker_url as broker_of
from jobs.kinds import KINDS

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


def shown(task: Task) -> Task:
    """Return ``task`` (a copy) as a person reads it: no quotes around text, and a failure's reason as its result."""
    for name in ("args", "kwargs", "result"):
        text = getattr(task, name, None)
        if isinstance(text, str) and len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
            setattr(task, name, text[1:-1])
    if task.state in (states.FAILURE, states.RETRY) and task.exception:
        task.result = task.exception
    task.root = task.parent = None  # their ids are shown as links
    return task


options.format_task = shown
options.tasks_columns = COLUMNS
options.natural_time = True

settings = load_settings()
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


broker.RedisSocket = Socket


def _stop(_signal: int, _frame: object) -> None:
    """End Flower from its loop: raised in the midst of its start, SystemExit leaves a thread that nobody ends."""
    IOLoop.current().add_callback_from_signal(sys.exit, 0)


flower.command.sigterm_handler = _stop
# What the page of the broker shows while no worker is there to name its queues.
app.conf.task_queues = [Queue(kind.queue) for kind in KINDS]
