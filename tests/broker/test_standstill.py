"""Labelling that stands still: whoever asks gets the causes, in the command, from cron and in a metric."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from configs.settings import Settings
from jobs.label import LabelChunk
from jobs.standstill import LabelQueue, look_at_label_queue, reasons
from producer.__main__ import run
from producer.errors import OK, STANDSTILL, UNREACHABLE, USAGE
from producer.local.session import Session
from producer.run import stall_alarm
from producer.run.stall_alarm import StallAlarm
from tests.broker.conftest import HOSTNAME, KEYS, PREFIX, Desk, NewProducer, envelope, in_time, working
from tests.conftest import wait_until

pytestmark = pytest.mark.timeout(60)


def doctor(settings: Settings, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setenv("SORTLINE_BROKER", str(settings.broker))
    monkeypatch.setenv("SORTLINE_KEY_PREFIX", PREFIX)
    monkeypatch.setenv("SORTLINE_DATA_ROOT", str(settings.data_root))
    return run(["doctor", "--watch", "--home", str(settings.home), *arguments])


def test_chunks_that_nobody_takes_stand_still_and_one_row_ends_that(
    settings: Settings,
    client: redis.Redis,
    new_producer: NewProducer,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert replace(look_at_label_queue(client, KEYS), memory=(0, 0)) == LabelQueue()
    assert doctor(settings, monkeypatch, "--minutes", "0") == OK
    producer = new_producer()
    gathering = producer.gatherer.gather()
    next(gathering)
    next(gathering)
    time.sleep(0.2)  # so that there is a time to be told

    found = look_at_label_queue(client, KEYS)
    codes = [doctor(settings, monkeypatch), doctor(settings, monkeypatch, "--minutes", "0")]
    said = capsys.readouterr().out
    with working(desk):
        for _ in in_time(gathering):
            pass

    assert (found.waiting, found.held) == (3, 0)
    assert 0.1 < found.still_s < 30
    assert codes == [OK, STANDSTILL]
    assert "ok   3 chunks are queued, 0 are with workers\n" in said
    assert re.search(
        r"bad  3 chunks are queued, 0 are with workers, and no image got its row for \d+ s: no label", said
    )
    assert look_at_label_queue(client, KEYS).still_s == 0
    assert time.time() - float(client.get(KEYS.newest) or 0) < 30


def test_a_worker_that_keeps_away_is_named_with_its_cause_until_it_labels(
    settings: Settings,
    client: redis.Redis,
    new_producer: NewProducer,
    desk: Desk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    producer = new_producer()
    gathering = producer.gatherer.gather()
    next(gathering)
    next(gathering)
    time.sleep(0.5)  # the chunk's age, which must outlast being put back
    with working(Desk(settings.model_copy(update={"data_root": tmp_path / "nowhere"}))):
        wait_until(lambda: client.hexists(KEYS.refusals, HOSTNAME), 20)
        found = look_at_label_queue(client, KEYS)
        code = doctor(settings, monkeypatch, "--minutes", "0")
    said = capsys.readouterr().out
    with working(desk):
        for _ in in_time(gathering):
            pass

    assert found.still_s > 0.5
    assert f"{HOSTNAME} keeps away: " in " ".join(reasons(found, [HOSTNAME]))
    assert reasons(found, ["other@host"]) == [
        "1 label workers answer, and none says why (other@host): look at their logs"
    ]
    assert code == STANDSTILL
    assert f"{HOSTNAME} keeps away: " in said
    assert "nowhere" in said
    assert client.hgetall(KEYS.refusals) == {}


def test_a_full_redis_is_a_cause_and_a_code_of_its_own_accord(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.2))

    assert doctor(settings, monkeypatch) == STANDSTILL
    assert "Redis is full: " in capsys.readouterr().out


def test_without_a_broker_there_is_nothing_to_watch(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(settings.model_copy(update={"broker": "redis://127.0.0.1:1/0"}), monkeypatch) == UNREACHABLE
    monkeypatch.delenv("SORTLINE_BROKER")
    assert run(["doctor", "--watch", "--home", str(settings.home)]) == USAGE


def test_a_command_says_once_why_no_row_comes(
    settings: Settings, client: redis.Redis, new_producer: NewProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stall_alarm, "LOOK_S", 0.0)
    producer, said = new_producer(), list[str]()
    alarm = StallAlarm(Session(settings, client), said.append)
    gathering = producer.gatherer.gather()
    for _ in range(2):
        alarm.check(next(gathering).done)
    assert said == []

    monkeypatch.setattr(stall_alarm, "STILL_S", 0.0)
    for _ in range(3):
        alarm.check(1)
    (first,) = said
    monkeypatch.setattr(stall_alarm, "STILL_S", 30.0)
    client.set(KEYS.newest, time.time())  # a row of another run: workers are there
    alarm._look_from, alarm._said = 0.0, []
    alarm.check(1)
    gathering.close()

    assert re.match(r"warning: no image got its row for \d+ s: no label worker answers; start one", first)
    assert said == [first]


HOSTILE = [
    b"",
    b"[",
    b"[1]",
    b'{"headers": 1}',
    b'{"headers": {"queued_at": "x"}}',
    b'{"headers": {"queued_at": 1e999}}',
]


def test_what_no_sortline_wrote_is_passed_over(client: redis.Redis) -> None:
    for text in HOSTILE:
        client.rpush(KEYS.queue(LabelChunk.queue), text)
        client.hset(KEYS.unacked, mapping={"a": text, "b": json.dumps([text.decode(), "", "label"])})
        client.set(KEYS.newest, text)

        found = look_at_label_queue(client, KEYS)
        assert found.still_s >= 0
    client.delete(KEYS.unacked)
    client.hset(KEYS.unacked, "c", json.dumps([envelope(queued_at=time.time() - 100), "", "label"]))
    client.hset(KEYS.unacked, "d", json.dumps([envelope(queued_at=time.time() - 900), "", "train"]))
    client.delete(KEYS.queue(LabelChunk.queue))
    found = look_at_label_queue(client, KEYS)
    assert (found.waiting, found.held) == (0, 1)
    assert 99 < found.still_s < 130
    client.set(KEYS.newest, time.time() - 50)  # of another run: workers are there
    assert 49 < look_at_label_queue(client, KEYS).still_s < 80
