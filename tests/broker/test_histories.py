"""Producers of two hosts at one detached run, workers and Redis take any steps in any order: one row an input, always.

Everything is real but the workers: their messages are taken, held, lost and answered by hand, so that a step is quick,
and hypothesis makes a history that fails as short as it can. Whole processes do the same in ``chaos/world.py``.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from base64 import b64decode
from collections.abc import Generator

import hypothesis
import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from configs.settings import Settings
from jobs.board import JobBoard
from jobs.fairness import Waiting
from jobs.label import ChunkResult, LabelChunk, Row
from jobs.messages import from_json, to_json
from jobs.transport import unpack
from producer.errors import RunCancelled, RunHeld, UsageError
from producer.local.session import Session
from producer.run.detached import find_detached, send_all, upload
from producer.runfile import Progress
from tests.broker.conftest import KEYS, Producer, new_run
from tests.conftest import RedisServer

RUN = "inbox-1"
IMAGES = 24
HOSTS = st.sampled_from(["a", "b"])
FINISH_S = 20.0
EXAMPLES = int(os.environ.get("TEST_HISTORIES", "25"))
SHORT: dict[str, float] = {
    "gather.READ_S": 0.005,
    "gather.CANCEL_CHECK_S": 0.02,
    "hold.RENEW_S": 0.02,
    "hold.HOLD_S": 0.2,
    "window.SURE_LOST_S": 0.05,
    "backlog.LOOK_EVERY_S": 0.02,
    "backlog.LOOK_AGAIN_S": 0.01,
}
numbers = itertools.count()


def label_of(path: str) -> int:
    return int(path.partition(".")[0]) % 4


class Host:
    """A home, and the command that gathers there."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self._settings, self._client = settings, client
        self._producer: Producer | None = None
        self._gathering: Generator[Progress, None, None] | None = None
        self._killed: list[object] = []  # what `kill -9` leaves: nothing of it may run any more, not even its end
        self.is_done = self.is_refused = False

    def start(self) -> None:
        """Type `jobs gather`, unless it runs."""
        if self._producer is None and not self.is_done:
            try:
                run = find_detached(Session(self._settings, self._client), RUN)
            except UsageError:
                self.is_refused = True
                return
            self._producer = Producer(self._settings, self._client, run)
            self._gathering = self._producer.gatherer.gather()

    def step(self) -> None:
        if self._gathering is None or self._producer is None:
            return
        try:
            next(self._gathering)
        except (RunHeld, RunCancelled):
            self._end()
        except StopIteration:
            rows = [(row.error, row.top) for row in self._producer.run.rows()]
            paths = self._producer.run.paths(0, IMAGES)
            assert rows == [(None, [(label_of(path), 1.0)]) for path in paths]
            assert len(rows) == IMAGES
            self.is_done = True
            self._end()

    def kill(self) -> None:
        if self._producer is not None:
            self._killed.append(self._gathering)
            self._end()

    def interrupt(self) -> None:
        if self._gathering is not None:
            self._gathering.close()
            self._end()

    def close(self) -> None:
        self.interrupt()
        self._killed.clear()

    def _end(self) -> None:
        if self._producer is not None:
            self._producer.sender.close()  # not its pool of connections, which all apps of this process share
            self._producer.run.close()
        self._producer = self._gathering = None


class Histories(RuleBasedStateMachine):
    """One detached run, sent by host a."""

    def __init__(self, settings: Settings, server: RedisServer) -> None:
        super().__init__()
        self.client = server.client()
        self.raw = redis.Redis.from_url(server.url)
        self.saved: dict[bytes, tuple[int, bytes | None]] = {}
        self.client.flushall()
        self.board = JobBoard(self.client, KEYS)
        self.held: dict[str, str] = {}  # what workers hold, by tag
        home = settings.home / f"{next(numbers)}"
        homes = {name: settings.model_copy(update={"home": home / name}) for name in "ab"}
        self.hosts = {name: Host(own, self.client) for name, own in homes.items()}
        self.board.add(RUN, kind="label", title="inbox")
        sender = Producer(homes["a"], self.client, new_run(homes["a"], IMAGES, RUN))
        upload(self.client, KEYS, sender.run)
        send_all(sender.run, sender.sender, tuple, window=2)
        sender.sender.close()
        sender.run.close()

    @rule(host=HOSTS)
    def gather(self, host: str) -> None:
        self.hosts[host].start()

    @rule(host=HOSTS, count=st.integers(1, 6))
    def go_on(self, host: str, count: int) -> None:
        for _ in range(count):
            self.hosts[host].step()

    @rule(host=HOSTS)
    def kill(self, host: str) -> None:
        self.hosts[host].kill()

    @rule(host=HOSTS)
    def interrupt(self, host: str) -> None:
        self.hosts[host].interrupt()

    @rule(count=st.integers(1, 3))
    def take(self, count: int) -> None:
        """Workers take messages, and note that they hold them."""
        for _ in range(count):
            if message := self.client.rpop(KEYS.queue(LabelChunk.queue)):
                tag = f"tag-{next(numbers)}"
                self.client.hset(KEYS.unacked, tag, json.dumps([json.loads(message), "", LabelChunk.queue]))
                self.held[tag] = message

    @rule()
    def lose(self) -> None:
        """A worker dies before it could note what it took."""
        self.client.rpop(KEYS.queue(LabelChunk.queue))

    @rule()
    def look_around(self) -> None:
        """A worker looks whether there is anything to do."""
        Waiting(self.client, KEYS).release_if_idle()

    @rule()
    def lose_the_index(self) -> None:
        """As if the command had died between leaving the first chunk to wait and saying so."""
        self.client.delete(KEYS.waiting_runs)

    @rule(acknowledges=st.booleans(), dies=st.booleans())
    def answer(self, acknowledges: bool, dies: bool = False) -> None:
        """The oldest chunk is labelled; its worker may die before it queues the next one, or acknowledges."""
        if not self.held:
            return
        tag = next(iter(self.held))
        entry = json.loads(self.held.pop(tag))
        ((payload, *_), *_) = json.loads(unpack(b64decode(entry["body"])))
        chunk = from_json(LabelChunk, payload)
        if self.board.is_wanted(RUN):
            rows = tuple(Row(top=((label_of(path), 1.0),)) for path in chunk.paths)
            result = ChunkResult(run=RUN, first=chunk.first, rows=rows, worker="by hand")
            self.client.xadd(KEYS.results(RUN), {"json": to_json(result)})
            if not dies and (level := self.client.zscore(KEYS.waiting_runs, RUN)) is not None:
                Waiting(self.client, KEYS).release(RUN, level)
        if acknowledges:
            self.client.hdel(KEYS.unacked, tag)

    @rule()
    def deliver_again(self) -> None:
        """What workers held is overdue."""
        for tag, text in self.client.hgetall(KEYS.unacked).items():
            self.client.rpush(KEYS.queue(LabelChunk.queue), json.dumps(json.loads(text)[0]))
            self.client.hdel(KEYS.unacked, tag)

    @rule()
    def forget(self) -> None:
        self.client.flushall()

    @rule()
    def save(self) -> None:
        """Redis writes what it has to its disk."""
        self.saved = {key: (max(0, self.raw.pttl(key)), self.raw.dump(key)) for key in self.raw.keys("*")}

    @rule()
    def go_back(self) -> None:
        """Redis starts anew from its disk, or fails over to a replica that lags behind."""
        self.client.flushall()
        for key, (ttl_ms, value) in self.saved.items():
            if value is not None:  # expired between the two
                self.raw.restore(key, ttl_ms, value)

    @rule()
    def cancel(self) -> None:
        self.board.ask_to_cancel(RUN)
        self.board.update(RUN, state="cancelled")

    @rule()
    def go_on_after_cancel(self) -> None:
        self.board.add(RUN, kind="label", title="inbox")

    @rule()
    def wait(self) -> None:
        """Stand still for longer than a hold lasts."""
        time.sleep(0.25)  # the hold of a producer that is gone has expired then

    def teardown(self) -> None:
        """All is well from now on: each host ends with its rows, or a refusal if the other has ended."""
        try:
            self.board.add(RUN, kind="label", title="inbox")
            deadline = time.monotonic() + FINISH_S
            while not (self.hosts["a"].is_done and (self.hosts["b"].is_done or self.hosts["b"].is_refused)):
                assert time.monotonic() < deadline, "a command stands"
                self.look_around()
                self.take(3)
                while self.held:
                    self.answer(acknowledges=True)
                self.deliver_again()
                for host in self.hosts.values():
                    host.start()
                    host.step()
            left = [KEYS.results(RUN), KEYS.inputs(RUN), KEYS.attempts(RUN), KEYS.holder(RUN)]
            left += [KEYS.waiting(RUN), KEYS.waiting_runs]
            assert not self.client.exists(*left)
        finally:
            for host in self.hosts.values():
                host.close()
            self.client.close()
            self.raw.close()


@pytest.mark.timeout(600)
def test_any_history_of_a_detached_run_ends_with_one_row_an_input(
    settings: Settings, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SHORT.items():
        monkeypatch.setattr(f"producer.run.{name}", value)

    class Here(Histories):
        def __init__(self) -> None:
            super().__init__(settings, redis_server)

    run_state_machine_as_test(
        Here,
        settings=hypothesis.settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            derandomize="TEST_HISTORIES" not in os.environ,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
