"""What a stranger could put onto the queue: the worker stays alive, runs none of it, and labels the next chunk."""

from __future__ import annotations

import bz2
import json
import pickle
import subprocess
import zlib
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import compression

from configs.settings import Settings
from jobs.label import LabelChunk
from jobs.messages import SCHEMA_VERSION, to_json
from tests.broker.conftest import (
    KEYS,
    Desk,
    NewProducer,
    chunk_of,
    enqueue,
    envelope,
    labelled,
    waiting,
    with_arguments,
    working,
)
from tests.conftest import wait_until


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return subprocess.check_call, (["touch", str(self.path)],)


def pickled(target: Path) -> dict[str, Any]:
    body = b64encode(pickle.dumps(([Payload(target)], {}, {}))).decode()
    return {**envelope(), "body": body, "content-type": "application/x-python-serialize", "content-encoding": "binary"}


def chunk_text(**changes: object) -> str:
    message = {
        "schema_version": SCHEMA_VERSION,
        "run": "inbox-9",
        "first": 0,
        "paths": ["00000.png"],
        "model": {"name": "colours", "version": 1, "digest": "0f" * 32},
        "top_k": 2,
    }
    return json.dumps({**message, **changes})


def with_body(body: object, **headers: object) -> dict[str, Any]:
    return {**envelope(**headers), "body": b64encode(json.dumps(body).encode()).decode()}


def packed(kind: str, data: bytes) -> dict[str, Any]:
    return {**envelope(compression=kind), "body": b64encode(data).decode()}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in envelope().items() if key != name}


def with_property(name: str, value: object) -> dict[str, Any]:
    message = envelope()
    return {**message, "properties": {**message["properties"], name: value}}


ZEROS = b"[" + b" " * 70_000_000  # more than a message may hold, and a few kB when packed

ENTRIES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "a task that does not exist": lambda _: envelope(task="os.system"),
    "a task of Celery's own": lambda _: with_arguments([], task="celery.backend_cleanup"),
    "a pickle that makes a file": pickled,
    "no arguments": lambda _: with_arguments(),
    "too many arguments": lambda _: with_arguments(chunk_text(), chunk_text()),
    "a number": lambda _: with_arguments(7),
    "null": lambda _: with_arguments(None),
    "a list": lambda _: with_arguments([chunk_text()]),
    "an object": lambda _: with_arguments({"schema_version": SCHEMA_VERSION}),
    "text that is no JSON": lambda _: with_arguments("{"),
    "a deep list": lambda _: with_arguments("[" * 100_000),
    "a later schema": lambda _: with_arguments(chunk_text(schema_version=SCHEMA_VERSION + 1)),
    "an unknown field": lambda _: with_arguments(chunk_text(command="touch")),
    "a run that is a path": lambda _: with_arguments(chunk_text(run="../../x")),
    "a run that is another key": lambda _: with_arguments(chunk_text(run="a\nb")),
    "a model that is a path": lambda _: with_arguments(
        chunk_text(model={"name": "../colours", "version": 1, "digest": "0f" * 32})
    ),
    "a negative first": lambda _: with_arguments(chunk_text(first=-1)),
    "a huge first": lambda _: with_arguments(chunk_text(first=10**30)),
    "no paths": lambda _: with_arguments(chunk_text(paths=[])),
    "too many paths": lambda _: with_arguments(chunk_text(paths=["a"] * 4097)),
    "a path that is a number": lambda _: with_arguments(chunk_text(paths=[1])),
    "a sample that fills the memory": lambda _: with_arguments(
        chunk_text(sample=[{"path": "a", "size": 2**40, "sha256": "0f" * 32}])
    ),
    "a true top_k": lambda _: with_arguments(chunk_text(top_k=True)),
    "a body of three bytes": lambda _: {**envelope(), "body": "AAAA"},
    "a body that is an object": lambda _: with_body({"a": 1}),
    "a body of Celery's first protocol": lambda _: with_body({"task": "sortline.label_chunk", "id": "1", "args": [1]}),
    "a body that is a number": lambda _: with_body(7),
    "a body of three numbers": lambda _: with_body([7, 8, 9]),
    "a body of three texts": lambda _: with_body(["a", "b", "c"]),
    "an empty body": lambda _: with_body([]),
    "a body that is null": lambda _: with_body(None),
    "keyword arguments": lambda _: with_body([[chunk_text()], {"x": 1}, {}]),
    "a task to follow": lambda _: with_body([[chunk_text()], {}, {"callbacks": [{"task": "os.system"}]}]),
    "a chord to follow": lambda _: with_body([[chunk_text()], {}, {"chord": {"task": "os.system"}}]),
    "three numbers for a task of Celery's own": lambda _: with_body([7, 8, 9], task="celery.backend_cleanup"),
    "a bomb in zstd": lambda _: packed("application/zstd", compression.compress(ZEROS, "zstd")[0]),
    "a bomb in gzip": lambda _: packed("application/x-gzip", zlib.compress(ZEROS)),
    "a message in bzip2": lambda _: packed("application/x-bz2", bz2.compress(b"[[], {}, {}]")),
    "a cut zstd frame": lambda _: packed("application/zstd", compression.compress(b"[[], {}, {}]", "zstd")[0][:-4]),
    "an unknown packing": lambda _: packed("application/x-zoo", b"[]"),
    "a time that is a number": lambda _: with_arguments(chunk_text(), eta=5),
    "a time that is no time": lambda _: with_arguments(chunk_text(), eta="noon"),
    "an end that is a list": lambda _: with_arguments(chunk_text(), expires=[1]),
    "a time limit that is a text": lambda _: with_arguments(chunk_text(run="x y"), timelimit="long"),
    "an id that is a list": lambda _: with_arguments(chunk_text(), id=[1]),
    "a group that is a list": lambda _: with_arguments(chunk_text(run="x y"), group=[1]),
    "an origin that is an object": lambda _: with_arguments(chunk_text(run="x y"), origin={}, parent_id=[1]),
    "an unknown content type": lambda _: {**envelope(), "content-type": "application/x-yaml"},
}

# Whoever can push may push anything: these don't even have the form of a message.
RAW: dict[str, bytes] = {
    what: data if isinstance(data, bytes) else json.dumps(data).encode()
    for what, data in {
        "no text at all": b"\xff\xfe\x00",
        "no JSON": b"{",
        "nothing": b"",
        "JSON number": 7,
        "JSON text": "text",
        "JSON null": None,
        "JSON list": [1, 2, 3],
        "an empty object": {},
        "a deep list": b"[" * 200_000,
        "deep objects": b'{"a":' * 200_000,
        "kombu's own type, ill-formed": {"__type__": "datetime", "__value__": 7},
        "kombu's own type, unknown": {"__type__": "os.system", "__value__": "true"},
        "no properties": without("properties"),
        "no headers": without("headers"),
        "no body": without("body"),
        "no content type": without("content-type"),
        "no delivery tag": with_property("delivery_tag", None),
        "a delivery tag that is a list": with_property("delivery_tag", [1]),
        "no delivery info": with_property("delivery_info", None),
        "delivery info without exchange": with_property("delivery_info", {"routing_key": "label"}),
        "an unknown body encoding": with_property("body_encoding", "rot13"),
        "headers that are a list": {**envelope(), "headers": [1]},
        "a task name that is a list": envelope(task=[]),
        "no task name": envelope(task=""),
        "a task named in the body": {
            **with_body({"task": [], "id": "1"}),
            "headers": {},
        },
        "a body that is a list": {**envelope(), "body": [1]},
        "a body that is no base64": {**envelope(), "body": "A"},
        "properties that are a text": {**envelope(), "properties": "x"},
    }.items()
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_no_hostile_entry_stops_the_worker_or_runs(
    desk: Desk, settings: Settings, client: redis.Redis, new_producer: NewProducer, tmp_path: Path
) -> None:
    target = tmp_path / "made-by-a-message"

    with working(desk):
        for what, make in ENTRIES.items():
            enqueue(client, make(target))
            wait_until(lambda: waiting(client) == client.hlen(KEYS.unacked) == 0, 10, what)
        for what, data in RAW.items():
            client.lpush(KEYS.queue(LabelChunk.queue), data)
            wait_until(lambda: waiting(client) == client.hlen(KEYS.unacked) == 0, 10, what)
        new_producer(4).finish()

    assert not target.exists()
    assert desk.answered == [0]
    assert client.keys(f"{KEYS.prefix}results:*") == []


def test_a_message_above_the_limit_is_refused_unread(
    desk: Desk, settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.messages.MAX_MESSAGE_BYTES", 1000)
    fits = to_json(chunk_of(settings, 4))
    assert len(fits) < 1000

    with working(desk):
        enqueue(client, with_arguments(chunk_text(paths=["x" * 1000])))
        enqueue(client, with_arguments(fits))
        wait_until(lambda: desk.answered == [4], 5)

    assert desk.engine.chunks_started == 1


@pytest.mark.parametrize(
    "path", ["../secret.png", "/etc/passwd", "a/../../secret.png", "%2E%2E/secret.png", "link.png"]
)
def test_a_path_that_leaves_the_data_root_is_an_error_row(
    desk: Desk, settings: Settings, client: redis.Redis, path: str
) -> None:
    assert isinstance(settings.data_root, Path)
    secret = settings.data_root.parent / "secret.png"
    secret.write_bytes((settings.data_root / "00000.png").read_bytes())
    (settings.data_root / "link.png").symlink_to(secret)

    with working(desk):
        enqueue(client, with_arguments(chunk_text(paths=[path, "00001.png"])))
        wait_until(lambda: desk.answered == [0], 5)

    [(_, values)] = client.xrange(KEYS.results("inbox-9"))
    assert '"error":"outside_data_root"' in values["json"]
    assert values["json"].count('"error":null') == 1


def test_a_good_run_beside_hostile_entries_has_all_its_rows(
    desk: Desk, client: redis.Redis, new_producer: NewProducer, tmp_path: Path
) -> None:
    producer = new_producer(24)
    for make in ENTRIES.values():
        enqueue(client, make(tmp_path / "made-by-a-message"))

    with working(desk):
        producer.finish()

    assert len(labelled(producer.run)) == 24
    assert sorted(set(desk.answered)) == [0, 4, 8, 12, 16, 20]
