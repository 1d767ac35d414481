"""Bytes that nobody meant, wherever bytes come in: only our own errors come out, and nothing hangs.

About 5,000 examples, the same ones each time. For a longer look at others: ``SORTLINE_FUZZ_EXAMPLES=100000 pytest
tests/unit/test_fuzz.py``.
"""

from __future__ import annotations

import faulthandler
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from base.errors import ImageError
from configs.errors import SettingsError
from configs.recipe import read_recipe
from configs.settings import load_settings
from configs.tables import CONFIGS_FOLDER, parse_assignments
from jobs.errors import MessageError
from jobs.label import ChunkResult, LabelChunk, Row
from jobs.messages import Message, ModelPin, from_json, to_json
from jobs.train import JobEvent, TrainModel
from model_store.errors import ManifestError
from model_store.manifest import SCHEMA_VERSION, ClassEntry, FileEntry, Manifest
from producer.reports.request import request_of, write_reports
from producer.runfile import Plan, RunFile, RunFileError
from tests.unit.awkward_images import corpus
from vision.images.decode import ImageLimits
from vision.images.preprocess import Preprocessing, load_image

# As in production, where vision.images.decode sets this filter; pytest resets it for each test.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

DEFAULT = 5000
EXAMPLES = int(os.environ.get("SORTLINE_FUZZ_EXAMPLES", DEFAULT))
HANG_S = 120

Test = Callable[..., None]


def fuzzed(share: float) -> Callable[[Test], Test]:
    """Run a test on its ``share`` of the examples; the same ones each time, unless a longer run is asked for."""
    return settings(
        max_examples=max(1, int(EXAMPLES * share)),
        derandomize=EXAMPLES == DEFAULT,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(autouse=True)
def _ends_if_it_hangs() -> Iterator[None]:
    faulthandler.dump_traceback_later(HANG_S * max(1, EXAMPLES // DEFAULT), exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "flip", "insert", "delete", "repeat", "cut"]),
        st.floats(0, 1, exclude_max=True) | st.floats(0, 0.1),  # headers are where the trouble is
        st.binary(min_size=1, max_size=4) | st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80"]),
    ),
    min_size=1,
    max_size=6,
)


def edited(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    """Return the bytes with a few changes, each at a part of their length."""
    result = bytearray(data)
    for how, part, value in edits:
        at = int(part * len(result))
        if how == "set":
            result[at : at + len(value)] = value
        elif how == "flip" and result:
            result[at] ^= value[0] or 1
        elif how == "insert":
            result[at:at] = value
        elif how == "delete":
            del result[at : at + len(value)]
        elif how == "repeat":
            result[at:at] = result[at : at + 16 * len(value)]
        elif how == "cut":
            del result[max(at, 8) :]
    return bytes(result)


def checksums_mended(png: bytes) -> bytes:
    """Return the PNG with right checksums, so that damage reaches what lies behind them."""
    result, at = bytearray(png), 8
    while at + 12 <= len(result):
        (length,) = struct.unpack_from(">I", result, at)
        end = at + 8 + length
        if end + 4 > len(result):
            break
        result[end : end + 4] = struct.pack(">I", zlib.crc32(result[at + 4 : end]))
        at = end + 4
    return bytes(result)


# --- images

SMALL = Preprocessing(height_px=32, width_px=32)
LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=1_000_000)
SEEDS = [
    file.content
    for file in corpus()
    if isinstance(file.content, bytes)
    and len(file.content) < 10_000
    and file.name.startswith(("jpeg/", "png/", "tiff/", "other/", "animated/", "exif/6", "exif/3", "suffix/", "bomb/"))
]


def loaded(data: bytes) -> None:
    with suppress(ImageError):
        assert load_image(data, SMALL, LIMITS).pixels.shape == (32, 32, 3)


@pytest.mark.slow
@fuzzed(0.7)
@given(st.sampled_from(SEEDS), EDITS, st.booleans())
def test_a_damaged_image_gives_pixels_or_an_image_error(data: bytes, edits: list[Any], mend: bool) -> None:
    damaged = edited(data, edits)
    loaded(checksums_mended(damaged) if mend and damaged.startswith(b"\x89PNG") else damaged)


MAGIC = [
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"RIFF\x20\0\0\0WEBPVP8 ",
    b"BM",
    b"II*\0\x08\0\0\0",
    b"P6 ",
    b"",
]


@fuzzed(0.05)
@given(st.sampled_from(MAGIC), st.binary(max_size=200))
def test_bytes_behind_an_images_first_ones_give_pixels_or_an_image_error(magic: bytes, rest: bytes) -> None:
    loaded(magic + rest)


# --- messages, manifests

PIN = ModelPin(name="waste26", version=3, digest="0f" * 32)
MESSAGES: list[Message] = [
    LabelChunk(run="inbox-1", first=128, paths=("a/b.jpg", "ü.png"), model=PIN, top_k=5),
    ChunkResult(
        run="inbox-1", first=0, rows=(Row(top=((3, 0.75),), width=6, height=4), Row(error="empty")), worker="w"
    ),
    TrainModel(job="t-1", dataset="waste", name="waste26", recipe={"epochs": 5, "augmentation": {"flip": True}}),
    JobEvent(job="t-1", state="progress", text="epoch 1", epoch={"loss": 0.5}, model=PIN, scores={"accuracy": 0.9}),
]
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
DEEP = b"[" * 100_000


@fuzzed(0.06)
@given(st.sampled_from(MESSAGES), EDITS)
@example(MESSAGES[0], [("set", 0.0, DEEP)])
@example(MESSAGES[0], [("insert", 0.3, b"9" * 10_000)])
def test_a_damaged_message_is_read_or_refused(message: Message, edits: list[Any]) -> None:
    with suppress(MessageError):
        from_json(type(message), edited(to_json(message).encode(), edits))


@fuzzed(0.04)
@given(st.sampled_from(MESSAGES), st.data())
def test_a_message_with_another_value_somewhere_is_read_or_refused(message: Message, data: st.DataObject) -> None:
    record = json.loads(to_json(message))
    record[data.draw(st.sampled_from(sorted(record)) | st.text(max_size=5))] = data.draw(JSON)
    with suppress(MessageError):
        assert isinstance(from_json(type(message), json.dumps(record)), type(message))


MANIFEST = Manifest(
    kind="classifier",
    graph={"height_px": 32, "width_px": 32, "outputs": 2},
    network={"name": "lenet5"},
    preprocessing={"height_px": 32, "width_px": 32, "fit": "stretch", "crop_fraction": 1.0},
    classes=[ClassEntry(label=label, folder=label) for label in ("cat", "dog")],
    name="pets",
    version=1,
    created="2026-03-01T12:30:00Z",
    files={"weights.safetensors": FileEntry(sha256="0f" * 32, bytes=10)},
).to_bytes()


@fuzzed(0.04)
@given(EDITS)
@example([("set", 0.0, DEEP)])
@example([("insert", 0.5, b"9" * 10_000)])
def test_a_damaged_manifest_is_refused(edits: list[Any]) -> None:
    damaged = edited(MANIFEST, edits)
    with suppress(ManifestError):
        Manifest.from_bytes(damaged, "manifest.json")
        assert json.loads(damaged)["schema_version"] == SCHEMA_VERSION  # then it is canonical again


# --- run files


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = Plan(
        run="inbox-1", source="inbox", base="/data/inbox", data_root="/data", walked=True, model=PIN,
        labels=["cat", "dog"], groups=[None, None], top_k=2, chunk_images=4,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("run") / "inbox.run"
    with closing(RunFile.create(path, plan, [f"{number}.jpg" for number in range(20)])) as run:
        run.record(ChunkResult(run="inbox-1", first=0, rows=(Row(top=((1, 0.75),)), Row(error="empty")), worker="w"))
        run.note_sent(4, 4)
    return path


# Most of the file is empty: only bytes that are not zero are changed.
CHANGES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4
)


def changed(data: bytes, changes: list[tuple[float, bytes]]) -> bytes:
    """Return the bytes with a few of those that are not zero overwritten."""
    result, full = bytearray(data), [place for place, value in enumerate(data) if value]
    for part, value in changes:
        at = full[int(part * len(full))]
        result[at : at + len(value)] = value
    return bytes(result)


def use(run: RunFile) -> None:
    """Do all that commands do with a run file."""
    list(run.missing_chunks(lambda: 4, run.sent()))
    run.record(ChunkResult(run="inbox-1", first=4, rows=(Row(top=((1, 0.75),)),), worker="w"))
    run.note_sent(8, 4)
    run.begin_work()
    run.keep_request("report.csv", "{}")
    list(run.labelled_files())
    list(run.chunks())
    write_reports(run, request_of(run.path.parent / "out", "csv,jsonl", ranks=2), max_pixels=10**6, say=lambda _: None)
    assert len([run.requests(), run.work_periods(), run.duplicates, run.paths(0, 20)]) == 4


@fuzzed(0.05)
@given(EDITS, CHANGES)
def test_a_damaged_run_file_is_used_or_refused(run_file: Path, edits: list[Any], changes: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder, suppress(RunFileError):
        path = Path(folder) / "inbox.run"
        path.write_bytes(edited(run_file.read_bytes(), edits))
        RunFile.peek(path)
        path.write_bytes(changed(run_file.read_bytes(), changes))
        RunFile.peek(path)
        with closing(RunFile(path)) as run:
            use(run)


@pytest.mark.slow
@fuzzed(0.05)
@given(CHANGES)
def test_a_run_file_damaged_while_it_is_open_is_used_or_refused(run_file: Path, changes: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder, suppress(RunFileError):
        path = Path(folder) / "inbox.run"
        path.write_bytes(run_file.read_bytes())
        with closing(RunFile(path)) as run:
            path.write_bytes(changed(run_file.read_bytes(), changes))
            use(run)


@fuzzed(0.01)
@given(JSON)
def test_a_run_file_with_another_plan_opens_or_is_refused(plan: object) -> None:
    with suppress(ValueError, TypeError, KeyError):  # what opening a run file turns into a RunFileError
        Plan.from_json(json.dumps(plan))


# --- settings, recipes

TABLES = [path.read_bytes() for path in sorted(CONFIGS_FOLDER.glob("*.toml"))]


@fuzzed(0.03)
@given(st.sampled_from(TABLES), EDITS)
@example(b"", [("insert", 0.0, b"training = " + DEEP)])
@example(b"", [("insert", 0.0, b"stuck_s = " + b"9" * 5_000)])
@example(b"", [("insert", 0.0, b"\xff\xfe\0")])
def test_a_damaged_configuration_file_is_read_or_refused(table: bytes, edits: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder, suppress(SettingsError):
        path = Path(folder) / "own.toml"
        path.write_bytes(edited(table, edits))
        load_settings(path, environment={})


KEYS = st.sampled_from(["epochs", "seed", "augmentation", "network", "freeze", "learning_rate"]) | st.text(max_size=5)


@fuzzed(0.01)
@given(st.dictionaries(KEYS, JSON, max_size=4))
def test_a_recipe_of_any_values_is_read_or_refused(recipe: dict[str, Any]) -> None:
    with suppress(SettingsError):
        read_recipe(recipe)


@fuzzed(0.01)
@given(st.lists(st.text(max_size=30) | st.builds("{}={}".format, KEYS, st.text(max_size=20)), max_size=4))
@example(["epochs=" + "9" * 5_000])
@example(["epochs=" + "[" * 100_000])
@example(["." * 5_000 + "=1"])
def test_assignments_of_any_text_are_read_or_refused(assignments: list[str]) -> None:
    with suppress(SettingsError):
        read_recipe(parse_assignments(assignments))
