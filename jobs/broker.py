"""The Redis connection that producer and worker share: URL, client, key names."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import redis
from redis.backoff import ExponentialBackoff
from redis.connection import DefaultParser
from redis.retry import Retry

from base.broker_url import BrokerUrl, masked_url, parse_broker_url, written_passwords
from configs import Settings
from jobs.errors import BrokerAway, BrokerError, BrokerFull
from jobs.sentinel import NoPrimary, Primary, ToPrimary, ToPrimaryByTLS

MINIMUM_REDIS = (6, 2)  # kombu 5.7 sends ZRANGE ... BYSCORE and ZADD GT
LEVELS = (0, 1, 2, 3)  # of a queue's lists: `jobs.fairness` says what is on which
SEPARATOR = ":"  # kombu's own, between a queue and a level, is two control characters
SOCKET_TIMEOUT_S = 10.0  # a half-open connection costs it, one after the other
CONNECT_TIMEOUT_S = 5.0
# Answers of a server that takes no work now, or by which this connection has come to the wrong one.
_CLUSTER = "belongs to a Redis Cluster, which Sortline can't use; give the URL of a single primary"
REFUSALS = {
    "READONLY": "is a read-only replica; give the URL of the primary",
    "UNBLOCKED": "has become a replica",
    "MASTERDOWN": "is a replica whose primary is away; give the URL of the primary",
    "MISCONF": "can't save to its disk and so refuses writes; look at its log and its disk",
    "NOREPLICAS": "has fewer replicas than min-replicas-to-write asks for, and so refuses writes",
    "BUSY": "is busy with somebody's script",
    **dict.fromkeys(("MOVED", "ASK", "TRYAGAIN", "CROSSSLOT", "CLUSTERDOWN"), _CLUSTER),
}


class RefusesWrites(redis.ConnectionError):
    """Redis answers with one of ``REFUSALS``.

    For redis-py, kombu and Celery it is away, so that they leave this connection and make a new one: the same name may
    lead to the new primary by then.
    """

    def __init__(self, text: str, status_code: str | None = None) -> None:
        why = REFUSALS.get(status_code or "")
        super().__init__(f"{why} ({status_code} {text})" if why else text, status_code=status_code)


DefaultParser.EXCEPTION_CLASSES.update(dict.fromkeys(REFUSALS, RefusesWrites))
# What passes: a server that is away, still reads its data from disk, or is full until workers have taken some.
AWAY = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.OutOfMemoryError,
)
SHORTEST_HIDDEN = 4  # a shorter password stands in half the words of a log


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

    def holder(self, run: str) -> str:
        """Who gathers a run; expires with its producer."""
        return f"{self.prefix}holder:{run}"

    @property
    def nothing(self) -> str:
        """A key that never is: whether it may be deleted shows whether Redis takes writes."""
        return f"{self.prefix}nothing"

    @property
    def jobs(self) -> str:
        """Sorted set of job names by creation time."""
        return f"{self.prefix}jobs"

    def attempts(self, run: str) -> str:
        """Hash of a run: how many workers began each chunk (by its first index) and have not ended it."""
        return f"{self.prefix}attempts:{run}"

    def labelled(self, run: str) -> str:
        """Hash of a run: images of each chunk that workers have labelled, by its first index; and when the newest."""
        return f"{self.prefix}labelled:{run}"

    @property
    def newest(self) -> str:
        """When the newest rows of any run came, in seconds since 1970."""
        return f"{self.prefix}newest"

    @property
    def refusals(self) -> str:
        """Hash: why label workers put chunks back, by their names; until they send rows again."""
        return f"{self.prefix}refusals"

    def inputs(self, job: str) -> str:
        """List of compressed path lists of a detached run."""
        return f"{self.prefix}inputs:{job}"

    def queue(self, name: str, level: int = 0) -> str:
        """List in which kombu keeps the messages of a queue that have this level."""
        return f"{self.prefix}{name}{SEPARATOR}{level}" if level else f"{self.prefix}{name}"

    def queues(self, name: str) -> list[str]:
        """All lists of a queue, in the order in which workers look into them."""
        return [self.queue(name, level) for level in LEVELS]

    def waiting(self, run: str) -> str:
        """List of the chunks of a detached run that are not queued yet."""
        return f"{self.prefix}waiting:{run}"

    @property
    def waiting_runs(self) -> str:
        """Sorted set: the runs that have such a list, by the level of their chunks."""
        return f"{self.prefix}waiting"

    @property
    def unacked(self) -> str:
        """Hash of messages that workers hold."""
        return f"{self.prefix}unacked"

    @property
    def unacked_index(self) -> str:
        """Sorted set: when each held message was fetched, or its lease last renewed, by `redis_now`."""
        return f"{self.prefix}unacked_index"


def broker_url(settings: Settings) -> BrokerUrl:
    """Return the configured broker; BrokerError when there is none or its TLS could not be verified."""
    if settings.broker is None:
        raise BrokerError("no broker: pass --broker redis://HOST:6379/0 or set SORTLINE_BROKER")
    url = parse_broker_url(settings.broker)
    if url.is_tls and settings.broker_ca is None and "ssl_ca_certs" not in url.tls_files:
        # Without a CA kombu would connect with CERT_NONE and only log it.
        raise BrokerError("a rediss:// broker needs SORTLINE_BROKER_CA=/path/to/ca.pem, so that the server is verified")
    return url


def celery_options(settings: Settings) -> dict[str, Any]:
    """Return Celery's settings of the connection. User and password are not in the URL, which logs and Flower show."""
    url = broker_url(settings)
    if url.path:
        place = f"redis+socket://{quote(os.fsencode(url.path))}?virtual_host={url.db}"
    else:
        # Of Sentinels only one: Celery would go from URL to URL, and lose user and password.
        scheme, (host, port) = ("sentinel", url.sentinels[0]) if url.sentinels else ("redis", (url.host, url.port))
        scheme = "rediss" if url.is_tls and not url.sentinels else scheme
        place = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/{url.db}"
    return {
        "broker_url": place,
        "broker_user": url.username,
        "broker_password": url.password,
        "broker_use_ssl": tls_options(settings),
    }


def connection_options(settings: Settings) -> dict[str, Any]:
    """Return the arguments of a connection that redis-py and kombu have in common, but for where and who."""
    times = {"socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": CONNECT_TIMEOUT_S, "socket_keepalive": True}
    return times | broker_url(settings).options


def sentinel_options(settings: Settings) -> dict[str, Any]:
    """Return kombu's options of a broker behind Sentinels; none for another."""
    url = broker_url(settings)
    if not url.sentinels:
        return {}
    who = {"username": url.sentinel_username, "password": url.sentinel_password}
    tls = {"ssl": True, **(tls_options(settings) or {})} if url.is_tls else {}
    return {"sentinels": list(url.sentinels), "master_name": url.master_name, "sentinel_kwargs": {**who, **tls}}


def primary_of(settings: Settings) -> Primary | None:
    """Return what asks the Sentinels of this broker; None where it has none."""
    options = sentinel_options(settings)
    return Primary(options["sentinels"], options["master_name"], options["sentinel_kwargs"]) if options else None


def tls_options(settings: Settings) -> dict[str, Any] | None:
    """Return redis-py's TLS arguments that force verification, or None for a plain connection."""
    url = broker_url(settings)
    if not url.is_tls:
        return None
    verified = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    return {**verified, "ssl_ca_certs": str(settings.broker_ca), **url.tls_files}


def connect(settings: Settings) -> redis.Redis:
    """Return a client; nothing is sent yet. Commands give up after 10 s and are retried three times."""
    url = broker_url(settings)
    common: dict[str, Any] = {
        "db": url.db,
        "username": url.username,
        "password": url.password,
        "retry": Retry(ExponentialBackoff(cap=1.0, base=0.05), 3),
        "decode_responses": True,
        "encoding_errors": "replace",  # what is no text is none of ours: it fails the check of whoever reads it
        **connection_options(settings),
        **(tls_options(settings) or {}),
    }
    if (primary := primary_of(settings)) is None:
        where = {"host": url.host, "port": url.port, "unix_socket_path": url.path or None, "ssl": url.is_tls}
        return redis.Redis(**where, **common)
    kind = ToPrimaryByTLS if url.is_tls else ToPrimary
    return redis.Redis.from_pool(redis.ConnectionPool(connection_class=kind, primary=primary, **common))


def check_broker(client: redis.Redis, settings: Settings) -> str:
    """Return the server's version after two round trips; BrokerError says what keeps it from being used."""
    where = masked_url(settings.broker or "")
    try:
        server = client.info("server")
        if (mode := server.get("redis_mode") or server.get("server_mode", "standalone")) != "standalone":  # Valkey's
            advice = "sentinel://HOST:PORT?master_name=NAME" if mode == "sentinel" else "the URL of one primary"
            raise BrokerError(f"{where} is a Redis in {mode} mode, which Sortline can't use so; give {advice}")
        client.delete(Keys(settings.key_prefix).nothing)
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        if not broker_url(settings).password:
            raise BrokerError(
                f"{where} asks for a password, and the URL has none: put redis://:PASSWORD@HOST:PORT, or "
                "unix://:PASSWORD@/PATH, into SORTLINE_BROKER"
            ) from error
        raise BrokerError(f"{where} refuses the user or password: {error}. Check SORTLINE_BROKER") from error
    except RefusesWrites as error:
        raise BrokerAway(f"Redis at {where} {error}") from error
    except NoPrimary as error:
        raise BrokerAway(f"{where}: {error}") from error
    except redis.RedisError as error:
        raise BrokerAway(f"can't reach Redis at {where}: {error}; start it, or correct the address") from error
    version = str(server["redis_version"])
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < MINIMUM_REDIS:
        raise BrokerError(f"{where} runs Redis {version}; Sortline needs 6.2 or later")
    return version


def redis_fault(error: Exception) -> str | None:
    """Return what is wrong with Redis, as a sentence, where that is why ``error`` was raised; else None."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and isinstance(cause, Exception):
        causes.append(cause)
    found = next((cause for cause in causes if isinstance(cause, redis.RedisError | BrokerFull)), None)
    if found is None:
        return None
    if isinstance(found, BrokerFull):
        return str(found)
    if isinstance(found, RefusesWrites):
        return f"Redis {found}"
    if str(found).startswith("WRONGTYPE"):
        return f"Redis has a key of another type where one of Sortline's would be: delete it ({found})"
    return f"Redis can't be {'reached' if isinstance(found, AWAY) else 'used'}: {found}"


def redis_now(client: redis.Redis) -> float:
    """Return the seconds since 1970 by the clock of Redis, the one clock that all hosts share."""
    seconds, microseconds = client.time()
    return float(seconds) + float(microseconds) / 1e6


def passwords(settings: Settings) -> frozenset[str]:
    """Return the broker's password as the URL spells it and as it is, for whoever must keep it out of a text."""
    spelled = written_passwords(settings.broker or "")
    return frozenset(form for text in spelled for form in (text, unquote(text)) if len(form) >= SHORTEST_HIDDEN)
