"""Redis behind Sentinels: each connection asks them anew where the primary is, so it finds the one after a failover."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

SENTINEL_TIMEOUT_S = 2.0  # then the next one is asked


class NoPrimary(redis.ConnectionError):
    """No Sentinel names a primary. For redis-py, kombu and Celery Redis is away."""


class Primary:
    """What a connection asks for an address, each time it connects.

    redis-py's own class asks the first Sentinel that answers, always, even one that was cut off from the others and
    still names the old primary.
    """

    def __init__(self, sentinels: Sequence[tuple[str, int]], name: str, options: dict[str, Any]) -> None:
        times = {"socket_timeout": SENTINEL_TIMEOUT_S, "socket_connect_timeout": SENTINEL_TIMEOUT_S}
        self.service_name = name
        self._sentinels = deque(
            (
                f"{host}:{port}",
                redis.Redis(
                    host=host, port=port, decode_responses=True, retry=Retry(NoBackoff(), 0), **times, **options
                ),
            )
            for host, port in sentinels
        )

    def address(self) -> tuple[str, int]:
        """Return host and port of the primary; NoPrimary when no Sentinel knows it."""
        faults = []
        for place, address, fault in self.answers():
            if address is not None:
                return address
            faults.append(f"{place} {fault}")
        raise NoPrimary(f"no Sentinel names a primary: {'; '.join(faults)}")

    def answers(self) -> Iterator[tuple[str, tuple[str, int] | None, str]]:
        """Yield each Sentinel, the primary that it names, or else why it does not. Every call begins with another."""
        for _ in range(len(self._sentinels)):
            place, client = self._sentinels[0]
            self._sentinels.rotate(-1)
            try:
                address = client.sentinel_get_master_addr_by_name(self.service_name)
            except redis.AuthenticationError:
                yield place, None, "asks for a password of its own: give sentinel_password in the URL"
            except redis.ResponseError as error:
                yield place, None, f"is no Sentinel, or refuses to say ({error})"
            except redis.RedisError as error:
                yield place, None, f"does not answer ({error})"
            else:
                yield place, address, "" if address else f"knows no primary named {self.service_name!r}"

    def close(self) -> None:
        for _, client in self._sentinels:
            client.close()


class ToPrimary(redis.Connection):
    """A connection to the primary of the moment.

    redis-py's ``SentinelManagedConnection`` asks Sentinels when it is taken from its pool, not when it connects again
    in the midst of a command. So it went on to ask the old primary, which was a replica by then, for ever.
    """

    def __init__(self, *, primary: Primary, **options: Any) -> None:
        self._primary = primary
        super().__init__(**options)

    def _connect(self) -> Any:
        self.host, self.port = self._primary.address()
        return super()._connect()


class ToPrimaryByTLS(ToPrimary, redis.SSLConnection):
    """The same, encrypted."""
