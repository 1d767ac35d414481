"""What all sides share: names of image files, text that is safe where it is shown, files that appear whole."""

from __future__ import annotations

import errno
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from base.files import replacing, write_file
from base.image_files import IMAGE_SUFFIXES
from base.process import ended_itself, resident_bytes
from base.text import printable, safe_cell
from producer.sources.argument import open_source
from vision.training.dataset import read_dataset

ROOT = Path(__file__).resolve().parents[2]


def test_the_same_files_are_labelled_and_trained_on(tmp_path: Path) -> None:
    names = [f"{number}{suffix}" for number, suffix in enumerate(sorted(IMAGE_SUFFIXES))]
    for name in [*names, *map(str.upper, names), ".hidden.png", "notes.txt", "png"]:
        for folder in ("cat", "dog"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).touch()

    labelled = {tmp_path / path for path in open_source(str(tmp_path)).paths()}

    assert {image.path for image in read_dataset(tmp_path).train} == labelled
    assert len(labelled) == 4 * len(IMAGE_SUFFIXES)
    assert {".jpe", ".dib", ".pbm", ".pnm"} < IMAGE_SUFFIXES


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_cell_that_a_spreadsheet_would_run_gets_a_quote_before_it(start: str) -> None:
    assert safe_cell(f"{start}HYPERLINK(1)") == f"'{start}HYPERLINK(1)"
    assert safe_cell(f"a{start}b") == f"a{start}b"


def test_what_is_printed_stays_in_one_line_and_commands_no_terminal() -> None:
    hostile = "\x1b]0;owned\x07\r\n\x85\u2028\u200e\u202egpj.exe\u2069\udce9\x7f"

    assert printable(hostile).isprintable()
    assert printable(hostile).startswith("\\x1b]0;owned\\x07\\r\\n\\x85\\u2028\\u200e\\u202egpj.exe")
    assert printable("Glas ü 日本") == "Glas ü 日本"


def test_a_file_that_is_replaced_stays_whole_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write_file(path, b"old")

    with suppress(RuntimeError), replacing(path) as draft:
        draft.write_bytes(b"half")
        raise RuntimeError

    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


def test_a_file_for_which_the_disk_has_no_room_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left on device: .*report\.csv"), replacing(tmp_path / "report.csv"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_draft_that_a_killed_process_left_is_written_over_and_a_link_in_its_place_is_not_followed(
    tmp_path: Path,
) -> None:
    path, other = tmp_path / "report", tmp_path / "other"
    other.write_bytes(b"of somebody else")
    (tmp_path / ".report.mine.new").symlink_to(other)

    write_file(path, b"new", mark="mine")

    assert (path.read_bytes(), other.read_bytes()) == (b"new", b"of somebody else")
    assert sorted(tmp_path.iterdir()) == [other, path]


def test_the_memory_of_a_process_is_told() -> None:
    assert 1_000_000 < resident_bytes() < 10**11


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone kills children with their parent")
def test_a_process_whose_parent_is_gone_already_ends_at_once() -> None:
    program = "from base.process import die_with; die_with(1 << 30); print('still here')"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)

    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize(
    ("command", "by_itself"),
    [("exit 1", True), ("kill -SEGV $$", True), ("kill -ABRT $$", True), ("kill -KILL $$", False), ("kill $$", False)],
)
def test_an_end_of_its_own_doing_differs_from_one_by_a_signal_from_outside(command: str, by_itself: bool) -> None:
    assert ended_itself(subprocess.run(["sh", "-c", command], check=False).returncode) is by_itself
