"""What producer and worker agree on: messages, queues, the keys in Redis, and how they are reached."""

from typing import TYPE_CHECKING

from base.doors import lazy

if TYPE_CHECKING:
    from jobs.app import UNREACHED, App, make_app
    from jobs.board import KEPT_S, JobBoard
    from jobs.broker import AWAY, Keys, check_broker, connect, passwords, primary_of, redis_fault, redis_now
    from jobs.counter import count_up
    from jobs.errors import BrokerAway, BrokerError, BrokerFull, MessageError, SchemaMismatch
    from jobs.fairness import LOW, NEXT, PARKED, Waiting, level_of, listed_messages
    from jobs.label import LABEL_RUN, MAX_SAMPLED_BYTES, ChunkResult, LabelChunk, Photo, Row, SampledInput
    from jobs.messages import (
        FIRST,
        QUEUED_AT,
        RUN_ID,
        JobMessage,
        ModelPin,
        PathText,
        RunId,
        faults_of,
        from_json,
        to_json,
    )
    from jobs.standstill import FULL_FROM, look_at_label_queue, reasons
    from jobs.state import ENDED, LAST_AT, STOPPED, JobState
    from jobs.train import EventState, Finding, JobEvent, TrainModel
else:
    __getattr__ = lazy(__name__)
