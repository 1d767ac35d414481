"""A Redis that takes no writes is named at a command's start, and waited for by a run in progress."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import redis

from configs.settings import Settings, environment_of
from jobs.board import JobBoard
from jobs.broker import REFUSALS, RefusesWrites, check_broker, connect
from jobs.errors import BrokerAway, BrokerError
from producer.__main__ import run
from producer.errors import UNREACHABLE, BrokerUnreachable
from producer.local.doctor import check_all
from producer.local.session import open_session
from tests.broker.conftest import KEYS, Desk, NewProducer, in_time, labelled, working
from tests.conftest import RedisServer, running_redis, wait_until, write_images

READ_ONLY = ("REPLICAOF", "127.0.0.1", "1")
PRIMARY = ("REPLICAOF", "NO", "ONE")
TOO_FEW_REPLICAS = ("CONFIG", "SET", "min-replicas-to-write", "1")
ENOUGH_REPLICAS = ("CONFIG", "SET", "min-replicas-to-write", "0")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused command is tried as often as ever, without waiting between."""
    monkeypatch.setattr("redis.retry.sleep", lambda _: None)


def cannot_save(server: RedisServer) -> None:
    """Let this server fail to save, after which it refuses writes."""
    (server.folder / "dump.rdb").mkdir()
    with server.client() as client:
        client.config_set("save", "1 1")
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", 10)


def send(server: RedisServer, command: tuple[str, ...]) -> None:
    with server.client() as client:
        client.execute_command(*command)


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (lambda server: send(server, READ_ONLY), "is a read-only replica; give the URL of the primary (READONLY "),
        (lambda server: send(server, TOO_FEW_REPLICAS), "has fewer replicas than min-replicas-to-write asks for"),
        (cannot_save, "can't save to its disk and so refuses writes; look at its log and its disk (MISCONF "),
    ],
    ids=["READONLY", "NOREPLICAS", "MISCONF"],
)
def test_a_server_that_refuses_writes_is_named_at_the_start(
    spoil: Callable[[RedisServer], None], name: str, settings: Settings, redis_server: RedisServer
) -> None:
    spoil(redis_server)

    with pytest.raises(BrokerUnreachable) as caught, open_session(settings):
        pass
    with connect(settings) as client, pytest.raises(BrokerAway):  # a worker waits: it may pass
        check_broker(client, settings)
    found = next(check_all(settings))

    assert name in str(caught.value)
    assert (found.mark, found.is_broker) == ("bad", True)
    assert name in found.text


@pytest.mark.parametrize("command", ["cancel", "train", "detach"])
@pytest.mark.parametrize(("spoil", "code"), [(READ_ONLY, "READONLY"), (TOO_FEW_REPLICAS, "NOREPLICAS")])
def test_writes_that_are_refused_within_a_command_are_a_sentence(
    command: str,
    spoil: tuple[str, ...],
    code: str,
    settings: Settings,
    redis_server: RedisServer,
    model_store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    write_images(tmp_path / "data" / "a", 2)
    monkeypatch.chdir(settings.home)
    for name, value in environment_of(settings.model_copy(update={"store": model_store})).items():
        monkeypatch.setenv(name, value)
    with connect(settings) as client:
        JobBoard(client, KEYS).add("train-1", kind="train", title="train")

    def checked(client: redis.Redis, settings: Settings) -> str:
        version = check_broker(client, settings)
        send(redis_server, spoil)
        return version

    monkeypatch.setattr("producer.local.session.check_broker", checked)
    data = str(tmp_path / "data")
    arguments = {
        "cancel": ["jobs", "cancel", "train-1"],
        "train": ["train", data, "--config", "digits", "--name", "n", "--detach"],
        "detach": ["label", data, "--detach", "-o", "r.csv"],
    }

    assert run(arguments[command]) == UNREACHABLE

    said = capsys.readouterr().err
    assert f"sortline: Redis {REFUSALS[code]} ({code} " in said
    assert "Traceback" not in said


def test_a_cluster_is_refused(settings: Settings, tmp_path: Path) -> None:
    with running_redis(tmp_path / "cluster", "", "--cluster-enabled", "yes") as server:
        clustered = settings.model_copy(update={"broker": server.url})
        with connect(clustered) as client, pytest.raises(BrokerError, match="cluster mode, which Sortline") as caught:
            check_broker(client, clustered)

    assert not isinstance(caught.value, BrokerAway)  # waiting would not help


@pytest.mark.parametrize("code", REFUSALS)
def test_each_refusal_is_an_error_of_the_connection(code: str) -> None:
    error = redis.connection.DefaultParser.parse_error(f"{code} 1 127.0.0.1:7001")

    assert isinstance(error, RefusesWrites)
    assert REFUSALS[code] in str(error)
    assert code in str(error)


@pytest.mark.parametrize(
    ("code", "spoil", "mend"),
    [
        ("READONLY", partial(send, command=READ_ONLY), PRIMARY),
        ("NOREPLICAS", partial(send, command=TOO_FEW_REPLICAS), ENOUGH_REPLICAS),
        ("MISCONF", cannot_save, ("CONFIG", "SET", "save", "")),
    ],
)
def test_a_run_goes_on_after_writes_were_refused(
    code: str,
    spoil: Callable[[RedisServer], None],
    mend: tuple[str, ...],
    desk: Desk,
    new_producer: NewProducer,
    redis_server: RedisServer,
) -> None:
    producer = new_producer(24, chunk_images=2)
    desk.engine.seconds = 0.1
    waited: set[str] = set()
    mended = threading.Timer(3.0, send, (redis_server, mend))

    with working(desk):
        for progress in in_time(producer.gatherer.gather(), 60):
            if progress.done >= 4 and not mended.ident:
                spoil(redis_server)
                mended.start()
            waited.add(progress.waiting)

    assert len(labelled(producer.run)) == 24
    assert any("trying again" in text and REFUSALS[code] in text for text in waited)
