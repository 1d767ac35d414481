"""The Celery app that producer and workers share: delivery rules.

Why each rule stands here is in docs/explanation/decisions/0004-delivery.md.
"""

from __future__ import annotations

from typing import TypeAlias, TypeVar

from celery import Celery
from kombu.exceptions import OperationalError

from configs import Settings
from jobs.broker import AWAY, LEVELS, SEPARATOR, celery_options, connection_options, sentinel_options
from jobs.label import LabelChunk
from jobs.transport import COMPRESSION

UNREACHED = (*AWAY, OperationalError)  # what Celery raises when Redis is away or full
App: TypeAlias = Celery  # for annotations elsewhere: Celery itself stays behind this door
AnyApp = TypeVar("AnyApp", bound=Celery)


def make_app(settings: Settings, kind: type[AnyApp] = Celery) -> AnyApp:
    """Return an app bound to the settings' broker. Nothing is connected yet."""
    app = kind("sortline", set_as_current=False)
    app.conf.update(
        **celery_options(settings),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a worker waits for Redis as long as it takes
        broker_transport_options={
            "global_keyprefix": settings.key_prefix,
            # One value for label and training workers: the shortest of all connected workers rules.
            "visibility_timeout": settings.visibility_timeout_s,
            # Seconds between two looks for what is overdue.
            "unacked_restore_interval": max(1, min(5, settings.visibility_timeout_s // 4)),
            "health_check_interval": 10,
            "priority_steps": list(LEVELS),  # for Flower too, which counts the queues
            "sep": SEPARATOR,
            **connection_options(settings),
            **sentinel_options(settings),
        },
        task_serializer="json",
        accept_content=["json"],
        task_compression=COMPRESSION,
        task_ignore_result=True,  # rows travel on a stream of the run, not through a result backend
        task_acks_late=True,
        task_reject_on_worker_lost=True,  # else a killed child's job is acknowledged, and lost
        task_acks_on_failure_or_timeout=True,
        worker_prefetch_multiplier=1,  # one chunk at risk
        worker_disable_prefetch=True,  # by the requests at hand: kombu's own count may drift
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=True,
        task_send_sent_event=True,  # what is queued shows in Flower too
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        task_default_queue=LabelChunk.queue,
        task_create_missing_queues=True,
    )
    return app
