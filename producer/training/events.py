"""The events of training jobs, as their workers send them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from base.text import printable
from jobs import ENDED, JobEvent, JobState, MessageError, SchemaMismatch, TrainModel, from_json
from producer.errors import ProducerError
from producer.local.session import Session
from producer.training.jobs import enqueue_training

BOARD_EVERY_S = 5.0


class JobLost(ProducerError):
    """Redis has lost a job that this command can't queue again."""


def follow(
    session: Session, jobs: Sequence[str], messages: Sequence[TrainModel] = ()
) -> Iterator[JobEvent | JobState | None]:
    """Yield the events of ``jobs``, from their first on, until all have ended; None after a second without any.

    A JobState stands for the end of a job whose stream Redis has dropped: what the board still knows of it. A job that
    Redis has lost, flushed or started anew without its data, is queued again if its message is among ``messages``.

    A Redis that is away is waited for, as long as it takes: workers train on meanwhile.

    Raises:
        JobLost: Redis has lost a job whose message is not known here.
    """
    from jobs import UNREACHED

    heartbeats = _Heartbeats(session)
    message_of = {message.job: message for message in messages}
    read = {session.keys.results(job): "0" for job in jobs}
    names = {session.keys.results(job): job for job in jobs}
    checked, is_away = float("-inf"), False
    while read:
        lost: dict[str, JobState] = {}
        try:
            if time.monotonic() - checked >= BOARD_EVERY_S:
                # Before the streams: a worker writes a job's end there first, so a stream without it is lost.
                states = {at: session.board.get(names[at]) for at in read}
                lost = {at: state for at, state in states.items() if state and state.ended}
                checked = time.monotonic()
                for at, state in states.items():
                    if not (state and state.ended) and heartbeats.are_over(names[at], state):
                        yield _queued_again(session, names[at], message_of)
            found = session.client.xread(read, count=100, block=1000)
            is_away = False
        except UNREACHED as error:
            if not is_away:
                said = f"Redis is away: workers train on, and this command waits ({error})"
                yield JobEvent(job=names[next(iter(read))], state="progress", text=said)
            is_away = True
            time.sleep(1.0)
            heartbeats.forget()
            lost, found = {}, None
        for stream, entries in found or ():
            lost.pop(stream, None)
            for entry, values in entries:
                read[stream] = entry
                event = _event_of(names[stream], values.get("json"))
                if event is None:
                    continue
                yield event
                if event.state in ENDED:
                    del read[stream]
                    break
        for stream, state in lost.items():
            del read[stream]
            yield state
        if not found and not lost:
            yield None


def _event_of(job: str, text: object) -> JobEvent | None:
    """Return the event in ``text``, fit for a terminal; None for what no worker at ``job`` wrote."""
    try:
        event = from_json(JobEvent, text)
    except SchemaMismatch:
        raise
    except MessageError:
        return None
    lines = "\n".join(map(printable, event.text.splitlines()))
    return event.model_copy(update={"text": lines}) if event.job == job else None


class _Heartbeats:
    """When jobs were last seen: on the board, where a worker notes every two seconds that it is at one, or queued."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seen: dict[str, tuple[float, float]] = {}  # of each job: the newest note, and when it came by our clock

    def forget(self) -> None:
        """Start to wait anew: nothing could be seen while Redis was away."""
        self._seen.clear()

    def are_over(self, job: str, state: JobState | None) -> bool:
        """Return whether nobody was at the job for ``stale_s``, and it is neither queued nor unacknowledged."""
        beat, now = state.updated if state else 0.0, time.monotonic()
        latest, since = self._seen.get(job, (None, now))
        if beat != latest or (now - since > self._session.settings.stale_s and self._is_queued_or_unacknowledged(job)):
            self._seen[job] = beat, now
            return False
        if now - since <= self._session.settings.stale_s:
            return False
        del self._seen[job]
        return True

    def _is_queued_or_unacknowledged(self, job: str) -> bool:
        pipeline = self._session.client.pipeline()
        for name in self._session.keys.queues(TrainModel.queue):
            pipeline.lrange(name, 0, -1)
        pipeline.hvals(self._session.keys.unacked)
        return any(f'"{job}"' in message for messages in pipeline.execute() for message in messages)


def _queued_again(session: Session, job: str, message_of: Mapping[str, TrainModel]) -> JobEvent:
    if job not in message_of:
        raise JobLost(
            f"Redis has lost job {job}: it was flushed, or started anew without its data, and no worker is at it; "
            "run the same `sortline train` again, and keep Redis from forgetting with appendonly yes"
        )
    enqueue_training(session, message_of[job])
    return JobEvent(job=job, state="progress", text="Redis had lost this job; it is queued again")
