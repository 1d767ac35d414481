"""Messages go round through JSON; what is not one of ours is refused in words. File names survive as text."""

from __future__ import annotations

import json
import os
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.broker_url import masked_url
from base.paths import path_to_text, text_to_path
from configs import MAX_CHUNK_IMAGES
from jobs.errors import MessageError, SchemaMismatch
from jobs.label import ChunkResult, LabelChunk, Row
from jobs.messages import MAX_MESSAGE_BYTES, SCHEMA_VERSION, Message, ModelPin, from_json, to_json
from jobs.train import JobEvent, TrainModel
from tests.canaries import MARK, as_id

PIN = ModelPin(name="waste26", version=3, digest="0f" * 32)
CHUNK = LabelChunk(run="inbox-20260301-1a2b3c", first=128, paths=("a/b.jpg", "ü.png"), model=PIN, top_k=5)
RESULT = ChunkResult(
    run="inbox-20260301-1a2b3c",
    first=128,
    rows=(
        Row(top=((3, 0.75), (0, 0.25)), width=640, height=480),
        Row(error="truncated", detail="the file ends early", width=1, height=2),
        Row(),
    ),
    worker="label-1@host",
    seconds={"decode_s": 0.5, "chunk_s": 1.0},
)
MESSAGES: list[Message] = [
    CHUNK,
    RESULT,
    ChunkResult(run="r", first=0, refused="model waste26:3 is not in the store"),
    TrainModel(
        job="train-1", dataset="digits/train", name="digits", recipe={"epochs": 3, "augmentation": {"zoom": 0.1}}
    ),
    TrainModel(job="train-1", dataset="d", name="m", recipe={}, backbones=(PIN,), promote="never"),
    JobEvent(job="train-1", state="progress", text="epoch 1", epoch={"val_top1": 1.0}),
    JobEvent(job="train-1", state="done", text="published", model=PIN),
]


def changed(message: Message, **values: Any) -> str:
    return json.dumps({**json.loads(to_json(message)), **values})


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_the_same_after_json(message: Message) -> None:
    text = to_json(message)

    assert from_json(type(message), text) == message
    assert from_json(type(message), text.encode()) == message
    assert from_json(type(message), json.dumps(json.loads(text))) == message  # as kombu repacks it


def test_a_probability_keeps_every_bit() -> None:
    row = Row(top=((0, 0.1 + 0.2), (1, 5e-324)))

    assert from_json(ChunkResult, to_json(ChunkResult(run="r", first=0, rows=(row,)))).rows == (row,)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_an_unknown_field_is_refused(message: Message) -> None:
    with pytest.raises(MessageError, match=rf"not a valid {type(message).__name__} message: pickle: Extra inputs"):
        from_json(type(message), changed(message, pickle="gASVAAA="))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
@pytest.mark.parametrize("number", [str(SCHEMA_VERSION), None])
def test_a_message_whose_schema_version_is_no_number_is_refused(message: Message, number: object) -> None:
    with pytest.raises(MessageError, match=f"schema_version: Input should be {SCHEMA_VERSION}"):
        from_json(type(message), changed(message, schema_version=number))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
@pytest.mark.parametrize("number", [0, SCHEMA_VERSION - 1, SCHEMA_VERSION + 1, 2**31 - 1])
def test_a_message_of_another_schema_is_refused_with_the_side_to_update(message: Message, number: int) -> None:
    reader, writer = ("worker", "producer") if isinstance(message, LabelChunk | TrainModel) else ("producer", "worker")
    older = reader if number > SCHEMA_VERSION else writer
    with pytest.raises(SchemaMismatch, match=f"side of the {older}.* nothing is lost") as refused:
        from_json(type(message), changed(message, schema_version=number, a_field_of_another_time=[1]))

    assert refused.value.job == (getattr(message, "run", None) or getattr(message, "job", None))
    assert refused.value.first == getattr(message, "first", 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"first": -1}, r"first: .*greater than or equal to 0"),
        ({"first": 2**53}, r"first: .*less than 9007199254740992"),  # the largest that every JSON reader keeps exact
        ({"first": 1.5}, r"first: .*integer"),
        ({"first": True}, r"first: .*integer"),
        ({"first": "3"}, r"first: .*integer"),
        ({"first": None}, r"first: .*integer"),
        ({"top_k": 0}, r"top_k: .*greater than or equal to 1"),
        ({"top_k": 1001}, r"top_k: .*less than or equal to 1000"),
        ({"paths": []}, r"paths: .*at least 1 item"),
        ({"paths": ["x"] * (MAX_CHUNK_IMAGES + 1)}, rf"paths: .*at most {MAX_CHUNK_IMAGES} items"),
        ({"paths": [""]}, r"paths\.0: .*at least 1 character"),
        ({"paths": ["a", "x" * 12_289]}, r"paths\.1: .*at most 12288 characters"),
        ({"paths": ["a", 7]}, r"paths\.1: .*string"),
        ({"paths": "abc"}, r"paths: .*tuple|paths: .*array"),
        ({"model": {**PIN.model_dump(), "version": 0}}, r"model\.version: .*greater than or equal to 1"),
        ({"model": {**PIN.model_dump(), "name": "../x"}}, r"model\.name: .*match pattern"),
        ({"model": {**PIN.model_dump(), "digest": "0f"}}, r"model\.digest: .*match pattern"),
        ({"model": {**PIN.model_dump(), "url": "http://x"}}, r"model\.url: Extra inputs"),
        ({"model": "waste26:3"}, r"model: .*object|model: .*dictionary|model: .*ModelPin"),
    ],
)
def test_a_chunk_that_breaks_the_contract_is_refused_by_field(values: dict[str, Any], message: str) -> None:
    with pytest.raises(MessageError, match=message):
        from_json(LabelChunk, changed(CHUNK, **values))


@pytest.mark.parametrize(
    "run", ["", ".hidden", "-rf", "a b", "a/b", "..", "a\n", "a\0", "a:b", "é", "x" * 129, "*", 7, None, ["a"]]
)
def test_a_run_id_that_could_be_more_than_a_name_is_refused(run: object) -> None:
    with pytest.raises(MessageError, match=r"not a valid LabelChunk message: run: "):
        from_json(LabelChunk, changed(CHUNK, run=run))


@pytest.mark.parametrize("run", ["a", "A.b_c-1", "x" * 128])
def test_a_run_id_may_hold_letters_digits_and_three_marks(run: str) -> None:
    assert from_json(LabelChunk, changed(CHUNK, run=run)).run == run


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    "text",
    [
        '{"schema_version":9,"run":"r","first":0,"rows":[{"top":[[0,%s]]}]}',
        '{"schema_version":9,"run":"r","first":0,"rows":[{"outlier":%s}]}',
        '{"schema_version":9,"run":"r","first":0,"seconds":{"chunk_s":%s}}',
        '{"schema_version":9,"run":"r","first":%s}',
    ],
)
def test_a_number_that_is_not_finite_is_refused(text: str, number: str) -> None:
    with pytest.raises(MessageError, match="not a valid ChunkResult message"):
        from_json(ChunkResult, text % number)
    from_json(ChunkResult, text % "1")  # nothing else was wrong with it


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"top": [[-1, 0.5]]}, r"rows\.0\.top\.0\.0: .*greater than or equal to 0"),
        ({"top": [[0, 1.5]]}, r"rows\.0\.top\.0\.1: .*less than or equal to 1"),
        ({"top": [[0, -0.5]]}, r"rows\.0\.top\.0\.1: .*greater than or equal to 0"),
        ({"top": [[0]]}, r"rows\.0\.top\.0\.1: Field required"),
        ({"error": "Not A Code"}, r"rows\.0\.error: .*match pattern"),
        ({"error": "x", "detail": "y" * 1001}, r"rows\.0\.detail: .*at most 1000 characters"),
        ({"width": -1}, r"rows\.0\.width: .*greater than or equal to 0"),
        ({"label": "cat"}, r"rows\.0\.label: Extra inputs"),
    ],
)
def test_a_row_that_breaks_the_contract_is_refused_by_field(row: dict[str, Any], message: str) -> None:
    with pytest.raises(MessageError, match=message):
        from_json(ChunkResult, changed(RESULT, rows=[row]))


@pytest.mark.parametrize("length", [0, 1, 10, -1])
def test_a_message_cut_short_is_refused(length: int) -> None:
    with pytest.raises(MessageError, match=r"not a valid LabelChunk message: .*(EOF|end of)"):
        from_json(LabelChunk, to_json(CHUNK)[:length])


@pytest.mark.parametrize("text", ["null", "[]", "7", '"chunk"', "[" * 5000, "\ud800", b"\xff\xfe", "{} {}"])
def test_text_that_is_no_message_is_refused(text: str | bytes) -> None:
    with pytest.raises(MessageError, match="not a valid LabelChunk message"):
        from_json(LabelChunk, text)


def test_a_message_of_another_kind_is_refused() -> None:
    with pytest.raises(MessageError, match=r"not a valid LabelChunk message: .*Field required"):
        from_json(LabelChunk, to_json(RESULT))


@pytest.mark.parametrize("kind", [LabelChunk, ChunkResult])
def test_a_huge_message_is_refused_before_it_is_parsed(kind: type[Message]) -> None:
    with pytest.raises(MessageError, match=rf"of {MAX_MESSAGE_BYTES + 1} bytes; the limit is {MAX_MESSAGE_BYTES}"):
        from_json(kind, b" " * (MAX_MESSAGE_BYTES + 1))


@pytest.mark.parametrize("value", [None, 7, {"run": "r"}, ["a"], CHUNK])
def test_a_message_that_is_not_text_is_refused_by_its_type(value: object) -> None:
    with pytest.raises(MessageError, match=rf"a LabelChunk message is JSON text, not {type(value).__name__}"):
        from_json(LabelChunk, value)


def test_only_the_first_three_faults_are_told() -> None:
    with pytest.raises(MessageError) as caught:
        from_json(LabelChunk, changed(CHUNK, paths=[""] * 100))

    assert str(caught.value).count("; ") == 2


def test_a_message_can_not_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        CHUNK.first = 0  # type: ignore[misc]


name_bytes = st.binary(min_size=1, max_size=60).map(lambda data: data.replace(b"\0", b"%").replace(b"/", b"%2F"))
# Mostly text, with stray bytes and percent signs: what arbitrary bytes alone would rarely give.
spiced_names = st.lists(
    st.one_of(
        st.sampled_from([b"FF", b"25", b"0A"]),
        st.text(max_size=5).map(lambda t: t.encode("utf-8", "ignore")),
        st.binary(max_size=3),
    )
)
names = st.one_of(name_bytes, spiced_names.map(lambda parts: b"%".join(parts).replace(b"\0", b"") or b"x"))


@settings(deadline=None)  # a shared machine pauses now and then
@given(names)
def test_any_file_name_comes_back_from_its_text(name: bytes) -> None:
    path = os.fsdecode(name)

    assert text_to_path(path_to_text(path)) == path
    assert os.fsencode(text_to_path(path_to_text(path))) == name


@settings(deadline=None)  # a shared machine pauses now and then
@given(names)
def test_the_text_of_any_file_name_is_one_line_of_utf8_without_control_characters(name: bytes) -> None:
    text = path_to_text(os.fsdecode(name))

    assert text.encode("utf-8").decode() == text
    assert len(text.splitlines()) == 1
    assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text)
    assert json.loads(json.dumps(text)) == text
    LabelChunk(run="r", first=0, paths=(text,), model=PIN, top_k=1)


@settings(deadline=None)  # a shared machine pauses now and then
@given(names, names)
def test_two_names_never_have_one_text(one: bytes, other: bytes) -> None:
    assert (path_to_text(os.fsdecode(one)) == path_to_text(os.fsdecode(other))) == (one == other)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"plain.jpg", "plain.jpg"),
        ("Müll/日本.jpg".encode(), "Müll/日本.jpg"),
        (b"50%.jpg", "50%25.jpg"),
        (b"caf\xe9.jpg", "caf%E9.jpg"),
        (b"two\nlines\r.jpg", "two%0Alines%0D.jpg"),
        ("line\u2028separator\x85.jpg".encode(), "line%E2%80%A8separator%C2%85.jpg"),
        (b"%FF", "%25FF"),  # looks like an escape, and is a name
        (b"\xff", "%FF"),
    ],
)
def test_a_name_is_written_as_this_text(name: bytes, text: str) -> None:
    assert path_to_text(os.fsdecode(name)) == text
    assert os.fsencode(text_to_path(text)) == name


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://user:{MARK}@host:6379/0", "redis://user:***@host:6379/0"),
        (f"rediss://:{MARK}@host", "rediss://:***@host"),
        (f"redis://user:hun@{MARK}@host", "redis://user:***@host"),  # redis-py takes the last @ as well
        (f"redis://user:hun/{MARK}@host", "redis://user:***@host"),
        (f"redis://host/0?password={MARK}&db=1", "redis://host/0?password=***&db=1"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ],
    ids=as_id,
)
def test_a_broker_is_shown_without_its_password(url: str, shown: str) -> None:
    assert masked_url(url) == shown
