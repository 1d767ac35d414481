"""What ``sortline doctor`` looks at. Each finding says what is so and, when it is not well, what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import redis

from base.broker_url import masked_url
from base.errors import UnavailableError
from base.text import duration, printable
from configs import Settings
from jobs import BrokerError, LabelChunk, check_broker, connect, look_at_label_queue, primary_of, reasons
from model_store import ModelStore, StoreError
from producer.errors import ProducerError
from producer.local.disk import sizes
from producer.local.session import open_session
from producer.local.stack import find_redis_server, is_answering, shared_stack_socket
from storage import ExtraMissing, open_folder

SHORT_OF_DISK = 0.05  # of it, free


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    mark: Literal["ok", "warn", "bad"]
    text: str
    is_broker: bool = False


def check_all(settings: Settings) -> Iterator[Finding]:
    """Yield findings: broker, workers, engines and devices, data root, store."""
    yield from _check_broker(settings)
    yield from _check_engines()
    if isinstance(settings.data_root, str):
        yield _check_url(settings.data_root)
    elif settings.data_root is not None:
        there = settings.data_root.is_dir() and os.access(settings.data_root, os.R_OK | os.X_OK)
        yield Finding(
            "ok" if there else "bad",
            f"data root {settings.data_root}" + ("" if there else " can't be read: is it mounted?"),
        )
    yield _check_disk(settings)
    yield from _check_store(settings)


def _check_disk(settings: Settings) -> Finding:
    parts = sizes(settings)
    listed = ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in parts.items()) or "nothing yet"
    home = next(folder for folder in (settings.home, *settings.home.absolute().parents) if folder.exists())
    disk = shutil.disk_usage(home)
    text = f"disk of {settings.home}: {disk.free / 1e9:,.1f} GB free; {listed}"
    advice = "; sortline clean --dry-run says what may go" if parts else ""
    return Finding("warn" if disk.free < disk.total * SHORT_OF_DISK else "ok", text + advice)


def check_standstill(settings: Settings, limit_s: float) -> Finding:
    """Return whether label chunks have been there for ``limit_s`` without a row of any run, and why.

    Raises:
        UsageError, BrokerUnreachable: there is no broker, or it can't be used.
    """
    with open_session(settings, start=False) as session:
        found = look_at_label_queue(session.client, session.keys)
        queued = f"{found.waiting} chunks are queued, {found.held} are with workers"
        if not found.is_full and (found.still_s < limit_s or not found.waiting + found.held):
            return Finding("ok", queued)
        still = f", and no image got its row for {duration(round(found.still_s))}" if found.still_s else ""
        why = "; ".join(map(printable, reasons(found, session.workers(LabelChunk.queue))))
        return Finding("bad", f"{queued}{still}: {why}")


def _check_url(root: str) -> Finding:
    try:
        open_folder(root).check()
    except (ExtraMissing, UnavailableError) as error:
        return Finding("bad", str(error))
    return Finding("ok", f"data root {root}")


def _check_broker(settings: Settings) -> Iterator[Finding]:
    if settings.broker is None:
        if is_answering(shared_stack_socket(settings)):
            yield Finding("ok", "broker: the stack of `sortline up`")
            yield from _check_workers(settings)
            return
        try:
            yield Finding("ok", f"broker: none configured; a private one would be {find_redis_server()}")
        except ProducerError as error:
            yield Finding("bad", str(error), is_broker=True)
        return
    yield from _check_sentinels(settings)
    try:
        client = connect(settings)
        version = check_broker(client, settings)
    except BrokerError as error:
        yield Finding("bad", f"broker: {error}", is_broker=True)
        return
    yield Finding("ok", f"broker {masked_url(settings.broker)}: Redis {version}")
    yield from _check_policies(client)
    client.close()
    yield from _check_workers(settings)


def _check_sentinels(settings: Settings) -> Iterator[Finding]:
    try:
        primary = primary_of(settings)
    except BrokerError:  # the next check says it
        return
    if primary is None:
        return
    named: dict[str, list[str]] = {}
    for place, address, fault in primary.answers():
        if address is None:
            yield Finding("warn", f"Sentinel {place} {fault}")
        else:
            named.setdefault("{}:{}".format(*address), []).append(place)
    primary.close()
    for server, places in named.items():
        agreed = "" if len(named) == 1 else "; they do not agree: a failover is on, or some are cut off from the others"
        text = f"Sentinels: {primary.service_name} is {server}, by {', '.join(sorted(places))}{agreed}"
        yield Finding("warn" if agreed else "ok", text)


def _check_policies(client: redis.Redis) -> Iterator[Finding]:
    try:
        # Not CONFIG GET, which shows passwords and which managed servers and our own ACL forbid.
        policy = client.info("memory")["maxmemory_policy"]
        saves = client.info("persistence")["aof_enabled"]
    except (redis.RedisError, KeyError) as error:
        yield Finding(
            "warn", f"eviction policy and persistence can't be read ({error}); want noeviction and appendonly yes"
        )
        return
    if policy == "noeviction":
        yield Finding("ok", "eviction policy noeviction")
    else:
        yield Finding(
            "bad",
            f"eviction policy {policy}: Redis would drop queued work unseen; set maxmemory-policy noeviction",
            is_broker=True,
        )
    if saves:
        yield Finding("ok", "persistence: appendonly")
    else:
        yield Finding(
            "warn", "persistence off: after a Redis restart producers send their chunks again; set appendonly yes"
        )


def _check_workers(settings: Settings) -> Iterator[Finding]:
    with open_session(settings, start=False) as session:
        for kind in ("label", "train"):
            names = session.workers(kind)
            command = f"start one: sortline worker --queues {kind}"
            yield Finding(
                "ok" if names else "warn",
                f"{kind} workers: {printable(', '.join(names)) or 'none answers; ' + command}",
            )


def _check_engines() -> Iterator[Finding]:
    # In a process of its own: the producer imports no engine, and a broken driver must not end the doctor.
    found = subprocess.run(
        [sys.executable, "-m", "worker.devices"], capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )
    try:
        for engine, answer in json.loads(found.stdout).items():
            yield Finding("ok" if answer["usable"] else "warn", f"engine {engine}: {answer['text']}")
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        last = (found.stderr.strip().splitlines() or ["no output"])[-1]
        yield Finding("bad", f"engines can't be looked at: {last}")


def _check_store(settings: Settings) -> Iterator[Finding]:
    root = settings.store_root
    if not root.exists():
        yield Finding(
            "warn", f"model store {root} does not exist yet: sortline train or sortline models import makes it"
        )
        return
    try:
        store = ModelStore(root)
        names = store.names()
        for name in names:
            for number in store.versions(name):
                store.resolve(f"{name}:{number}")
    except (StoreError, OSError) as error:
        yield Finding("bad", f"model store {root}: {error}")
        return
    yield Finding("ok", f"model store {root}: {', '.join(names) or 'empty'}")
