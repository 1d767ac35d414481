"""A Redis behind Sentinels: all sides find its primary, and a failover in the midst of a run costs no row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from configs.settings import Settings
from jobs.app import make_app
from jobs.broker import RefusesWrites, check_broker, connect, primary_of
from jobs.errors import BrokerAway, BrokerError
from jobs.label import LabelChunk
from jobs.sentinel import Primary
from producer.local.doctor import check_all
from producer.run.enqueue import ChunkSender
from producer.run.hold import Hold
from tests.broker.conftest import KEYS, Desk, Producer, in_time, labelled, new_run, plan_of, working
from tests.broker.test_broker_forms import flowers_length
from tests.conftest import RedisServer, free_port
from tests.sentinels import NAME, PASSWORD, SENTINELS_PASSWORD, Watched, watched_redis


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with watched_redis() as servers:
        yield servers


@pytest.fixture
def behind(settings: Settings, watched: Watched) -> Settings:
    """The settings of a broker behind Sentinels, the first of which is not there."""
    dead, *living = watched.url.split("@")
    url = f"{dead}@127.0.0.1:{free_port()},{''.join(living)}"
    return settings.model_copy(update={"broker": url})


def test_client_celery_and_flower_find_the_primary(behind: Settings, watched: Watched) -> None:
    app: Any = make_app(behind)
    sender = ChunkSender(app, plan_of(behind))

    sender.send(0, ["a.png"])
    sender.close()

    with connect(behind) as client, watched.primary.client() as direct:
        assert check_broker(client, behind)
        assert client.llen(KEYS.queue(LabelChunk.queue)) == direct.llen(KEYS.queue(LabelChunk.queue)) == 1
        assert flowers_length(behind) == 1
        direct.delete(KEYS.queue(LabelChunk.queue))
    shown = f"{app.conf.broker_url} {app.connection().info()} {app.connection().as_uri()}"
    assert PASSWORD not in app.connection().as_uri()
    assert app.conf.broker_url in shown


def test_a_failover_in_the_midst_of_a_run_costs_no_row(behind: Settings, watched: Watched) -> None:
    desk = Desk(behind, seconds=0.1)
    small = behind.model_copy(update={"chunk_images": 2})
    with connect(small) as client:
        producer = Producer(small, client, new_run(small, 24))
        with working(desk):
            killed = None
            for progress in in_time(producer.gatherer.gather(), 200):
                if progress.done >= 4 and killed is None:
                    killed = watched.fail_over()
                    killed.start()  # it takes itself for the primary until Sentinels make it a replica
        assert killed is not None
        assert len(labelled(producer.run)) == 24
        watched.await_replica(killed)
        with watched.primary.client() as primary:
            assert check_broker(client, behind)
            assert client.set("test:x", 1)
            assert primary.getdel("test:x") == "1"
        producer.close()
    desk.mean.close()
    desk.client.close()


def test_a_primary_that_has_become_a_replica_is_left_though_it_answers(
    behind: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = []
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        servers.append(RedisServer(tmp_path / name, free_port(), password=PASSWORD))
        servers[-1].start()
    old, new = servers
    primary = [old]
    monkeypatch.setattr(Primary, "address", lambda _: (primary[0].address, primary[0].port))
    monkeypatch.setattr("producer.run.hold.RENEW_S", 0)
    with connect(behind) as client, closing(new_run(behind, 2)) as run:
        hold = Hold(client, KEYS, run)
        assert hold.take()
        with old.client() as direct:
            direct.replicaof(new.address, new.port)
        primary[0] = new
        with pytest.raises(RefusesWrites):
            hold.take()

        assert hold.take()
    for server in servers:
        server.kill()


def test_the_doctor_names_the_primary_and_sentinels_that_do_not_answer(behind: Settings, watched: Watched) -> None:
    texts = {finding.mark: finding.text for finding in list(check_all(behind))[:2]}

    assert "does not answer (" in texts["warn"]
    assert f"Sentinels: {NAME} is 127.0.0.1:{watched.primary.port}, by 127.0.0.1:" in texts["ok"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ((f"master_name={NAME}", "master_name=other"), "knows no primary named 'other'"),
        ((f"sentinel_password={SENTINELS_PASSWORD}", "client_name=a"), "of its own: give sentinel_password"),
        ((f":{PASSWORD}@", "@"), "asks for a password"),
    ],
)
def test_what_sentinels_refuse_is_named(change: tuple[str, str], why: str, behind: Settings, watched: Watched) -> None:
    wrong = behind.model_copy(update={"broker": watched.url.replace(*change)})

    with connect(wrong) as client, pytest.raises(BrokerError, match=why) as caught:
        check_broker(client, wrong)

    assert PASSWORD not in str(caught.value)
    assert SENTINELS_PASSWORD not in str(caught.value)


def test_a_server_that_is_no_sentinel_and_a_sentinel_that_is_no_server_are_named(
    settings: Settings, watched: Watched
) -> None:
    swapped = settings.model_copy(
        update={"broker": watched.url.replace(str(watched.places[0].port), str(watched.primary.port))}
    )
    alone = settings.model_copy(update={"broker": f"redis://:{SENTINELS_PASSWORD}@127.0.0.1:{watched.places[0].port}"})

    primary = primary_of(swapped)
    assert primary is not None
    [fault] = [fault for _, address, fault in primary.answers() if address is None]
    assert "asks for a password" in fault  # another one than Sentinels have
    with (
        connect(alone) as client,
        pytest.raises(BrokerError, match=r"give sentinel://HOST:PORT\?master_name") as caught,
    ):
        check_broker(client, alone)
    assert not isinstance(caught.value, BrokerAway)
