"""The cache on a real disk: processes that are killed, that write at once, disks that fill up, bytes that flip."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vision.errors import VisionError
from vision.training.feature_cache import CacheFull, FeatureCache, FeatureSpace
from vision.training.samples import StoredRows

ROOT = Path(__file__).resolve().parents[2]
NAME, OTHER, THIRD = "a" * 64, "b" * 64, "c" * 64
SHAPE = (6,)
LIMIT = 1_000_000
ENTRY_BYTES = 36  # a sha256 and a checksum


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def keys(*numbers: int) -> list[bytes]:
    return [key(number) for number in numbers]


def features(*numbers: int, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    """Rows that tell their number, and that float16 holds exactly."""
    steps = np.arange(np.prod(shape), dtype=np.float32) / 8
    return (np.array(numbers, np.float32)[:, None] + steps).reshape(len(numbers), *shape)


@contextmanager
def opened(root: Path, name: str = NAME, dtype: str = "float32", limit: int = LIMIT) -> Iterator[FeatureSpace]:
    with FeatureCache(root, limit).open(name, SHAPE, dtype, 10) as space:
        yield space


def assert_holds(root: Path, *numbers: int, dtype: str = "float32") -> None:
    with opened(root, dtype=dtype) as space:
        assert space.missing(keys(*numbers)) == []
        np.testing.assert_array_equal(space.rows(keys(*numbers))[:], features(*numbers))


def start(root: Path, code: str) -> subprocess.Popen[str]:
    """Start a process of its own with this module's helpers and the cache at ``root``."""
    text = "from tests.unit.test_feature_cache import *\nroot = Path(sys.argv[1])\n" + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", text, str(root)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    """Close its input, wait, and return what it printed."""
    out, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    return out


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_come_back_equal_and_a_second_opener_finds_them(tmp_path: Path, dtype: str) -> None:
    with opened(tmp_path, dtype=dtype) as space:
        assert space.missing(keys(1, 2, 3)) == [0, 1, 2]
        space.add(keys(3, 1, 2), features(3, 1, 2))
        np.testing.assert_array_equal(space.rows(keys(1, 2, 3, 1))[:], features(1, 2, 3, 1))
        with opened(tmp_path, dtype=dtype) as second:
            assert second.missing(keys(1, 2, 3, 4)) == [3]
    assert_holds(tmp_path, 2, 3, 1, dtype=dtype)
    assert (tmp_path / NAME / "rows.bin").stat().st_size == 3 * 6 * np.dtype(dtype).itemsize


def test_features_of_several_axes_keep_their_shape(tmp_path: Path) -> None:
    with FeatureCache(tmp_path, LIMIT).open(NAME, (2, 3, 4), "float16", 10) as space:
        space.add(keys(1, 2), features(1, 2, shape=(24,)))  # an engine's outputs are flat
        found = space.rows(keys(2, 1))
    assert (found.shape, len(found), found.dtype.name) == ((2, 2, 3, 4), 2, "float32")
    np.testing.assert_array_equal(found[:], features(2, 1, shape=(2, 3, 4)))


def test_a_key_is_missing_once_and_is_added_once(tmp_path: Path) -> None:
    with opened(tmp_path) as space:
        assert space.missing(keys(7, 8, 7, 8, 7)) == [0, 1]
        space.add(keys(7, 8, 7), features(7, 8, 7))
        space.add(keys(8, 9), features(8, 9))
        assert space.missing(keys(7, 8, 9)) == []
    assert (tmp_path / NAME / "keys.bin").stat().st_size == 3 * ENTRY_BYTES


def test_nothing_asked_and_nothing_added_is_no_rows(tmp_path: Path) -> None:
    with opened(tmp_path) as space:
        assert space.missing([]) == []
        space.add([], features())
        assert space.rows([])[:].shape == (0, 6)
        with pytest.raises(KeyError):
            space.rows(keys(1))


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float32"), (np.inf, "float16"), (70_000, "float16")])
def test_features_that_are_no_numbers_are_refused_and_not_kept_for_later_jobs(
    tmp_path: Path, value: float, dtype: str
) -> None:
    rows = features(1, 2)
    rows[1, 3] = value
    with opened(tmp_path, dtype=dtype) as space:
        with pytest.raises(VisionError, match=f'no numbers in {dtype}; set feature_dtype = "float32"'):
            space.add(keys(1, 2), rows)
        assert space.missing(keys(1, 2)) == [0, 1]


def test_rows_are_chosen_by_slices_and_index_arrays_and_read_when_asked_for(tmp_path: Path) -> None:
    with opened(tmp_path) as space:
        space.add(keys(*range(10)), features(*range(10)))
        rows = space.rows(keys(*range(10)))
    np.testing.assert_array_equal(rows[2:5], features(2, 3, 4))
    np.testing.assert_array_equal(rows[np.array([9, 0, 9])], features(9, 0, 9))
    few = rows.only(np.array([5, 3, 8])).only(np.array([2, 0]))
    assert (few.shape, len(few)) == ((2, 6), 2)
    np.testing.assert_array_equal(few[:], features(8, 5))
    assert rows[:0].shape == (0, 6)

    with (tmp_path / NAME / "rows.bin").open("r+b") as file:
        file.write(features(50).tobytes())
    np.testing.assert_array_equal(rows[:2], features(50, 1))  # mapped, not a copy


def test_stored_pixels_stay_what_they_are() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3), dtype=np.uint8)
    rows = StoredRows.of(pixels)
    assert (rows.shape, rows.dtype.name) == ((5, 4, 3, 3), "uint8")
    np.testing.assert_array_equal(rows[np.array([4, 1])], pixels[[4, 1]])


@pytest.mark.parametrize("written", ["no rows", "some rows", "rows without keys", "half a key", "a key and a half"])
def test_a_process_killed_while_it_adds_leaves_a_usable_space(tmp_path: Path, written: str) -> None:
    """Killed within a write: its first bytes are on disk, the others never."""
    with opened(tmp_path) as space:
        space.add(keys(1, 2), features(1, 2))
    process = start(
        tmp_path,
        f"""
        import vision.training.feature_cache as cache
        write, stop = cache._write_at, {written!r}

        def cut(file, offset, array):
            data = array.tobytes()
            length = {{
                "rows.bin": {{"no rows": 0, "some rows": 30, "rows without keys": 72}},
                "keys.bin": {{"half a key": 18, "a key and a half": 54}},
            }}[Path(file.name).name].get(stop)
            write(file, offset, array if length is None else np.frombuffer(data[:length], np.uint8))
            if length is not None:
                os.kill(os.getpid(), signal.SIGKILL)

        cache._write_at = cut
        with opened(root) as space:
            space.add(keys(3, 4, 5), features(3, 4, 5))
        """,
    )
    finish(process, -signal.SIGKILL)

    with opened(tmp_path) as space:
        kept = 1 if written == "a key and a half" else 0
        assert space.missing(keys(1, 2, 3, 4, 5)) == [2, 3, 4][kept:]
        space.add(keys(5, 4, 3, 6), features(5, 4, 3, 6))
        np.testing.assert_array_equal(space.rows(keys(1, 2, 3, 4, 5, 6))[:], features(1, 2, 3, 4, 5, 6))
    assert_holds(tmp_path, 1, 2, 3, 4, 5, 6)
    assert (tmp_path / NAME / "keys.bin").stat().st_size == 6 * ENTRY_BYTES


@pytest.mark.parametrize("left", [0, 3, 24, 60])
def test_rows_that_the_disk_lost_are_missing_and_are_added_again(tmp_path: Path, left: int) -> None:
    with opened(tmp_path) as early, opened(tmp_path) as space:
        space.add(keys(1, 2, 3), features(1, 2, 3))
        assert early.missing(keys(1, 2, 3)) == []
        os.truncate(tmp_path / NAME / "rows.bin", left)
        gone = [0, 1, 2][left // 24 :]
        for one in (early, space):
            assert one.missing(keys(1, 2, 3)) == gone
        space.add(keys(1, 2, 3), features(1, 2, 3))
        np.testing.assert_array_equal(space.rows(keys(1, 2, 3))[:], features(1, 2, 3))
        assert early.missing(keys(1, 2, 3)) == []
        np.testing.assert_array_equal(early.rows(keys(1, 2, 3))[:], features(1, 2, 3))
    assert_holds(tmp_path, 1, 2, 3)


def test_a_flipped_byte_makes_its_row_missing_until_any_job_adds_it_again(tmp_path: Path) -> None:
    with opened(tmp_path) as early, opened(tmp_path) as space:
        space.add(keys(1, 2, 3), features(1, 2, 3))
        assert early.missing(keys(1, 2, 3)) == []
        with (tmp_path / NAME / "rows.bin").open("r+b") as file:
            file.seek(24 + 5)
            (byte,) = file.read(1)
            file.seek(24 + 5)
            file.write(bytes([byte ^ 4]))
        for one in (early, space):
            assert one.missing(keys(1, 2, 3)) == [1]
        space.add(keys(1, 2, 3), features(1, 2, 3))
        for one in (early, space):
            assert one.missing(keys(1, 2, 3)) == []
            np.testing.assert_array_equal(one.rows(keys(1, 2, 3))[:], features(1, 2, 3))
    assert_holds(tmp_path, 1, 2, 3)


def test_two_processes_fill_one_space_at_once(tmp_path: Path) -> None:
    code = """
        print("ready", flush=True)
        sys.stdin.readline()
        mine = list(range({first}, {first} + 150))
        with opened(root) as space:
            for start in range(0, 150, 5):
                some = mine[start : start + 5]
                left = [some[place] for place in space.missing(keys(*some))]
                space.add(keys(*left), features(*left))
            np.testing.assert_array_equal(space.rows(keys(*mine))[:], features(*mine))
        """
    processes = [start(tmp_path, code.format(first=first)) for first in (0, 50)]
    assert [line(process) for process in processes] == ["ready", "ready"]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        finish(process)

    assert_holds(tmp_path, *range(200))
    assert (tmp_path / NAME / "keys.bin").stat().st_size == 200 * ENTRY_BYTES
    assert (tmp_path / NAME / "rows.bin").stat().st_size == 200 * 24


def test_rows_that_nobody_named_are_written_over_and_never_cut_off(tmp_path: Path) -> None:
    """Others may have mapped them, and who reads a mapped page that is gone is killed."""
    with opened(tmp_path) as space:
        space.add(keys(1, 2), features(1, 2))
        with (tmp_path / NAME / "rows.bin").open("ab") as file:
            file.write(bytes(50_000))
        rows = space.rows(keys(1, 2))
        with opened(tmp_path) as second:
            second.add(keys(3), features(3))
        assert (tmp_path / NAME / "rows.bin").stat().st_size == 2 * 24 + 50_000
        np.testing.assert_array_equal(rows[:], features(1, 2))
    assert_holds(tmp_path, 1, 2, 3)


def test_rows_outlive_the_space_and_its_files(tmp_path: Path) -> None:
    with opened(tmp_path) as space:
        space.add(keys(1, 2), features(1, 2))
        rows = space.rows(keys(2, 1))
    shutil.rmtree(tmp_path / NAME)
    np.testing.assert_array_equal(rows[:], features(2, 1))


def test_a_disk_that_fills_up_raises_and_leaves_a_usable_space(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        """
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with opened(root) as space:
            space.add(keys(1, 2), features(1, 2))
            for limit in (24 * 2 + 10, 36 * 4 + 7):  # within a row; within a key
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                try:
                    space.add(keys(3, 4, 5), features(3, 4, 5))
                except OSError as error:
                    print(type(error).__name__, limit)
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                print(space.missing(keys(1, 2, 3, 4, 5)))
                np.testing.assert_array_equal(space.rows(keys(1, 2))[:], features(1, 2))
            space.add(keys(3, 4, 5), features(3, 4, 5))
            np.testing.assert_array_equal(space.rows(keys(1, 2, 3, 4, 5))[:], features(1, 2, 3, 4, 5))
        """,
    )
    # In the second round the rows fit, and two keys.
    assert finish(process).splitlines() == ["OSError 58", "[2, 3, 4]", "OSError 151", "[4]"]
    assert_holds(tmp_path, 1, 2, 3, 4, 5)


def test_a_folder_that_goes_away_while_it_is_used_is_a_clear_error(tmp_path: Path) -> None:
    with opened(tmp_path) as space:
        space.add(keys(1), features(1))
        shutil.rmtree(tmp_path / NAME)
        with opened(tmp_path) as anew:  # a job after the removal
            anew.add(keys(2, 1), features(2, 1))
            for use in (
                lambda: space.missing(keys(1)),
                lambda: space.add(keys(3), features(3)),
                lambda: space.rows(keys(1)),
            ):
                with pytest.raises(FileNotFoundError, match=f"removed features that a job was using.*{NAME}"):
                    use()
    assert_holds(tmp_path, 1, 2)


def test_a_cache_that_goes_away_whole_is_a_clear_error(tmp_path: Path) -> None:
    with opened(tmp_path / "cache") as space:
        shutil.rmtree(tmp_path / "cache")
        with pytest.raises(FileNotFoundError, match="run the job again"):
            space.add(keys(1), features(1))
    with opened(tmp_path / "cache") as space:
        assert space.missing(keys(1)) == [0]


def test_a_job_that_needs_more_than_the_limit_is_told_what_to_do(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 2_000_000_000)
    with (
        pytest.raises(CacheFull, match=r"need 3\.5 GB.*may take 2\.0 GB; raise SORTLINE_FEATURE_CACHE_BYTES"),
        cache.open(NAME, (1250,), "float32", 700_000),
    ):
        pass


def fill(root: Path, name: str, rows: int, used_at: float) -> None:
    with opened(root, name) as space:
        space.add(keys(*range(rows)), features(*range(rows)))
    os.utime(root / name, (used_at, used_at))


def present(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if path.is_dir()}


def test_the_longest_unused_space_makes_way_first_and_no_more_than_needed(tmp_path: Path) -> None:
    for name, used_at in ((NAME, 300), (OTHER, 100), (THIRD, 200)):
        fill(tmp_path, name, 10, used_at)  # 600 bytes each

    with opened(tmp_path, "d" * 64, limit=2400):
        assert present(tmp_path) == {NAME, OTHER, THIRD, "d" * 64}
    with opened(tmp_path, "d" * 64, limit=2399):
        assert present(tmp_path) == {NAME, THIRD, "d" * 64}
    with opened(tmp_path, "d" * 64, limit=600):
        assert present(tmp_path) == {"d" * 64}


def test_rows_that_are_there_already_need_no_more_room(tmp_path: Path) -> None:
    fill(tmp_path, NAME, 10, 100)
    fill(tmp_path, OTHER, 10, 200)
    with opened(tmp_path, NAME, limit=1200):
        assert present(tmp_path) == {NAME, OTHER}
    with opened(tmp_path, NAME, limit=1199):
        assert present(tmp_path) == {NAME}


def test_a_space_counts_as_used_from_when_it_is_opened_until_it_is_closed(tmp_path: Path) -> None:
    fill(tmp_path, NAME, 10, 100)
    fill(tmp_path, OTHER, 10, 200)
    with opened(tmp_path):
        assert (tmp_path / NAME).stat().st_mtime > 200
        os.utime(tmp_path / NAME, (100, 100))  # opened long ago
    with opened(tmp_path, THIRD, limit=1200):
        assert present(tmp_path) == {NAME, THIRD}


def test_a_space_that_another_process_has_open_is_not_removed(tmp_path: Path) -> None:
    fill(tmp_path, NAME, 10, 100)
    fill(tmp_path, OTHER, 10, 200)
    process = start(tmp_path, "with opened(root):\n    print('open', flush=True)\n    sys.stdin.readline()\n")
    assert line(process) == "open"

    with opened(tmp_path, THIRD, limit=600):
        assert present(tmp_path) == {NAME, THIRD}
    finish(process)
    with opened(tmp_path, THIRD, limit=600):
        assert present(tmp_path) == {THIRD}


def test_the_space_that_is_opened_is_not_removed(tmp_path: Path) -> None:
    fill(tmp_path, NAME, 10, 100)
    fill(tmp_path, OTHER, 10, 200)
    with opened(tmp_path, NAME, limit=600) as space:
        assert space.missing(keys(*range(10))) == []
        assert present(tmp_path) == {NAME}


def test_a_space_that_was_outgrown_by_the_rows_of_other_jobs_starts_anew_unless_it_is_in_use(tmp_path: Path) -> None:
    fill(tmp_path, NAME, 20, 100)  # 1200 bytes, of which this job may need none
    with opened(tmp_path, NAME, limit=1800) as space:
        assert space.missing(keys(*range(20))) == []
        with opened(tmp_path, NAME, limit=1799) as second:
            assert second.missing(keys(*range(20))) == []
    with opened(tmp_path, NAME, limit=1799) as space:
        assert space.missing(keys(0)) == [0]


def test_an_opener_waits_while_its_space_is_being_removed(tmp_path: Path) -> None:
    """The lock comes before the folder: between the two nobody may remove it."""
    fill(tmp_path, NAME, 10, 100)
    process = start(
        tmp_path,
        """
        import vision.training.feature_cache as cache
        remove = shutil.rmtree

        def slowly(path):
            print("removing", flush=True)
            sys.stdin.readline()
            remove(path)

        shutil.rmtree = slowly
        with opened(root, OTHER, limit=600):
            pass
        """,
    )
    assert line(process) == "removing"
    opener = start(
        tmp_path,
        """
        print("opening", flush=True)
        with opened(root) as space:
            print(space.missing(keys(1)), flush=True)
            space.add(keys(1), features(1))
        """,
    )
    assert line(opener) == "opening"
    with pytest.raises(subprocess.TimeoutExpired):
        opener.wait(0.3)
    finish(process)
    assert finish(opener).strip() == "[0]"
    assert_holds(tmp_path, 1)


def test_what_else_lies_in_the_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "large.jpg").write_bytes(bytes(5000))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ("e" * 64)).write_text("a file that is called like a space")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    fill(tmp_path, OTHER, 10, 100)
    with opened(tmp_path, NAME, limit=600) as space:
        space.add(keys(1), features(1))
    assert present(tmp_path) == {"photos", NAME}
    assert (tmp_path / "photos" / "large.jpg").stat().st_size == 5000
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("when", ["before it is weighed", "before it is removed"])
def test_spaces_that_other_jobs_remove_meanwhile_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    fill(tmp_path, OTHER, 10, 100)
    remove = shutil.rmtree
    if when == "before it is removed":

        def second(path: Path) -> None:
            remove(path)
            remove(path)

        monkeypatch.setattr("vision.training.feature_cache.shutil.rmtree", second)
    else:
        is_dir = Path.is_dir

        def stale(self: Path) -> bool:
            found = is_dir(self)
            if self == tmp_path / OTHER:
                remove(self)
            return found

        monkeypatch.setattr(Path, "is_dir", stale)
    with opened(tmp_path, NAME, limit=600) as space:
        space.add(keys(1), features(1))
    monkeypatch.undo()
    assert present(tmp_path) == {NAME}


def test_only_the_rows_asked_for_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a space of 100,000 rows must not read all of them from the disk."""
    with opened(tmp_path) as space:
        space.add(keys(*range(50)), features(*range(50)))
    checked: list[Any] = []
    crc32 = zlib.crc32

    def counted(row: Any) -> int:
        checked.append(row)
        return crc32(row)

    monkeypatch.setattr("vision.training.feature_cache.zlib.crc32", counted)
    with opened(tmp_path) as space:
        assert space.missing(keys(3, 99)) == [1]
    assert len(checked) == 1
