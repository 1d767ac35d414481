"""Redis servers that can't be used, and what people are told; no word of it holds the password."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from base.broker_url import masked_url
from base.errors import UnavailableError
from configs import SettingsError
from configs.settings import Settings, load_settings
from jobs.app import make_app
from jobs.broker import celery_options, check_broker, connect, tls_options
from jobs.errors import BrokerAway, BrokerError
from producer.errors import BrokerUnreachable
from producer.local.doctor import check_all
from producer.local.session import open_session
from producer.run.enqueue import ChunkSender
from tests.broker.conftest import Desk, plan_of, working
from tests.canaries import MARK, as_id, secret
from tests.conftest import RedisServer, free_port

SECRET = f"{MARK}/7@x"
PLAIN = secret("plain")
QUOTED = f"{MARK}%2F7%40x"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that can't be used are tried as often as ever, without waiting between."""
    monkeypatch.setattr("redis.retry.sleep", lambda _: None)
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda _: None)


@pytest.fixture
def locked_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server with a password."""
    (tmp_path / "locked").mkdir()
    server = RedisServer(tmp_path / "locked", free_port(), password=secret("locked"))
    server.start()
    yield server
    server.kill()


def told(error: BaseException) -> str:
    """Everything that an error, and what caused it, would show."""
    words = []
    cause: BaseException | None = error
    while cause is not None:
        words.append(f"{cause} {cause!r}")
        cause = cause.__cause__
    return " ".join(words)


def with_broker(home: Path, url: str) -> Settings:
    return Settings(home=home, broker=url)


def test_a_server_that_can_be_used_tells_its_version(settings: Settings) -> None:
    with connect(settings) as client:
        version = check_broker(client, settings)

    assert int(version.split(".")[0]) >= 6


@pytest.mark.parametrize("user", ["", "default", "nobody"])
def test_a_wrong_password_is_an_error_that_does_not_show_it(home: Path, locked_server: RedisServer, user: str) -> None:
    settings = with_broker(home, f"redis://{user}:{QUOTED}@127.0.0.1:{locked_server.port}/0")

    with connect(settings) as client, pytest.raises(BrokerError, match="refuses the user or password") as caught:
        check_broker(client, settings)

    assert not isinstance(caught.value, BrokerAway)  # waiting would not help
    assert f"redis://{user}:***@127.0.0.1:{locked_server.port}/0" in str(caught.value)
    assert MARK not in told(caught.value)


def test_a_missing_password_is_an_error(home: Path, locked_server: RedisServer) -> None:
    settings = with_broker(home, f"redis://127.0.0.1:{locked_server.port}/0")

    with (
        connect(settings) as client,
        pytest.raises(BrokerError, match="asks for a password, and the URL has none: put"),
    ):
        check_broker(client, settings)


def test_an_old_server_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.broker.MINIMUM_REDIS", (99, 0))

    with connect(settings) as client, pytest.raises(BrokerError, match=r"runs Redis [0-9.]+; Sortline needs 6\.2"):
        check_broker(client, settings)


@pytest.mark.parametrize(
    ("version", "usable"), [("6.0.16", False), ("5.0", False), ("6.2.0", True), ("6.10", True), ("255.255.255", True)]
)
def test_versions_are_compared_as_numbers(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, version: str, usable: bool
) -> None:
    with connect(settings) as client:
        monkeypatch.setattr(client, "info", lambda *_: {"redis_version": version})
        if usable:
            assert check_broker(client, settings) == version
        else:
            with pytest.raises(BrokerError, match=f"runs Redis {version}"):
                check_broker(client, settings)


def test_a_server_that_is_away_is_another_error_than_one_that_refuses(home: Path) -> None:
    settings = with_broker(home, f"redis://:{QUOTED}@127.0.0.1:{free_port()}/0")

    with connect(settings) as client, pytest.raises(BrokerAway, match="can't reach Redis at redis://") as caught:
        check_broker(client, settings)

    assert MARK not in told(caught.value)


def test_sending_to_a_server_that_is_away_says_so_without_the_password(home: Path, tmp_path: Path) -> None:
    settings = Settings(
        home=home, broker=f"redis://:{QUOTED}@127.0.0.1:{free_port()}/0", data_root=tmp_path, chunk_images=4
    )
    app: Any = make_app(settings)
    sender = ChunkSender(app, plan_of(settings))

    with pytest.raises(UnavailableError, match="Redis takes no messages") as caught:
        sender.send(0, ["a.png"])
    sender.close()

    assert MARK not in told(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{QUOTED}@127.0.0.1:1/0",
        f"redis://me:{QUOTED}@127.0.0.1:1/0",
        f"redis://127.0.0.1:1/0?password={QUOTED}",
        f"redis://:{SECRET}@127.0.0.1:1/0",
        f"redis://127.0.0.1:1/0?db=0&password={SECRET}",
        f"redis://127.0.0.1:1/0?password={SECRET}&db=0",
        f"unix:///nowhere/redis.sock?password={SECRET}",
        f"rediss://me:{QUOTED}@127.0.0.1:1/0",
    ],
    ids=as_id,
)
def test_no_session_that_fails_shows_the_password(home: Path, url: str) -> None:
    environment = {"SORTLINE_HOME": str(home), "SORTLINE_BROKER": url}

    with (
        pytest.raises((BrokerUnreachable, SettingsError)) as caught,
        open_session(load_settings(environment=environment)),
    ):
        pass

    assert not any(part in str(caught.value) for part in (MARK, "7@x", "7%40x"))
    assert not any(part in masked_url(url) for part in (MARK, "7@x", "@x", "7%40x"))
    assert MARK not in repr(Settings.model_construct(home=home, broker=url))


def test_a_tls_server_without_a_ca_is_refused_before_anything_is_sent(home: Path) -> None:
    settings = with_broker(home, f"rediss://:{QUOTED}@127.0.0.1:1/0")

    for use in (connect, celery_options, tls_options, make_app):
        with pytest.raises(BrokerError, match=r"needs SORTLINE_BROKER_CA=/path/to/ca\.pem") as caught:
            use(settings)
        assert MARK not in told(caught.value)


def test_a_tls_server_with_a_ca_must_prove_itself(home: Path, tmp_path: Path) -> None:
    settings = Settings(home=home, broker="rediss://127.0.0.1:1/0", broker_ca=tmp_path / "ca.pem")

    app: Any = make_app(settings)

    for options in (tls_options(settings), app.conf.broker_use_ssl):
        assert options is not None
        assert options["ssl_cert_reqs"] == ssl.CERT_REQUIRED
        assert options["ssl_check_hostname"] is True
        assert options["ssl_ca_certs"] == str(tmp_path / "ca.pem")


def test_no_broker_at_all_says_how_to_name_one(home: Path) -> None:
    with pytest.raises(BrokerError, match="pass --broker redis://HOST:6379/0 or set SORTLINE_BROKER"):
        connect(Settings(home=home))


def findings(settings: Settings, count: int) -> list[tuple[str, str]]:
    """The doctor's first words, those about the broker; it would go on to load every engine."""
    return [(finding.mark, finding.text) for finding in islice(check_all(settings), count)]


def test_the_doctor_finds_a_server_that_forgets_but_does_not_evict(settings: Settings) -> None:
    broker, policy, saves = findings(settings, 3)

    assert broker[0] == "ok"
    assert settings.broker is not None
    assert masked_url(settings.broker) in broker[1]
    assert policy == ("ok", "eviction policy noeviction")
    assert saves[0] == "warn"
    assert saves[1].startswith("persistence off: ")
    assert saves[1].endswith("set appendonly yes")


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_the_doctor_calls_a_server_that_evicts_bad(settings: Settings, redis_server: RedisServer, policy: str) -> None:
    with redis_server.client() as client:
        client.config_set("maxmemory-policy", policy)
        client.config_set("appendonly", "yes")

    _, evicts, saves = findings(settings, 3)

    assert evicts[0] == "bad"
    assert evicts[1].startswith(f"eviction policy {policy}: ")
    assert evicts[1].endswith("set maxmemory-policy noeviction")
    assert saves == ("ok", "persistence: appendonly")
    assert [found.is_broker for found in islice(check_all(settings), 2)][1]  # and its exit code is that of a broker


def test_the_doctor_warns_when_the_server_does_not_tell(settings: Settings, redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "plain", "on", f">{PLAIN}", "~*", "&*", "+@all", "-info", "+info|server"
        )
    limited = settings.model_copy(update={"broker": f"redis://plain:{PLAIN}@127.0.0.1:{redis_server.port}/0"})

    first, second = findings(limited, 2)

    assert first[0] == "ok"
    assert MARK not in first[1]
    assert second[0] == "warn"
    assert "want noeviction and appendonly yes" in second[1]


def test_the_doctor_needs_no_right_to_the_configuration(settings: Settings, redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "plain", "on", f">{PLAIN}", "~*", "&*", "+@all", "-config")
    limited = settings.model_copy(update={"broker": f"redis://plain:{PLAIN}@127.0.0.1:{redis_server.port}/0"})

    assert findings(limited, 3)[1] == ("ok", "eviction policy noeviction")


def test_the_doctor_calls_a_wrong_password_bad(home: Path, locked_server: RedisServer) -> None:
    [found] = findings(with_broker(home, f"redis://:{QUOTED}@127.0.0.1:{locked_server.port}/0"), 1)

    assert found[0] == "bad"
    assert "refuses the user or password" in found[1]
    assert MARK not in found[1]


def test_the_doctor_names_the_workers_that_answer(desk: Desk, settings: Settings) -> None:
    with working(desk):
        label, train = findings(settings, 5)[3:]

    assert label == ("ok", "label workers: label-1@tests")
    assert train == ("warn", "train workers: none answers; start one: sortline worker --queues train")
