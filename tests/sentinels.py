"""Two real Redis servers watched by three real Sentinels, which fail over after half a second."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import redis

from producer.local.stack import find_redis_server
from tests import canaries
from tests.conftest import RedisServer, free_port, wait_until

NAME = "queue"
PASSWORD, SENTINELS_PASSWORD = canaries.secret("redis"), canaries.secret("sentinels")
FAST = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")


@dataclass
class Place:
    """Where a Sentinel is; ``wrap`` are the words before its command, as for a network namespace."""

    address: str = "127.0.0.1"
    wrap: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)

    def client(self) -> redis.Redis:
        return redis.Redis(self.address, self.port, password=SENTINELS_PASSWORD, decode_responses=True)


@dataclass
class Watched:
    """``servers``: the first is the primary at the start, and the second its replica."""

    servers: Sequence[RedisServer]
    places: Sequence[Place]

    @property
    def url(self) -> str:
        """The broker's URL."""
        hosts = ",".join(f"{place.address}:{place.port}" for place in self.places)
        return f"sentinel://:{PASSWORD}@{hosts}/0?master_name={NAME}&sentinel_password={SENTINELS_PASSWORD}"

    @property
    def primary(self) -> RedisServer:
        """The server that the Sentinels name now."""
        with self.places[0].client() as sentinel:
            address, port = sentinel.sentinel_get_master_addr_by_name(NAME)
        return next(server for server in self.servers if (server.address, server.port) == (address, port))

    def fail_over(self, limit_s: float = 60) -> RedisServer:
        """Kill the primary, wait until the other server is it, and return the killed one."""
        killed = self.primary
        killed.kill()
        wait_until(lambda: self.primary is not killed and is_role(self.primary, "master"), limit_s, "a failover")
        return killed

    def await_replica(self, server: RedisServer, limit_s: float = 60) -> None:
        """Wait until a server that was the primary, and was started again as such, follows the new one: about 10 s."""
        wait_until(lambda: is_role(server, "slave", master_link_status="up"), limit_s, "a replica")


@contextmanager
def watched_redis(places: Sequence[Place] | None = None, *arguments: str) -> Iterator[Watched]:
    """Servers at the first two places and a Sentinel at each, all on this host unless given.

    In a folder of their own: a Sentinel writes the password of Redis into its file.
    """
    places = [Place(), Place(), Place()] if places is None else places
    with tempfile.TemporaryDirectory(prefix="sl-sentinel-") as name:
        folder = Path(name)
        servers = [_server(folder, place, arguments) for place in places[:2]]
        watched, sentinels = Watched(servers, places), []
        first, second = servers
        try:
            first.start()
            second.arguments += ["--replicaof", f"{first.address} {first.port}"]
            second.start()
            wait_until(lambda: is_role(second, "slave", master_link_status="up"), 30, "a replica")
            del second.arguments[-2:]  # started again, it waits for what Sentinels say
            sentinels += [_sentinel(folder, first, place) for place in places]
            for place in places:
                wait_until(partial(_knows_all, place, len(places)), 30, "Sentinels that know each other")
            yield watched
        finally:
            for sentinel in sentinels:
                sentinel.kill()
                sentinel.wait()
            for log in sorted(folder.glob("sentinel-*.log")):  # shown when the test fails
                print(f"--- {log.name}\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")
            for server in servers:
                if server.process is not None:
                    server.kill()


def is_role(server: RedisServer, role: str, **more: Any) -> bool:
    """Whether a server answers that it is a ``master`` or ``slave``, and has these values besides."""
    with suppress(redis.RedisError), server.client() as client:
        found = client.info("replication")
        return all(found.get(name) == value for name, value in {"role": role, **more}.items())
    return False


def _server(folder: Path, place: Place, arguments: Sequence[str]) -> RedisServer:
    port = free_port()
    (own := folder / f"redis-{port}").mkdir()
    return RedisServer(
        own, port, password=PASSWORD, arguments=[*FAST, *arguments], address=place.address, wrap=place.wrap
    )


def _sentinel(folder: Path, first: RedisServer, place: Place) -> subprocess.Popen[bytes]:
    file = folder / f"sentinel-{place.port}.conf"
    file.write_text(
        f"port {place.port}\nbind {place.address}\ndir {folder}\nrequirepass {SENTINELS_PASSWORD}\n"
        f"sentinel sentinel-pass {SENTINELS_PASSWORD}\n"
        f"sentinel monitor {NAME} {first.address} {first.port} 2\n"
        f"sentinel auth-pass {NAME} {PASSWORD}\n"
        f"sentinel down-after-milliseconds {NAME} 500\nsentinel failover-timeout {NAME} 2000\n"
    )
    with (folder / f"sentinel-{place.port}.log").open("ab") as log:
        command = [*place.wrap, str(find_redis_server()), str(file), "--sentinel"]
        return subprocess.Popen(command, stdout=log, stderr=log)


def _knows_all(place: Place, count: int) -> bool:
    with suppress(redis.RedisError), place.client() as sentinel:
        state = sentinel.sentinel_masters()[NAME]
        return bool(state["num-other-sentinels"] == count - 1 and state["num-slaves"] == 1)
    return False
