"""TLS to Redis: the server must prove its name by the CA that was named, for redis-py and for Celery alike."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trustme

from base.errors import UnavailableError
from configs.settings import Settings
from jobs.app import make_app
from jobs.broker import check_broker, connect
from jobs.errors import BrokerAway
from jobs.label import LabelChunk
from jobs.sentinel import Primary
from producer.run.enqueue import ChunkSender
from tests.broker.conftest import KEYS, Desk, NewProducer, labelled, plan_of, working
from tests.canaries import secret
from tests.conftest import RedisServer
from tests.sentinels import watched_redis

Proxied = Callable[[trustme.LeafCert], int]


class TlsProxy:
    """Speaks TLS on a port of its own and hands the bytes on: the wheel's server is built without TLS."""

    def __init__(self, certificate: trustme.LeafCert, port: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), ExitStack() as stack:
            client = stack.enter_context(self._context.wrap_socket(plain, server_side=True))
            server = stack.enter_context(socket.create_connection(("127.0.0.1", self._target)))
            # One direction in a thread of its own; a TLS socket can be read and written at once.
            threading.Thread(target=_copy, args=(server, client), daemon=True).start()
            _copy(client, server)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxied(redis_server: RedisServer) -> Iterator[Proxied]:
    """Starts a TLS side of the server with a certificate; gives its port."""
    with ExitStack() as stack:

        def start(certificate: trustme.LeafCert) -> int:
            return stack.enter_context(contextlib.closing(TlsProxy(certificate, redis_server.port))).port

        yield start


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    return ca


@contextmanager
def quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr("redis.retry.sleep", lambda _: None)
        patch.setattr("kombu.utils.functional.sleep", lambda _: None)
        yield


def over_tls(settings: Settings, port: int, ca: Path, host: str = "localhost") -> Settings:
    return settings.model_copy(update={"broker": f"rediss://:{secret('redis')}@{host}:{port}/0", "broker_ca": ca})


def test_a_server_that_proves_its_name_is_used_by_both_sides(
    settings: Settings, proxied: Proxied, authority: trustme.CA, tmp_path: Path, new_producer: NewProducer
) -> None:
    secure = over_tls(settings, proxied(authority.issue_cert("localhost")), tmp_path / "ca.pem")
    desk = Desk(secure)
    producer = new_producer(8, broker=secure.broker, broker_ca=secure.broker_ca)

    with connect(secure) as client:
        assert check_broker(client, secure)
    with working(desk):
        producer.finish()

    assert len(labelled(producer.run)) == 8
    desk.mean.close()
    desk.client.close()


def test_sentinels_and_the_primary_that_they_name_prove_their_names(
    settings: Settings, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The Sentinels are plain behind their proxies, and so name the plain primary.
    with watched_redis() as watched, ExitStack() as stack:
        certificate = authority.issue_cert("localhost")
        ports = [
            stack.enter_context(contextlib.closing(TlsProxy(certificate, port))).port
            for port in (*(place.port for place in watched.places), watched.primary.port)
        ]
        address = Primary.address
        monkeypatch.setattr(Primary, "address", lambda self: address(self) and ("localhost", ports[-1]))
        hosts = ",".join(f"localhost:{port}" for port in ports[:-1])
        url = f"rediss+sentinel://{watched.url.removeprefix('sentinel://').split('@')[0]}@{hosts}"
        url += f"?{watched.url.split('?')[1]}"
        secure = settings.model_copy(update={"broker": url, "broker_ca": tmp_path / "ca.pem"})
        with connect(secure) as client:
            assert check_broker(client, secure)
            ChunkSender(make_app(secure), plan_of(secure)).send(0, ["a.png"])
            assert client.llen(KEYS.queue(LabelChunk.queue)) == 1
        trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
        with connect(secure) as client, pytest.raises(BrokerAway, match="CERTIFICATE_VERIFY_FAILED"):
            check_broker(client, secure)


def refuse(settings: Settings, match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither redis-py nor Celery may send anything to this server."""
    with quickly(monkeypatch), pytest.raises(BrokerAway, match=match), connect(settings) as client:
        check_broker(client, settings)
    app: Any = make_app(settings)
    app.conf.broker_transport_options = {**app.conf.broker_transport_options, "max_retries": 0}
    with quickly(monkeypatch), pytest.raises(UnavailableError, match=match):
        ChunkSender(app, plan_of(settings)).send(0, ["a.png"])
    app.pool.force_close_all()


def test_a_server_of_another_authority_is_refused(
    settings: Settings, proxied: Proxied, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = proxied(trustme.CA().issue_cert("localhost"))

    refuse(over_tls(settings, port, tmp_path / "ca.pem"), "CERTIFICATE_VERIFY_FAILED", monkeypatch)


def test_a_server_of_another_name_is_refused(
    settings: Settings, proxied: Proxied, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = proxied(authority.issue_cert("queue.example"))

    refuse(over_tls(settings, port, tmp_path / "ca.pem"), "CERTIFICATE_VERIFY_FAILED|not valid for", monkeypatch)


def test_a_server_whose_certificate_has_run_out_is_refused(
    settings: Settings, proxied: Proxied, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ago = datetime.now(timezone.utc) - timedelta(days=2)
    port = proxied(authority.issue_cert("localhost", not_before=long_ago, not_after=long_ago + timedelta(days=1)))

    refuse(over_tls(settings, port, tmp_path / "ca.pem"), "certificate has expired", monkeypatch)
