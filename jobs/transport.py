"""kombu's Redis transport, made to outlive queue entries that are no messages of ours.

kombu pops an entry and trusts its structure: any other ends the worker, and a compressed body is unpacked whole before
any limit of ours. It also takes from each host's clock for how long a message has been unacknowledged, so that a worker
whose clock is fast takes the work of all others: here the clock of Redis counts. Importing this module puts the
checked transport in place of kombu's in this process. A refused entry is gone from the queue; had it been a chunk, the
producer would send it again.
"""

from __future__ import annotations

import logging
import sys
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from queue import Empty
from typing import Annotated, Any, Literal, NoReturn
from urllib.parse import urlsplit

import redis
from kombu import compression
from kombu.exceptions import DecodeError
from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from base.broker_url import socket_path
from jobs.broker import AWAY, LEVELS, redis_now
from jobs.fairness import NEXT, PARKED
from jobs.messages import MAX_MESSAGE_BYTES
from jobs.sentinel import Primary, ToPrimary, ToPrimaryByTLS

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

log = logging.getLogger("sortline.transport")

COMPRESSION = "zstd"
TAKES_A_TURN = 10  # messages between two of which the second is looked for at a later level first
_refusals = count(1)


def _check_base64(text: str) -> str:
    try:
        b64decode(text)
    except Base64Error as error:
        raise ValueError(f"no base64: {error}") from error
    return text


class _Headers(BaseModel):
    # What Celery uses as a key or in a comparison before our own code sees the message.
    model_config = ConfigDict(strict=True)

    task: str = ""
    id: str = ""
    retries: int = 0
    eta: str | None = None
    compression: str | None = None


class _DeliveryInfo(BaseModel):
    model_config = ConfigDict(strict=True)

    exchange: str
    routing_key: str


class _Properties(BaseModel):
    model_config = ConfigDict(strict=True)

    delivery_tag: str
    delivery_info: _DeliveryInfo
    body_encoding: Literal["base64"]
    correlation_id: str | None = None


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True)

    body: Annotated[str, Field(max_length=MAX_MESSAGE_BYTES), AfterValidator(_check_base64)]
    content_type: str = Field(alias="content-type")
    content_encoding: str = Field(alias="content-encoding")
    headers: _Headers
    properties: _Properties


class QoS(kombu_redis.QoS):
    """What was taken and is not acknowledged, since when by the clock of Redis."""

    def append(self, message: Any, delivery_tag: str) -> None:
        unacknowledged = [message._raw, message.delivery_info["exchange"], message.delivery_info["routing_key"]]
        with self.channel.conn_or_acquire() as client:
            pipeline = client.pipeline()
            pipeline.zadd(self.unacked_index_key, {delivery_tag: redis_now(client)})
            pipeline.hset(self.unacked_key, delivery_tag, dumps(unacknowledged))
            pipeline.execute()
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)
        except AWAY as error:
            # The message comes again, to one that finds it done. But Celery says this and goes on, and until its place
            # is free a worker fetches nothing, and so notices nothing of its connections either.
            virtual.QoS.ack(self, delivery_tag)
            log.warning("not acknowledged, comes again: %s", error)

    def restore_visible(self, *_: Any, **__: Any) -> None:
        """Give back to the queues what no worker has renewed the lease of for the visibility timeout.

        kombu goes by its own clock, and takes a lock that only a script can release.
        """
        channel = self.channel
        with channel.conn_or_acquire() as client:
            # One look in half an interval will do, whoever has it; two at once do no harm.
            pause_ms = int(channel.unacked_restore_interval * 500)
            if client.set(self.unacked_mutex_key, 1, nx=True, px=pause_ms):
                overdue = redis_now(client) - channel.visibility_timeout
                for tag in client.zrange(self.unacked_index_key, 0, overdue, byscore=True):
                    self.restore_by_tag(tag, client)

    def restore_by_tag(self, tag: str | bytes, client: Any = None, leftmost: bool = False) -> None:
        try:
            super().restore_by_tag(tag, client, leftmost)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:  # of what it parses
            self._remove_from_indices(tag).execute()
            _refuse(f"unacknowledged, and no message: {error!r:.200}")


class Channel(kombu_redis.Channel):
    """A channel that drops what is no JSON, and keeps its client."""

    priority_steps: tuple[int, ...]
    _takes = 0
    _blocking: redis.Redis | None = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        # kombu makes one for each message, event and acknowledgement, though it holds nothing but the pool: a third of
        # what they cost.
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._blocking is None or self._blocking.connection_pool is not self.pool:
            self._blocking = super()._create_client()
        return self._blocking

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._connparams(asynchronous)
        if "path" in parameters:  # kombu reads all of a unix socket from its URL, where the password must not be
            info = self.connection.client
            path = socket_path(urlsplit(info.hostname).path)
            parameters |= {"path": path, "username": info.userid, "password": info.password}
        return parameters

    QoS = QoS

    def _put(self, queue: str, message: Any, **options: Any) -> None:
        """Put a message onto its queue, before all others if it says so; or onto the list of its run.

        From there workers move it to the queue.
        """
        run, is_next = (message["headers"].pop(name, None) for name in (PARKED, NEXT))
        if run is None and not is_next:
            super()._put(queue, message, **options)
            return
        with self.conn_or_acquire() as client:
            if is_next:
                client.rpush(self._q_for_pri(queue, self._get_message_priority(message, reverse=False)), dumps(message))
                return
            pipeline = client.pipeline()
            pipeline.lpush(f"waiting:{run}", dumps(message))
            pipeline.zadd("waiting", {run: self._get_message_priority(message, reverse=False)})
            pipeline.execute()

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Ask for the next message, of the first level that has one; now and then of a later level first.

        So the runs of that level go on, slowly, while others keep coming.
        """
        self._takes = (self._takes + 1) % (TAKES_A_TURN * len(LEVELS))
        level, between = divmod(self._takes, TAKES_A_TURN)
        first = 0 if between else level
        self.priority_steps = LEVELS[first:] + LEVELS[:first]
        super()._brpop_start(timeout)

    def priority(self, n: int) -> int:
        """Return the level of a message of priority ``n``. kombu takes `priority_steps` to be in order."""
        return min(n, LEVELS[-1])

    def _refresh_binding(self, keys: list[str], args: list[Any], client: Any) -> None:
        """Note that a queue listens to an exchange, for as long as somebody says so again. kombu runs a script here."""
        table, (member, _, lifetime_ms) = keys[0], args
        client.sadd(table, member)
        client.pexpire(table, lifetime_ms)

    def sweep_bindings(self, limit: int = 0) -> int:
        """Do nothing: tables that nobody refreshes go by themselves. kombu runs a script here."""
        return 0

    def get_table(self, exchange: str) -> list[tuple[str, ...]]:
        """Return who listens to ``exchange``, as (routing key, pattern, queue); entries of others are passed over."""
        with self.conn_or_acquire() as client:
            members = client.smembers(self.keyprefix_queue % exchange)
        rows = (tuple(bytes(member).decode(errors="replace").split(self.sep)) for member in members)
        return [row for row in rows if len(row) == 3]

    def _brpop_read(self, **options: Any) -> Any:
        with self._refusing():
            return super()._brpop_read(**options)

    def _receive_one(self, client: Any) -> Any:
        with self._refusing():
            return super()._receive_one(client)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Raise Empty where an entry can't be read."""
        self.connection.handing_on = False
        try:
            yield
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            if self.connection.handing_on:
                raise  # not of the entry: an error of Celery's own
            _refuse(f"no JSON: {error!r:.200}")
            raise Empty from error


class SentinelChannel(Channel):
    """A channel to the primary that Sentinels name. kombu's own would have our checks left out."""

    sentinels: list[tuple[str, int]]
    master_name: str
    sentinel_kwargs: dict[str, Any]
    from_transport_options = (*Channel.from_transport_options, "sentinels", "master_name", "sentinel_kwargs")
    connection_class = ToPrimary
    connection_class_ssl = ToPrimaryByTLS

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        parameters = super()._connparams(asynchronous)
        del parameters["host"], parameters["port"]
        return {**parameters, "primary": Primary(self.sentinels, self.master_name, self.sentinel_kwargs)}


class Transport(kombu_redis.Transport):
    """A transport that hands on only what is built like a message."""

    Channel = Channel
    handing_on = False

    def _deliver(self, message: Any, queue: str) -> None:
        try:
            entry = _Entry.model_validate(message)
        except (ValidationError, RecursionError) as error:
            _refuse(f"{queue}: {error!s:.500}")
            return
        if not entry.headers.task and not queue.endswith("pidbox") and not queue.startswith("celeryev"):
            _refuse(f"{queue}: no task is named")  # Celery would look for one in the body, whatever that is
            return
        self.handing_on = True
        super()._deliver(message, queue)


class SentinelTransport(Transport):
    """The same behind Sentinels."""

    Channel = SentinelChannel


def unpack(data: bytes) -> bytes:
    """Return the content of a zstd frame of at most ``MAX_MESSAGE_BYTES``; DecodeError says what is wrong with it."""
    unpacker = zstd.ZstdDecompressor()
    try:
        text: bytes = unpacker.decompress(data, MAX_MESSAGE_BYTES)
    except zstd.ZstdError as error:
        raise DecodeError(f"no zstd: {error}") from error
    if not unpacker.eof:
        raise DecodeError(f"cut off, or more than {MAX_MESSAGE_BYTES} bytes when unpacked")
    return text


def _refuse_kind(_: bytes) -> NoReturn:
    raise DecodeError(f"messages are packed with {COMPRESSION} or not at all")


def _refuse(why: str) -> None:
    log.error("queue entry refused and dropped, number %d: %s", next(_refusals), why.replace("\n", " "))


for _kind in compression.encoders():
    compression.register(_refuse_kind, _refuse_kind, _kind)
compression.register(zstd.compress, unpack, "application/zstd", aliases=[COMPRESSION])
TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), "jobs.transport:Transport"))
TRANSPORT_ALIASES["sentinel"] = "jobs.transport:SentinelTransport"
