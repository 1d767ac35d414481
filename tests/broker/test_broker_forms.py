"""Every form of a broker's URL leads redis-py, Celery and Flower to the same database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from base.broker_url import unix_url
from configs import environment_of
from configs.settings import Settings
from jobs.app import make_app
from jobs.broker import check_broker, connect
from jobs.label import LabelChunk
from producer.run.enqueue import ChunkSender
from tests.broker.conftest import KEYS, plan_of
from tests.canaries import as_id, secret
from tests.conftest import RedisServer, running_redis

PASSWORD = secret("redis")


@pytest.fixture
def socket_server(tmp_path: Path, home: Path) -> Iterator[RedisServer]:
    """A Redis with a password, on a port and on a unix socket whose path means something else in a URL."""
    (home / "C# 50%41?").mkdir()
    socket = home / "C# 50%41?" / "r;ä.sock"
    with running_redis(tmp_path / "socket", PASSWORD, "--unixsocket", str(socket)) as server:
        yield server


def flowers_length(settings: Settings) -> int:
    """The length of the label queue on Flower's page of the broker."""
    program = (
        "import asyncio; from jobs.monitored import app, broker; connection = app.connection();"
        "uri = connection.as_uri(include_password=True);"
        "flower = broker.Broker(uri, broker_options=connection.transport_options);"
        f"print(asyncio.run(flower.queues(['{LabelChunk.queue}']))[0]['messages'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment_of(settings)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize(
    ("form", "db"),
    [
        (f"redis://:{PASSWORD}@127.0.0.1:PORT", 0),
        (f"redis://default:{PASSWORD}@localhost:PORT/2/?health_check_interval=30&socket_timeout=5", 2),
        (f"redis://127.0.0.1:PORT/1?db=3&password={PASSWORD}&client_name=a&max_connections=20", 3),
        (f"unix://:{PASSWORD}@SOCKET", 0),
        (f"unix://default:{PASSWORD}@SOCKET?db=4&socket_connect_timeout=5", 4),
        (f"unix://SOCKET?username=default&password={PASSWORD}&db=5", 5),
    ],
    ids=as_id,
)
def test_a_chunk_goes_where_the_client_looks(
    form: str, db: int, socket_server: RedisServer, settings: Settings
) -> None:
    socket = unix_url(Path(socket_server.arguments[1])).removeprefix("unix://")
    url = form.replace("PORT", str(socket_server.port)).replace("SOCKET", socket)
    there = settings.model_copy(update={"broker": url})
    app: Any = make_app(there)
    sender = ChunkSender(app, plan_of(there))

    sender.send(0, ["a.png"])
    sender.close()

    with connect(there) as client, socket_server.client() as direct:
        assert check_broker(client, there)
        direct.select(db)
        assert client.llen(KEYS.queue(LabelChunk.queue)) == direct.llen(KEYS.queue(LabelChunk.queue)) == 1
        assert flowers_length(there) == 1
    assert PASSWORD not in f"{app.conf.broker_url} {app.connection().info()['hostname']} {app.connection().as_uri()}"
