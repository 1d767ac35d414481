"""Two real Redis servers watched by three real Sentinels, which fail over after half a second."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import redis

from producer.local.stack import find_redis_server
from tests import canaries
from tests.conftest import RedisServer, free_port, wait_until

NAME = "queue"
PASSWORD, SENTINELS_PASSWORD = canaries.secret("redis"), canaries.secret("sentinels")
COUNT = 3


@dataclass
class Watched:
    """``servers``: the first is the primary at the start, and the second its replica."""

    servers: tuple[RedisServer, RedisServer]
    ports: tuple[int, ...]
    address: str

    @property
    def url(self) -> str:
        """The broker's URL."""
        hosts = ",".join(f"{self.address}:{port}" for port in self.ports)
        return f"sentinel://:{PASSWORD}@{hosts}/0?master_name={NAME}&sentinel_password={SENTINELS_PASSWORD}"

    @property
    def primary(self) -> RedisServer:
        """The server that the Sentinels name now."""
        with redis.Redis(self.address, self.ports[0], password=SENTINELS_PASSWORD, decode_responses=True) as sentinel:
            _, port = sentinel.sentinel_get_master_addr_by_name(NAME)
        return next(server for server in self.servers if server.port == port)

    def fail_over(self, limit_s: float = 60) -> RedisServer:
        """Kill the primary, wait until the other server is it, and return the killed one."""
        killed = self.primary
        killed.kill()
        wait_until(lambda: self.primary is not killed and _role(self.primary) == "master", limit_s, "a failover")
        return killed

    def bring_back(self, server: RedisServer, limit_s: float = 60) -> None:
        """Start a server that was the primary once; wait until it follows the new one, which takes about 10 s."""
        server.start()
        wait_until(lambda: _role(server) == "slave" and self._follows(server), limit_s, "a replica")

    def _follows(self, server: RedisServer) -> bool:
        with server.client() as client:
            return str(client.info("replication").get("master_link_status")) == "up"


@contextmanager
def watched_redis(address: str = "127.0.0.1", wrap: tuple[str, ...] = ()) -> Iterator[Watched]:
    """Servers and Sentinels in a folder of their own: a Sentinel writes the password of Redis into its file.

    ``wrap`` are the words before each command, as for a network namespace.
    """
    with tempfile.TemporaryDirectory(prefix="sl-sentinel-") as name:
        folder = Path(name)
        servers = tuple(_server(folder / f"redis-{number}", address, wrap) for number in (1, 2))
        servers[1].arguments += ["--replicaof", f"{address} {servers[0].port}"]
        watched = Watched(servers, tuple(free_port() for _ in range(COUNT)), address)  # type: ignore[arg-type]
        sentinels = []
        try:
            for server in servers:
                server.start()
            wait_until(lambda: watched._follows(servers[1]), 30, "a replica")
            del servers[1].arguments[-2:]  # started again, it waits for what Sentinels say
            sentinels += [_sentinel(folder, watched, port, wrap) for port in watched.ports]
            for port in watched.ports:
                wait_until(partial(_knows_all, address, port), 30, "Sentinels that know each other")
            yield watched
        finally:
            for sentinel in sentinels:
                sentinel.kill()
                sentinel.wait()
            for server in servers:
                if server.process is not None:
                    server.kill()


def _server(folder: Path, address: str, wrap: tuple[str, ...]) -> RedisServer:
    folder.mkdir()
    fast = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
    return RedisServer(folder, free_port(), password=PASSWORD, arguments=fast, address=address, wrap=wrap)


def _sentinel(folder: Path, watched: Watched, port: int, wrap: tuple[str, ...]) -> subprocess.Popen[bytes]:
    file = folder / f"sentinel-{port}.conf"
    file.write_text(
        f"port {port}\nbind {watched.address}\ndir {folder}\nrequirepass {SENTINELS_PASSWORD}\n"
        f"sentinel sentinel-pass {SENTINELS_PASSWORD}\n"
        f"sentinel monitor {NAME} {watched.address} {watched.servers[0].port} 2\n"
        f"sentinel auth-pass {NAME} {PASSWORD}\n"
        f"sentinel down-after-milliseconds {NAME} 500\nsentinel failover-timeout {NAME} 2000\n"
    )
    with (folder / f"sentinel-{port}.log").open("ab") as log:
        command = [*wrap, str(find_redis_server()), str(file), "--sentinel"]
        return subprocess.Popen(command, stdout=log, stderr=log)


def _knows_all(address: str, port: int) -> bool:
    with suppress(redis.RedisError), redis.Redis(address, port, password=SENTINELS_PASSWORD) as sentinel:
        state = sentinel.sentinel_masters()[NAME]
        return bool(state["num-other-sentinels"] == COUNT - 1 and state["num-slaves"] == 1)
    return False


def _role(server: RedisServer) -> str:
    with suppress(redis.RedisError), server.client() as client:
        return str(client.info("replication")["role"])
    return ""
