"""Whatever stands in a key that Sortline reads: our own errors come out, or it is passed over.

The keys are listed in docs/reference/redis-keys.md. The same examples each time; for others, and more of them:
``SORTLINE_FUZZ_EXAMPLES=100000``.
"""

from __future__ import annotations

import json
import os
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from configs.settings import Settings
from jobs.board import JobBoard
from jobs.broker import connect
from jobs.errors import MessageError
from jobs.label import ChunkResult, LabelChunk, Row
from jobs.messages import to_json
from jobs.state import STOPPED, JobState
from jobs.train import JobEvent
from producer.errors import RunHeld, UsageError
from producer.local.session import Session
from producer.run.backlog import Backlog
from producer.run.detached import find_detached
from producer.run.hold import Hold
from producer.run.journal import Journal
from producer.run.refusals import Refusals
from producer.run.window import Window
from producer.run.witness import Witness
from producer.runfile import RunFile
from producer.training.events import follow
from tests.broker.conftest import (
    KEYS,
    Desk,
    NewProducer,
    chunk_of,
    envelope,
    labelled,
    new_run,
    plan_of,
    with_arguments,
    working,
)
from tests.conftest import wait_until
from worker.runtime import Runtime

DEFAULT = 500
EXAMPLES = int(os.environ.get("SORTLINE_FUZZ_EXAMPLES", DEFAULT))
RUN = "inbox-1"

pytestmark = pytest.mark.timeout(60 + EXAMPLES // 4)  # a worker that ended would be waited for

Test = Callable[..., None]


def fuzzed(share: float) -> Callable[[Test], Test]:
    return hypothesis_settings(
        max_examples=max(1, int(EXAMPLES * share)),
        derandomize=EXAMPLES == DEFAULT,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)
STRANGE = (
    st.binary(max_size=24)
    | TREES.map(json.dumps).map(str.encode)
    | st.sampled_from([b"[" * 100_000, b"\xff\xfe", b"", b'"\\ud800"', b"1e400", b"-1", b"nan", b"../../x"])
)


def spoilt(sound: bytes) -> st.SearchStrategy[bytes]:
    """Something strange, or ``sound`` with a few bytes exchanged or cut off."""

    def edit(change: tuple[float, bytes, int]) -> bytes:
        at = int(change[0] * len(sound))
        return sound[:at] + change[1] + sound[at + change[2] :]

    return STRANGE | st.tuples(st.floats(0, 1), st.binary(max_size=3), st.integers(0, 6)).map(edit)


def put(client: redis.Redis, key: str, value: bytes, kind: str) -> None:
    """Have ``value`` in a key of this type."""
    client.delete(key)
    if kind == "string":
        client.set(key, value)
    elif kind == "list":
        client.rpush(key, value, value)
    elif kind == "hash":
        client.hset(key, mapping={value: value, "0": value, "json": value})
    elif kind == "zset":
        client.zadd(key, {value: 1.0, "x": 2.0})
    elif kind == "stream":
        client.xadd(key, {"json": value, value or b"x": value})


FIELDS = [*JobState.__slots__, "cancel", "over", "attempts", "?"]
KINDS = st.sampled_from(["string", "list", "hash", "zset", "stream"])


@pytest.fixture
def session(settings: Settings) -> Iterator[Session]:
    with connect(settings) as client:
        yield Session(settings, client)


@fuzzed(1.0)
@given(
    st.dictionaries(st.sampled_from([*JobState.__slots__, "cancel", "over", "attempts", "?"]), STRANGE), STRANGE, KINDS
)
def test_the_board(session: Session, client: redis.Redis, fields: dict[str, bytes], name: bytes, kind: str) -> None:
    board = JobBoard(session.client, KEYS)
    client.flushall()
    if fields:
        client.hset(KEYS.job("x"), mapping={"job": "x", "kind": "label", "title": "t", **fields})
    put(client, KEYS.job("y"), name, kind)
    put(client, KEYS.labelled("x"), name, kind)
    client.hset(KEYS.labelled("y"), mapping={name: "4", "0": name, "at": name})
    board.add("sound", kind="train", title="t")
    client.zadd(KEYS.jobs, {name: 1.0, "x": 2.0, "y": 3.0})

    states = board.jobs()

    assert "sound" in [state.job for state in states]
    for state in states:
        assert (0 <= state.created < 1e12, 0 <= state.updated < 1e12) == (True, True)
        assert state.state in {"queued", "running", *STOPPED}
    for job in ("x", "y"):
        assert board.is_wanted(job) in (True, False)
        assert board.is_cancelled(job) in (True, False)
        assert isinstance(board.ended_by(job), str)
        board.update(job, text="t")
        assert board.count_attempt(job) is not None
        board.discount_attempt(job)


@fuzzed(0.5)
@given(st.data())
def test_a_detached_run(session: Session, client: redis.Redis, data: st.DataObject) -> None:
    plan = json.dumps({**json.loads(plan_of(session.settings, RUN).to_json()), "total": 1}).encode()
    inputs = spoilt(b64encode(zlib.compress(b'["a.png"]'))) | spoilt(b'["a.png"]').map(zlib.compress).map(b64encode)
    client.delete(KEYS.inputs(RUN))
    client.rpush(KEYS.inputs(RUN), data.draw(spoilt(plan) | st.just(plan)), data.draw(inputs))

    with suppress(UsageError, MessageError), closing(find_detached(session, RUN)) as run:
        assert run.total == 1

    runs = session.settings.home / "runs"
    assert {path.name for path in session.settings.home.iterdir()} <= {"runs"}
    for path in runs.glob("*.run"):
        assert path.name == f"{RUN}.run"
        path.unlink()


@fuzzed(0.5)
@given(STRANGE, KINDS)
def test_a_detached_run_of_another_type(session: Session, client: redis.Redis, value: bytes, kind: str) -> None:
    put(client, KEYS.inputs(RUN), value, kind)

    with pytest.raises((UsageError, MessageError), match=RUN):
        find_detached(session, RUN)


@fuzzed(0.5)
@given(st.data())
def test_answers_of_workers(settings: Settings, client: redis.Redis, data: st.DataObject) -> None:
    sound = to_json(ChunkResult(run=RUN, first=0, rows=(Row(top=((0, 1.0),)),) * 4, worker="w")).encode()
    answers = data.draw(st.lists(spoilt(sound), max_size=3))
    for answer in answers:
        client.xadd(KEYS.results(RUN), {"json": answer})
    client.xadd(KEYS.results(RUN), {answers[0] if answers and answers[0] else b"x": b"y"})
    with closing(new_run(settings, 4)) as run, connect(settings) as own:
        refusals = Refusals(list, lambda text: None)
        journal = Journal(run, own, KEYS, Window(4, 3), Witness(run, refusals), refusals)
        while journal.move(0):
            pass
        assert len(list(run.rows())) == 4
        assert run.done <= 4
    assert client.xlen(KEYS.results(RUN)) == 0


@fuzzed(0.5)
@given(st.data())
def test_events_of_a_training(session: Session, client: redis.Redis, data: st.DataObject) -> None:
    client.flushall()
    sound = to_json(JobEvent(job="train-1", state="progress", text="epoch 1")).encode()
    for event in data.draw(st.lists(spoilt(sound), max_size=3)):
        client.xadd(KEYS.results("train-1"), {"json": event})
    client.xadd(KEYS.results("train-1"), {"json": to_json(JobEvent(job="train-1", state="done", text="published"))})

    with suppress(MessageError):  # of another schema version
        events = [event for event in follow(session, ["train-1"]) if event is not None]
        assert events[-1].text


@fuzzed(0.3)
@given(STRANGE)
def test_who_holds_a_run(session: Session, client: redis.Redis, run_file: RunFile, value: bytes) -> None:
    hold = Hold(session.client, KEYS, run_file)
    for written in (value, value + b"1"):
        client.set(KEYS.holder(RUN), written)
        with suppress(RunHeld):
            assert hold.take() in (True, False)
    hold.release()


@pytest.fixture
def run_file(settings: Settings) -> Iterator[RunFile]:
    with closing(new_run(settings, 4)) as run:
        yield run


@fuzzed(0.3)
@given(STRANGE, KINDS)
def test_attempts(settings: Settings, client: redis.Redis, value: bytes, kind: str) -> None:
    runtime = Runtime(settings)
    put(client, KEYS.attempts(RUN), value, kind)

    with runtime.attempt(chunk_of(settings, 0)) as number:
        assert isinstance(number, int)
    with suppress(ZeroDivisionError), runtime.attempt(chunk_of(settings, 0)):
        raise ZeroDivisionError
    runtime.forget_attempts(RUN)
    runtime.client.close()


@fuzzed(0.5)
@given(st.data())
def test_what_a_producer_sees_of_the_queue(session: Session, client: redis.Redis, data: st.DataObject) -> None:
    client.flushall()
    entry = json.dumps(envelope(root_id=RUN, first=4)).encode()
    for value in data.draw(st.lists(spoilt(entry), max_size=3)):
        client.lpush(KEYS.queue(LabelChunk.queue), value)
        client.hset(KEYS.unacked, value, value)
    backlog = Backlog(session.client, KEYS, RUN)

    assert all(isinstance(first, int) for first in backlog.chunks())
    assert backlog.missing({0, 4}) <= {0, 4}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_outlives_its_queue_its_unacknowledged_messages_and_what_is_sent_to_all(
    desk: Desk, settings: Settings, client: redis.Redis, new_producer: NewProducer
) -> None:
    entry = json.dumps(with_arguments(to_json(chunk_of(settings, 4, run="other")))).encode()
    unacknowledged = json.dumps([json.loads(entry), "", LabelChunk.queue]).encode()

    @fuzzed(0.3)
    @given(spoilt(entry), spoilt(unacknowledged), spoilt(entry), STRANGE)
    def spoil(queued: bytes, held: bytes, sent: bytes, name: bytes) -> None:
        client.lpush(KEYS.queue(LabelChunk.queue), queued)
        client.hset(KEYS.unacked, b"fuzz" + name, held)
        client.zadd(KEYS.unacked_index, {b"fuzz" + name: 1.0})
        client.publish(f"{KEYS.prefix}/0.celery.pidbox", sent)
        client.sadd(f"{KEYS.prefix}_kombu.binding.celery.pidbox", name)

    with working(desk):
        spoil()
        wait_until(lambda: not client.llen(KEYS.queue(LabelChunk.queue)) and not client.hlen(KEYS.unacked), 60)
        producer = new_producer(4)
        producer.finish()

    assert len(labelled(producer.run)) == 4
