"""The store against damage, hostile names, several writers at once and writers that are killed."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.errors import ChecksumError, ManifestError, ModelNotFound, StoreError, StoreUnavailable
from model_store.files import available
from model_store.manifest import ClassEntry, Golden, Manifest, ManifestDraft
from model_store.store import ModelStore

SPAWN = multiprocessing.get_context("spawn")


def draft(**changes: object) -> ManifestDraft:
    values: dict[str, object] = {
        "kind": "classifier",
        "graph": {"height_px": 32, "width_px": 32, "outputs": 2},
        "network": {"family": "lenet5", "classes": 2},
        "preprocessing": {"height_px": 32, "width_px": 32, "fit": "pad"},
        "classes": [ClassEntry(label=label, folder=label, names={"zh": "猫"}) for label in ("cat", "dog")],
        "scores": {"accuracy": 0.815},
        "golden": Golden(inputs_sha256="0" * 64, tolerance=1e-4, agreement={"openvino/f32": 2e-5}),
        "parents": ["mobilenet-v2:1"],
    }
    return ManifestDraft.model_validate({**values, **changes})


def writing(content: bytes = b"weights", name: str = "weights.safetensors") -> Callable[[Path], ManifestDraft]:
    def write(folder: Path) -> ManifestDraft:
        (folder / name).write_bytes(content)
        return draft()

    return write


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


@pytest.fixture
def three(store: ModelStore) -> ModelStore:
    for _ in range(3):
        store.publish("waste", writing())
    return store


def test_what_is_published_is_read_back_under_its_number(store: ModelStore) -> None:
    first = store.publish("waste", writing(b"one"))
    second = store.publish("waste", writing(b"two"))

    assert (first.version, second.version, second.folder.name) == (1, 2, "0002")
    assert store.names() == ["waste"]
    assert store.versions("waste") == [1, 2]
    assert store.open_file("waste", 1, "weights.safetensors") == b"one"
    assert store.resolve("waste:2").manifest == second.manifest
    assert second.manifest.scores == {"accuracy": 0.815}
    assert list((store.root / "waste" / "staging").iterdir()) == []


def test_the_digest_is_the_sha256_of_the_manifest_on_disk(three: ModelStore) -> None:
    found = three.resolve("waste:2")
    data = (found.folder / "manifest.json").read_bytes()
    assert (found.folder / "manifest.sha256").read_text() == f"{found.manifest.digest}  manifest.json\n"
    assert Manifest.from_bytes(data, "here") == found.manifest


PROOF = {"images": 100, "equal": 0.97, "accuracy": 0.8, "f32_accuracy": 0.81, "passed": True}


def test_a_manifest_holds_what_was_published(store: ModelStore) -> None:
    plain = store.publish("waste", writing()).manifest
    proven = Manifest.model_validate({**plain.model_dump(), "precisions": {"openvino/bf16": PROOF}})
    a_graph_alone = Manifest.model_validate({**plain.model_dump(), "network": None})

    for manifest in (plain, proven, a_graph_alone):
        assert Manifest.from_bytes(manifest.to_bytes(), "here") == manifest
    assert json.loads(proven.to_bytes()) == {**json.loads(plain.to_bytes()), "precisions": {"openvino/bf16": PROOF}}


@pytest.mark.parametrize("version", [1, 6, 8, "2", None])
def test_a_manifest_of_another_schema_version_is_refused_with_what_to_do(store: ModelStore, version: object) -> None:
    plain = store.publish("waste", writing()).manifest
    earlier = json.dumps({**json.loads(plain.to_bytes()), "schema_version": version}).encode()

    with pytest.raises(
        ManifestError, match=f"here has schema version {version!r} and .* reads 7: .*; train or import the model again"
    ):
        Manifest.from_bytes(earlier, "here")


DECISIONS = {
    "images": 200, "thresholds": {"0.95": [0.5, None]}, "accepted": {"0.95": 0.7}, "outliers": [0.5] * 101,
}  # fmt: skip


def test_decisions_come_back_as_they_were_published(store: ModelStore) -> None:
    plain = json.loads(store.publish("waste", writing()).manifest.to_bytes())
    decided = json.dumps({**plain, "decisions": DECISIONS}, sort_keys=True, indent=2, ensure_ascii=False) + "\n"

    found = Manifest.from_bytes(decided.encode(), "here").decisions
    assert found is not None
    assert found.model_dump() == DECISIONS


@pytest.mark.parametrize(
    "change",
    [
        {"thresholds": {"0.95": [0.5]}}, {"thresholds": {"0.95": [0.5, 1.5]}}, {"accepted": {"0.95": 1.1}},
        {"outliers": [0.5] * 100}, {"outliers": [-0.1] * 101}, {"images": 0},
    ],
)  # fmt: skip
def test_impossible_decisions_are_refused(store: ModelStore, change: dict[str, object]) -> None:
    plain = json.loads(store.publish("waste", writing()).manifest.to_bytes())

    with pytest.raises(ManifestError, match="is not a manifest"):
        Manifest.from_bytes(json.dumps({**plain, "decisions": {**DECISIONS, **change}}).encode(), "here")


@pytest.mark.parametrize(
    "change", [{"images": 0}, {"equal": 1.01}, {"accuracy": -0.1}, {"passed": "yes"}, {"passed": None}, {"sure": True}]
)
def test_a_proof_with_impossible_figures_is_refused(store: ModelStore, change: dict[str, object]) -> None:
    plain = store.publish("waste", writing()).manifest

    with pytest.raises(ManifestError, match=r"(?s)here is not a manifest: .*precisions"):
        Manifest.from_bytes(with_record(plain, {"openvino/bf16": {**PROOF, **change}}), "here")


def with_record(manifest: Manifest, precisions: dict[str, object]) -> bytes:
    record = {**json.loads(manifest.to_bytes()), "precisions": precisions}
    return (json.dumps(record, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o444), (0o027, 0o440), (0o077, 0o400)])
def test_published_files_are_read_only_for_whom_the_umask_lets_read(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        folder = ModelStore(tmp_path).publish("waste", writing()).folder
    finally:
        os.umask(before)

    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {mode}


def test_a_name_alone_means_production_and_says_how_to_promote_where_there_is_none(three: ModelStore) -> None:
    with pytest.raises(ModelNotFound, match=r"no alias 'production' .*1, 2, 3.*promote"):
        three.resolve("waste")
    three.set_alias("waste", "production", 2, who="ada", why="best so far")
    assert three.resolve("waste").version == three.resolve("waste@production").version == 2


def test_what_does_not_exist_is_named_with_what_does(three: ModelStore) -> None:
    with pytest.raises(ModelNotFound, match=r"no version 9 \(it has 1, 2, 3\)"):
        three.resolve("waste:9")
    with pytest.raises(ModelNotFound, match=r"no model 'paste' .*waste"):
        three.resolve("paste:1")
    with pytest.raises(ModelNotFound, match=r"no file 'serving.onnx' \(it has weights.safetensors\)"):
        three.open_file("waste", 1, "serving.onnx")
    with pytest.raises(ModelNotFound, match="no version 4"):
        three.set_alias("waste", "production", 4, who="ada", why="typing error")


def test_a_missing_store_is_unavailable_not_empty(store: ModelStore) -> None:
    for read in (store.names, lambda: store.versions("waste"), lambda: store.resolve("waste")):
        with pytest.raises(StoreUnavailable, match="does not exist; mount it"):
            read()
    with pytest.raises(StoreUnavailable, match="check the disk"), available(store.root):
        os.listdir(store.root)  # noqa: PTH208


def test_a_store_that_a_user_may_not_write_names_the_user_not_the_disk(store: ModelStore) -> None:
    with pytest.raises(StoreUnavailable, match=f"let user {os.getuid()} read and write there"), available(store.root):
        raise PermissionError(errno.EACCES, "Permission denied", str(store.root))


@pytest.mark.parametrize(
    "reference", ["", "Waste", "../waste", "waste:", "waste:x", "waste@", "waste:1:2", "a/b", "waste:1\n"]
)
def test_a_reference_of_another_form_is_refused(three: ModelStore, reference: str) -> None:
    with pytest.raises(ModelNotFound, match="is no model"):
        three.resolve(reference)


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "/tmp/x", "Upper", "-dash", "a\0", "a\n", "x" * 65])
def test_hostile_names_reach_no_file(three: ModelStore, name: str) -> None:
    for call in (
        lambda: three.publish(name, writing()),
        lambda: three.versions(name),
        lambda: three.open_file(name, 1, "weights.safetensors"),
        lambda: three.set_alias("waste", name, 1, who="eve", why="why not"),
    ):
        with pytest.raises(StoreError, match="can't name"):
            call()
    assert {path.name for path in three.root.iterdir()} == {"waste"}


@pytest.mark.parametrize(
    "name", ["run.sh", ".hidden.csv", "weights.pkl", "manifest.json", "no-suffix", "a b.csv", "x.csv\n"]
)
def test_a_file_of_no_known_kind_is_not_published(store: ModelStore, name: str) -> None:
    with pytest.raises(ManifestError, match="can't hold a file named"):
        store.publish("waste", writing(name=name))
    assert store.names() == []


@pytest.mark.parametrize("name", ["../../aliases.json", "/etc/passwd", "manifest.json", ""])
def test_only_files_of_the_manifest_can_be_opened(three: ModelStore, name: str) -> None:
    with pytest.raises(ModelNotFound, match="has no file"):
        three.open_file("waste", 1, name)


def test_folders_and_links_are_not_published(store: ModelStore) -> None:
    def link(folder: Path) -> ManifestDraft:
        (folder / "weights.safetensors").symlink_to("/etc/hostname")
        return draft()

    def folder_inside(folder: Path) -> ManifestDraft:
        (folder / "plots.png").mkdir()
        return draft()

    for write in (link, folder_inside):
        with pytest.raises(ManifestError, match="neither folders nor links"):
            store.publish("waste", write)


def test_what_the_writer_raises_passes_through_and_leaves_nothing(store: ModelStore) -> None:
    def fail(folder: Path) -> ManifestDraft:
        (folder / "weights.safetensors").write_bytes(b"half")
        raise FileNotFoundError("the training data is gone")

    with pytest.raises(FileNotFoundError, match="training data"):
        store.publish("waste", fail)
    assert store.names() == []
    assert list((store.root / "waste" / "staging").iterdir()) == []


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove"])
def test_a_changed_file_is_never_handed_out(three: ModelStore, damage: str) -> None:
    path = three.resolve("waste:2").folder / "weights.safetensors"
    changed = {"flip": b"Weights", "cut": b"weight", "grow": b"weights!", "remove": None}[damage]
    path.unlink()
    if changed is not None:
        path.write_bytes(changed)

    with pytest.raises(ChecksumError, match=r"weights\.safetensors is (not what was published|missing)"):
        three.open_file("waste", 2, "weights.safetensors")
    assert three.open_file("waste", 3, "weights.safetensors") == b"weights"


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b"0.815", b"0.999", ChecksumError),
        (b'  "golden"', b'   "golden"', ManifestError),
        (b'"version": 2', b'"version": 3', ManifestError),
        (b'"version": 2', b'"version": "2"', ManifestError),
        (b'"kind"', b'"kinds"', ManifestError),
        (b"0.815", b"NaN", ManifestError),
        (b"{", b"", ManifestError),
        (b"{", b"{" + b" " * 1_000_000, ManifestError),
    ],
)
def test_a_changed_manifest_is_refused(three: ModelStore, old: bytes, new: bytes, error: type[StoreError]) -> None:
    path = three.resolve("waste:2").folder / "manifest.json"
    data = path.read_bytes()
    assert old in data
    path.chmod(0o644)
    path.write_bytes(data.replace(old, new, 1))

    with pytest.raises(error, match=r"manifest\.json"):
        three.resolve("waste:2")


def test_a_draft_that_makes_no_sense_is_refused() -> None:
    cat = ClassEntry(label="cat", folder="cat")
    for changes in (
        {"classes": [cat]},
        {"classes": [cat, cat]},
        {"scores": {"loss": float("inf")}},
        {"parents": ["../x:1"]},
    ):
        with pytest.raises(ValueError, match="validation error"):
            draft(**changes)


def test_a_deleted_version_is_gone_at_once_and_its_number_is_not_given_again(three: ModelStore) -> None:
    for version, alias in ((3, "candidate"), (1, "production"), (2, "candidate")):
        three.set_alias("waste", alias, version, who="ada", why="trained")
    with pytest.raises(StoreError, match="waste:1 is waste@production"):
        three.delete("waste", 1)
    with pytest.raises(ModelNotFound, match="no version 9"):
        three.delete("waste", 9)

    three.delete("waste", 3)

    assert three.versions("waste") == [1, 2]
    assert list((three.root / "waste" / "staging").iterdir()) == []
    assert three.publish("waste", writing()).version == 4
    (three.root / "waste" / "aliases.log").write_text("damaged\n")
    assert three.publish("waste", writing()).version == 5


def test_rollback_undoes_one_move_after_the_other(three: ModelStore) -> None:
    for version in (1, 2, 3):
        three.set_alias("waste", "production", version, who="ada", why="better")
    three.set_alias("waste", "candidate", 1, who="ada", why="another alias has its own past")

    assert three.rollback("waste", who="bob", why="worse on cans") == 2
    assert three.rollback("waste", who="bob", why="still worse") == 1
    with pytest.raises(ModelNotFound, match="no earlier version"):
        three.rollback("waste", who="bob", why="once more")

    assert three.aliases("waste") == {"candidate": 1, "production": 1}
    assert three.set_alias("waste", "production", 3, who="ada", why="mended") == 1
    assert three.rollback("waste", who="bob", why="not mended") == 1
    assert [
        (move.action, move.previous, move.new) for move in three.history("waste") if move.alias == "production"
    ] == [
        ("set", None, 1),
        ("set", 1, 2),
        ("set", 2, 3),
        ("rollback", 3, 2),
        ("rollback", 2, 1),
        ("set", 1, 3),
        ("rollback", 3, 1),
    ]


def test_rollback_knows_moves_that_a_crash_left_in_the_log_only(three: ModelStore) -> None:
    three.set_alias("waste", "production", 1, who="ada", why="first")
    three.set_alias("waste", "production", 2, who="ada", why="second")
    log = three.root / "waste" / "aliases.log"
    not_made = json.loads(log.read_text().splitlines()[-1]) | {"action": "rollback", "previous": 2, "new": 1}
    with log.open("a") as file:
        file.write(json.dumps(not_made) + '\n{"when": "2026')  # and a line cut off

    assert three.rollback("waste", who="bob", why="back") == 1
    assert len(three.history("waste")) == 4


def publish_five(root: Path) -> None:
    for _ in range(5):
        ModelStore(root).publish("waste", writing())


@pytest.mark.timeout(120)
def test_four_processes_publish_at_once_and_no_number_is_lost_or_taken_twice(store: ModelStore) -> None:
    publishers = [SPAWN.Process(target=publish_five, args=(store.root,), daemon=True) for _ in range(4)]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join()

    assert [publisher.exitcode for publisher in publishers] == [0] * 4
    assert store.versions("waste") == list(range(1, 21))
    assert [store.resolve(f"waste:{version}").version for version in range(1, 21)] == list(range(1, 21))


def stage_and_hang(root: Path) -> None:
    def write(folder: Path) -> ManifestDraft:
        (folder / "weights.safetensors").write_bytes(b"half of it")
        time.sleep(60)
        return draft()

    ModelStore(root).publish("waste", write)


def test_a_publisher_killed_while_staging_leaves_nothing_to_be_seen(three: ModelStore) -> None:
    publisher = SPAWN.Process(target=stage_and_hang, args=(three.root,), daemon=True)
    publisher.start()
    deadline = time.monotonic() + 30
    while not list(three.root.glob("waste/staging/*/weights.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert publisher.pid is not None
    os.kill(publisher.pid, signal.SIGKILL)
    publisher.join()

    assert three.versions("waste") == [1, 2, 3]
    assert three.publish("waste", writing()).version == 4
    assert three.sweep() == []
    assert len(three.sweep(older_than_s=-1)) == 1
    assert list((three.root / "waste" / "staging").iterdir()) == []


def move_twenty_times(root: Path, who: str) -> None:
    for turn in range(20):
        ModelStore(root).set_alias("waste", "production", 1 + turn % 3, who=who, why=f"turn {turn}")


@pytest.mark.timeout(120)
def test_readers_never_see_half_an_alias_file_and_every_move_is_in_the_history(three: ModelStore) -> None:
    movers = [SPAWN.Process(target=move_twenty_times, args=(three.root, f"mover {number}")) for number in range(4)]
    for mover in movers:
        mover.start()
    reads = 0
    while any(mover.is_alive() for mover in movers):
        assert three.aliases("waste").get("production") in (None, 1, 2, 3)
        reads += 1

    history = three.history("waste")
    assert reads > 20
    assert [mover.exitcode for mover in movers] == [0] * 4
    assert {(move.who, move.why) for move in history} == {
        (f"mover {number}", f"turn {turn}") for number in range(4) for turn in range(20)
    }
    assert [move.previous for move in history] == [None, *(move.new for move in history[:-1])]
    assert three.aliases("waste")["production"] == history[-1].new
