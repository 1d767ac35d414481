"""Every awkward file gets the row that it must, its neighbours keep theirs, and none leaves the data root."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

import base.files
from base.errors import ImageError, UnavailableError
from base.files import read_file
from base.paths import path_to_text
from jobs.label import SampledInput
from producer.sources.argument import open_source
from storage.local import MOST_FOLDERS, LocalFolder
from tests.unit.awkward_images import Awkward, corpus, encoded, picture
from tests.unit.test_label_chunk import ColourEngine, chunk_of
from vision.images.decode import ImageLimits
from vision.images.preprocess import Preprocessing
from vision.serving.classifier import Classifier
from worker.label.chunk import label_chunk
from worker.label.data_root import check_sample, place_of

# As in production, where vision.images.decode sets this filter; pytest resets it for each test.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

CORPUS = corpus()
LIMIT = 1_000_000
NOBODY = 65534
MEMORY_MB = 600  # the interpreter with its libraries has about 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("awkward")
    for file in CORPUS:
        file.write(root)
    (root / "neighbour.png").write_bytes(encoded(picture().rotate(180), "PNG"))
    return root


@pytest.fixture(scope="module")
def pool() -> Iterator[tuple[Classifier, ColourEngine]]:
    engine = ColourEngine(micro_batch=3)
    classifier = Classifier(engine, Preprocessing(height_px=8, width_px=8), decode_threads=2)
    yield classifier, engine
    classifier.close()


def test_the_corpus_is_large_and_no_two_files_have_one_name() -> None:
    assert len({file.name for file in CORPUS}) == len(CORPUS) > 300
    formats = {Path(file.name).suffix for file in CORPUS if file.name.startswith("bomb/")}
    assert formats == {".jpg", ".png", ".gif", ".webp", ".bmp", ".tif", ".ppm", ".heic", ".avif"}


@pytest.mark.parametrize("file", CORPUS, ids=[path_to_text(file.name)[:60] for file in CORPUS])
def test_an_awkward_file_has_its_row_and_its_neighbours_have_theirs(
    folder: Path, pool: tuple[Classifier, ColourEngine], file: Awkward
) -> None:
    classifier, engine = pool
    alone = label_chunk(chunk_of("neighbour.png"), classifier, folder).rows[0]
    engine.batches.clear()

    before, row, after = label_chunk(
        chunk_of("neighbour.png", path_to_text(file.name), "neighbour.png"), classifier, folder
    ).rows

    assert before == after == alone
    assert row.error == file.reason, row.detail
    if file.reason is not None:
        assert (row.top, len(row.detail) > 10) == ((), True)
        return
    assert (row.width, row.height) == file.size
    if file.corners is not None:
        pixels = engine.batches[0][1].astype(int)
        shown = [pixels[place] for place in ((0, 0), (0, -1), (-1, 0), (-1, -1))]
        assert np.abs(np.asarray(shown) - file.corners).max() <= file.tolerance, shown


def test_a_walk_finds_what_has_an_images_suffix_and_is_not_hidden(folder: Path) -> None:
    found = list(open_source(str(folder)).paths())

    assert sorted(found) == sorted([*(file.name for file in CORPUS if file.found), "neighbour.png"])
    assert all("\n" not in path_to_text(path) for path in found)


def test_bombs_take_no_more_memory_than_an_image_within_the_limits_may(tmp_path: Path) -> None:
    # In a process of its own. VmHWM, as ru_maxrss of a child starts at what the parent had, which is all of pytest.
    program = f"""
import re
from pathlib import Path
from tests.unit.awkward_images import corpus
from base.errors import ImageError
from storage.local import MOST_FOLDERS, LocalFolder
from vision.images.preprocess import Preprocessing, load_image
for file in corpus():
    if isinstance(file.content, bytes) and file.name.startswith(("bomb/", "long/", "png/text", "jpeg/many")):
        try:
            load_image(file.content, Preprocessing(height_px=32, width_px=32))
        except ImageError:
            pass
peak_mb = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024
assert peak_mb < {MEMORY_MB}, peak_mb
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# --- what moves meanwhile


Swap = Callable[[Path], None]
Way = Callable[[Path, str], bytes]


def read_alone(root: Path, path: str) -> bytes:
    """Resolve the path, then open each of its folders."""
    with LocalFolder(root) as opened:
        return opened._read_resolved(path, LIMIT)


def read(root: Path, path: str) -> bytes:
    """As the first image of a chunk is read: its folder is opened, and kept."""
    with LocalFolder(root) as opened:
        return opened.read(path, LIMIT)


def _last_part(tree: Path) -> None:
    (tree / "data" / "album" / "a.png").unlink()
    (tree / "data" / "album" / "a.png").symlink_to(tree / "private" / "a.png")


def _folder(tree: Path) -> None:
    (tree / "data" / "album").rename(tree / "data" / "old")
    (tree / "data" / "album").symlink_to(tree / "private")


def _target_of_link(tree: Path) -> None:
    (tree / "data" / "real.png").unlink()
    (tree / "data" / "real.png").symlink_to(tree / "private" / "a.png")


def _pipe(tree: Path) -> None:
    (tree / "data" / "album" / "a.png").unlink()
    os.mkfifo(tree / "data" / "album" / "a.png")


@pytest.mark.parametrize(
    ("path", "swap", "reasons"),
    [
        ("album/a.png", _last_part, {"unreadable"}),
        ("album/a.png", _folder, {"not_found", "unreadable"}),
        ("link.png", _target_of_link, {"unreadable"}),
        ("album/a.png", _pipe, {"not_a_file"}),
    ],
)
@pytest.mark.parametrize("way", [read_alone, read])
def test_a_link_put_in_after_the_check_does_not_lead_out_of_the_data_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, swap: Swap, reasons: set[str], way: Way
) -> None:
    for name in ("data/album", "private"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("data/album/a.png", "data/real.png"):
        (tmp_path / name).write_bytes(b"ours")
    (tmp_path / "private" / "a.png").write_bytes(b"secret")
    (tmp_path / "data" / "link.png").symlink_to("real.png")
    resolve, swaps = os.path.realpath, [swap]

    def resolve_and_swap(given: str | Path) -> str:
        resolved = resolve(given)
        while swaps and given != tmp_path / "data":  # the root itself is resolved before
            swaps.pop()(tmp_path)
        return resolved

    assert way(tmp_path / "data", path) == b"ours"
    monkeypatch.setattr("storage.local.os.path.realpath", resolve_and_swap)

    with pytest.raises(ImageError) as caught:
        way(tmp_path / "data", path)
    # The second look, after a first one through a folder that was just opened, finds a link that leads outside.
    assert caught.value.reason in (reasons if way is read_alone else {*reasons, "outside_data_root"})


def test_a_link_that_is_swapped_all_the_time_never_shows_what_lies_outside(tmp_path: Path) -> None:
    inside, outside, name = tmp_path / "data" / "in", tmp_path / "out", tmp_path / "data" / "album"
    for folder, content in ((inside, b"ours"), (outside, b"secret")):
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(content)
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for target in (inside, outside):
                (tmp_path / "next").symlink_to(target)
                (tmp_path / "next").replace(name)

    name.symlink_to(inside)
    seen: set[str] = set()
    with ThreadPoolExecutor(1) as pool:
        swapping = pool.submit(swap)
        try:
            for _ in range(3000):
                try:
                    seen.add(read(tmp_path / "data", "album/a.png").decode())
                except ImageError as error:
                    seen.add(error.reason)
        finally:
            done.set()
        swapping.result()

    assert seen <= {"ours", "outside_data_root", "not_found", "unreadable"}
    assert "ours" in seen


@pytest.mark.parametrize("opened_before", [False, True])
def test_links_beside_a_file_are_followed_below_the_data_root_and_no_further(
    tmp_path: Path, opened_before: bool
) -> None:
    for name in ("data/album", "private"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").write_bytes(name.encode())
    (tmp_path / "data" / "album" / "near.png").symlink_to("../album/a.png")
    (tmp_path / "data" / "album" / "far.png").symlink_to("../../private/a.png")

    with LocalFolder(tmp_path / "data") as root:
        if opened_before:
            root.read("album/a.png", LIMIT)
        near = root.read("album/near.png", LIMIT)
        for path in ("album/far.png", "album/../../private/a.png", "../private/a.png", f"{tmp_path}/private/a.png"):
            with pytest.raises(ImageError, match="not below the worker's data root"):
                root.read(path, LIMIT)

    assert near == b"data/album"


def _other_link(root: Path, other: Path) -> None:
    (root.parent / "new").symlink_to(other)
    (root.parent / "new").replace(root)


def _other_folder(root: Path, other: Path) -> None:  # as another disk is mounted
    root.rename(root.parent / "before")
    other.rename(root)


@pytest.mark.parametrize("swap", [_other_link, _other_folder])
def test_all_that_is_read_is_of_the_folder_that_was_there_at_first(
    swap: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    for name in ("right", "other"):
        for album in ("1", "2"):
            (tmp_path / name / album).mkdir(parents=True)
            (tmp_path / name / album / "a.png").write_bytes(name.encode())
    root = tmp_path / "root"
    if swap is _other_link:
        root.symlink_to(tmp_path / "right")
    else:
        (tmp_path / "right").rename(root)
    sample = (SampledInput(path="1/a.png", size=5, sha256=sha256(b"right").hexdigest()),)

    with LocalFolder(root) as right:
        place = place_of(right, sample)
        swap(root, tmp_path / "other")
        assert [right.read(f"{album}/a.png", LIMIT) for album in ("1", "2")] == [b"right", b"right"]
        assert place_of(right, sample) == place
        check_sample(right, sample)
    with LocalFolder(root) as other:  # which may be back in a moment: it is told by what was read
        assert place_of(other, sample) != place
        with pytest.raises(UnavailableError, match="is it the same folder as the command's"):
            check_sample(other, sample)


def test_more_folders_than_may_be_open_are_read_all_the_same(tmp_path: Path) -> None:
    names = [f"{number}/a.png" for number in range(MOST_FOLDERS + 3)]
    for name in names:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(name.encode())

    with LocalFolder(tmp_path) as root:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        read_all = [root.read(name, LIMIT).decode() for name in names]
        more = len(os.listdir("/proc/self/fd")) - before  # noqa: PTH208

    assert (read_all, more) == (names, MOST_FOLDERS)


def test_a_folder_that_may_be_passed_through_and_not_listed_is_passed_through() -> None:
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as root:  # pytest's own folders let nobody else pass
        Path(root).chmod(0o711)
        closed = Path(root) / "closed"
        closed.mkdir()
        (closed / "a.png").write_bytes(b"ours")
        closed.chmod(0o311)
        if user == 0:
            os.seteuid(NOBODY)  # root may list everything
        try:
            with pytest.raises(PermissionError):
                list(closed.iterdir())
            assert read(Path(root), "closed/a.png") == b"ours"
        finally:
            os.seteuid(user)
            closed.chmod(0o700)


def test_reading_leaves_no_descriptor_open(folder: Path) -> None:
    for file in CORPUS:
        with suppress(ImageError):
            read(folder, file.name)

    open_files = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]  # others' may be closed meanwhile
    assert not [path for path in open_files if path.startswith(str(folder))]


@pytest.mark.parametrize("change", ["grown", "cut", "overwritten"])
def test_a_file_written_while_it_is_read_is_an_error_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture(), "PNG"))
    os.utime(path, ns=(0, 0))
    read = base.files._read_up_to

    def change_and_read(file: io.FileIO, limit: int, expected: int) -> bytes:
        content = path.read_bytes()
        new = {"grown": content * 2, "cut": content[:50], "overwritten": content[::-1]}[change]
        with path.open("r+b") as writing:
            writing.truncate(len(new))
            writing.write(new)
        return read(file, limit, expected)

    monkeypatch.setattr("base.files._read_up_to", change_and_read)

    with pytest.raises(ImageError) as caught:
        read_file(path, LIMIT)
    assert (caught.value.reason, "label it again" in caught.value.detail) == ("changed", True)


def test_files_rewritten_during_a_run_have_old_or_new_content_or_an_error_row(
    tmp_path: Path, pool: tuple[Classifier, ColourEngine]
) -> None:
    path = tmp_path / "a.png"
    contents = [encoded(picture(), "PNG"), encoded(picture().rotate(180), "JPEG"), b"", b"text", b"\x89PNG\r\n\x1a\n"]
    path.write_bytes(contents[0])
    (tmp_path / "other").mkdir()  # an empty data root is no mounted share
    done = threading.Event()

    def rewrite() -> None:
        while not done.is_set():
            for content in contents:
                path.write_bytes(content)
            path.unlink()

    with ThreadPoolExecutor(1) as threads:
        rewriting = threads.submit(rewrite)
        try:
            for _ in range(50):
                rows = label_chunk(chunk_of(*["a.png"] * 16), pool[0], tmp_path, ImageLimits()).rows
                assert len(rows) == 16
                for row in rows:
                    assert row.error is not None or (row.width, row.height) == (64, 32)
        finally:
            done.set()
        rewriting.result()
