"""The Redis connection that producer and worker share: URL, client, key names."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from configs import Settings
from jobs.errors import BrokerAway, BrokerError

MINIMUM_REDIS = (6, 2)  # kombu 5.7 sends ZRANGE ... BYSCORE and ZADD GT
SOCKET_TIMEOUT_S = 10.0  # a half-open connection costs it, one after the other
CONNECT_TIMEOUT_S = 5.0
# What passes: a server that is away, still reads its data from disk, or is full until workers have taken some.
AWAY = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.OutOfMemoryError,
)
SHORTEST_HIDDEN = 4  # a shorter password stands in half the words of a log
_IN_USER = re.compile(r"://[^:/@]*:(.*)@")  # to the last @: a password may hold one
_IN_QUERY = re.compile(r"[?&]password=([^&]*)")


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of the keys that are ours (kombu's own get the same prefix)."""

    prefix: str

    def results(self, job: str) -> str:
        """Stream of ChunkResult or JobEvent messages of one job."""
        return f"{self.prefix}results:{job}"

    def job(self, job: str) -> str:
        """Hash with the state of one job."""
        return f"{self.prefix}job:{job}"

    @property
    def jobs(self) -> str:
        """Sorted set of job names by creation time."""
        return f"{self.prefix}jobs"

    def attempts(self, run: str) -> str:
        """Hash of a run: how many workers began each chunk (by its first index) and have not ended it."""
        return f"{self.prefix}attempts:{run}"

    def inputs(self, job: str) -> str:
        """List of compressed path lists of a detached run."""
        return f"{self.prefix}inputs:{job}"

    def queue(self, name: str) -> str:
        """List in which kombu keeps a queue."""
        return f"{self.prefix}{name}"

    @property
    def unacked(self) -> str:
        """Hash of messages that workers hold."""
        return f"{self.prefix}unacked"

    @property
    def unacked_index(self) -> str:
        """Sorted set: when each held message was fetched, or its lease last renewed, by `redis_now`."""
        return f"{self.prefix}unacked_index"


def broker_url(settings: Settings) -> str:
    """Return the configured URL; BrokerError when there is none or its TLS could not be verified."""
    if settings.broker is None:
        raise BrokerError("no broker: pass --broker redis://HOST:6379/0 or set SORTLINE_BROKER")
    if settings.broker.startswith("rediss://") and settings.broker_ca is None:
        # Without a CA kombu would connect with CERT_NONE and only log it.
        raise BrokerError("a rediss:// broker needs SORTLINE_BROKER_CA=/path/to/ca.pem, so that the server is verified")
    return settings.broker


def celery_broker_url(settings: Settings) -> str:
    """Return the URL in kombu's spelling: ``unix:///path`` is ``redis+socket:///path`` there."""
    url = broker_url(settings)
    if url.startswith("unix://"):
        return f"redis+socket://{urlsplit(url).path}?virtual_host=0"
    return url


def tls_options(settings: Settings) -> dict[str, Any] | None:
    """Return redis-py's TLS arguments that force verification, or None for a plain connection."""
    if not broker_url(settings).startswith("rediss://"):
        return None
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": str(settings.broker_ca), "ssl_check_hostname": True}


def connect(settings: Settings) -> redis.Redis:
    """Return a client; nothing is sent yet. Commands give up after 10 s and are retried three times."""
    options: dict[str, Any] = {
        "socket_timeout": SOCKET_TIMEOUT_S,
        "retry": Retry(ExponentialBackoff(cap=1.0, base=0.05), 3),
        "decode_responses": True,
    }
    url = broker_url(settings)
    if not url.startswith("unix://"):
        options |= {"socket_connect_timeout": CONNECT_TIMEOUT_S, "socket_keepalive": True}
    client: redis.Redis = redis.Redis.from_url(url, **options, **(tls_options(settings) or {}))
    return client


def check_broker(client: redis.Redis, settings: Settings) -> str:
    """Return the server's version after one round trip; BrokerError says what keeps it from being used."""
    where = masked_url(broker_url(settings))
    try:
        version = str(client.info("server")["redis_version"])
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise BrokerError(f"{where} refuses the user or password: {error}. Check SORTLINE_BROKER") from error
    except redis.RedisError as error:
        raise BrokerAway(f"can't reach Redis at {where}: {error}; start it, or correct the address") from error
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < MINIMUM_REDIS:
        raise BrokerError(f"{where} runs Redis {version}; Sortline needs 6.2 or later")
    return version


def redis_now(client: redis.Redis) -> float:
    """Return the seconds since 1970 by the clock of Redis, the one clock that all hosts share."""
    seconds, microseconds = client.time()
    return float(seconds) + float(microseconds) / 1e6


def passwords(settings: Settings) -> frozenset[str]:
    """Return the broker's password as the URL spells it and as it is, for whoever must keep it out of a text."""
    url = settings.broker or ""
    spelled = [match.group(1) for match in (_IN_USER.search(url), _IN_QUERY.search(url)) if match]
    return frozenset(form for text in spelled for form in (text, unquote(text)) if len(form) >= SHORTEST_HIDDEN)


def masked_url(url: str) -> str:
    """Return ``url`` without its password, wherever redis-py would take one from."""
    url = re.sub(r"([?&]password=)[^&]*", r"\1***", url)  # first: it may hold an @ as well
    return re.sub(r"(://[^:/@]*:).*@", r"\1***@", url)  # to the last @: a password may hold one
