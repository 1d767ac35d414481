"""Sources: which images a folder, a list or standard input means, in which order, and what is said of the rest."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from base.image_files import IMAGE_SUFFIXES
from base.paths import path_to_text
from producer.errors import UsageError
from producer.sources.argument import open_source
from producer.sources.images import MOST_SUFFIXES


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def paths_of(argument: Path) -> list[str]:
    return list(open_source(str(argument)).paths())


def test_a_folder_gives_its_images_below_it_in_sorted_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.png", "a/2.jpg", "a/10.jpg", "a/deep/er/x.webp", "c/y.jpg", "Z.jpg")

    assert paths_of(tmp_path) == ["Z.jpg", "a/10.jpg", "a/2.jpg", "a/deep/er/x.webp", "a.png", "b.jpg", "c/y.jpg"]


def test_the_order_does_not_depend_on_when_files_were_made(tmp_path: Path) -> None:
    names = [f"{number:03}.jpg" for number in range(50)]
    touch(tmp_path / "up", *names)
    touch(tmp_path / "down", *reversed(names))

    assert paths_of(tmp_path / "up") == paths_of(tmp_path / "down") == names


def test_suffixes_count_in_either_case(tmp_path: Path) -> None:
    touch(tmp_path, *(f"lower{suffix}" for suffix in IMAGE_SUFFIXES), *(f"UPPER{s.upper()}" for s in IMAGE_SUFFIXES))

    assert len(paths_of(tmp_path)) == 2 * len(IMAGE_SUFFIXES)


def test_other_files_are_counted_and_hidden_ones_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "notes.md", "sub/Makefile", "sub/movie.mp4", "jpg", ".DS_Store", ".thumbs/b.jpg", ".c.jpg")
    source = open_source(str(tmp_path))

    assert list(source.paths()) == ["a.jpg"]
    assert source.skipped == {".md": 1, "none": 2, ".mp4": 1}


def test_suffixes_are_counted_apart_up_to_a_limit(tmp_path: Path) -> None:
    touch(tmp_path, *(f"a.{number}" for number in range(MOST_SUFFIXES + 5)), "b.0", f"c.{'x' * 99}", "D.7", "e.7\u202e")
    source = open_source(str(tmp_path))

    assert list(source.paths()) == []
    assert len(source.skipped) == MOST_SUFFIXES + 1
    assert sum(source.skipped.values()) == MOST_SUFFIXES + 9
    assert (source.skipped[".0"], source.skipped["other"]) == (2, 7)


def test_links_to_files_are_images_and_links_to_folders_are_not_entered(tmp_path: Path) -> None:
    # A link to a folder may lead out of the data root or round in circles. It counts as a skipped file; with an image's
    # suffix it is an input like any other, whose row then says that it is no file.
    touch(tmp_path, "in/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "in" / "link.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    (tmp_path / "in" / "dangling.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "in" / "circle").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "folder.png").symlink_to(tmp_path / "elsewhere")
    source = open_source(str(tmp_path / "in"))

    assert list(source.paths()) == ["a.jpg", "dangling.jpg", "folder.png", "link.jpg"]
    assert source.skipped == {"none": 2}


def test_a_folder_named_like_an_image_is_entered(tmp_path: Path) -> None:
    touch(tmp_path, "album.jpg/a.jpg")

    assert paths_of(tmp_path) == ["album.jpg/a.jpg"]


def test_a_source_that_is_itself_a_link_is_entered_and_keeps_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.jpg")
    (tmp_path / "inbox").symlink_to(tmp_path / "real")
    source = open_source(str(tmp_path / "inbox"))

    assert (source.name, source.base, list(source.paths())) == ("inbox", str(tmp_path / "inbox"), ["a.jpg"])


def test_a_folder_that_can_not_be_listed_is_an_input_and_the_others_are_walked(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "c/3.jpg")
    # Longer than any path may be: the one failure of listing that even root meets.
    deep, name = tmp_path / "b", "x" * 200
    deep.mkdir()
    descriptor = os.open(deep, os.O_RDONLY)
    for _ in range(22):
        os.mkdir(name, dir_fd=descriptor)  # relative to a descriptor, since no path reaches so deep
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    source = open_source(str(tmp_path))

    first, folder, last = source.paths()

    assert (first, last) == ("a/1.jpg", "c/3.jpg")
    assert re.fullmatch(f"b/({name}/)+", folder)
    assert len(source.unreadable) == 1
    assert source.unreadable[0].startswith(f"{deep}/{name}")
    assert source.unreadable[0].endswith(": File name too long")


def test_one_image_is_a_source_of_one_whatever_its_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "scan.dat")
    source = open_source(str(tmp_path / "scan.dat"))

    assert list(source.paths()) == ["scan.dat"]
    assert (source.name, source.base, source.is_folder) == ("scan", str(tmp_path), False)


def test_a_list_gives_its_lines_as_they_stand_and_starts_at_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    list_file = tmp_path / "lists" / "monday.txt"
    list_file.parent.mkdir()
    list_file.write_bytes("b.jpg\n\n/abs/a.jpg\r\n  spaced .jpg\n../up.jpg\nb.jpg\nMüll.jpg".encode())
    source = open_source("lists/monday.txt")

    lines = ["b.jpg", "/abs/a.jpg", "  spaced .jpg", "../up.jpg", "b.jpg", "Müll.jpg"]
    assert list(source.paths()) == lines  # neither sorted nor made unique: a report has one row a line
    assert list(source.paths()) == lines  # and can be read again
    assert (source.name, source.base, source.is_folder) == ("monday", str(tmp_path), False)


def test_a_folder_named_like_a_list_is_walked(tmp_path: Path) -> None:
    touch(tmp_path, "odd.txt/a.jpg")

    assert paths_of(tmp_path / "odd.txt") == ["a.jpg"]


def test_a_dash_reads_the_list_from_standard_input_once() -> None:
    source = open_source("-", io.StringIO("b.jpg\n\na.jpg\n"))

    assert list(source.paths()) == list(source.paths()) == ["b.jpg", "a.jpg"]
    assert (source.name, source.base, source.is_folder) == ("stdin", str(Path.cwd()), False)


@pytest.mark.parametrize("argument", ["nowhere", "nowhere.txt", "nowhere/a.jpg", ""])
def test_a_source_that_is_not_there_is_refused_with_what_a_source_is(
    argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if argument == "":
        assert open_source(argument).is_folder  # the working folder, as for every other tool
        return
    with pytest.raises(
        UsageError, match=rf"no such folder or file: {argument}\. SOURCE is a folder, an image, a \.txt"
    ):
        open_source(argument)


NOT_UTF8 = os.fsdecode(b"caf\xe9.jpg")


def test_a_name_that_is_not_utf8_is_found_in_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, NOT_UTF8, "cafe.jpg", "cafz.jpg")

    assert paths_of(tmp_path) == ["cafe.jpg", "cafz.jpg", NOT_UTF8]


def test_a_name_that_is_not_utf8_is_read_from_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, NOT_UTF8)
    (tmp_path / "list.txt").write_bytes(b"a.jpg\ncaf\xe9.jpg\n")

    assert paths_of(tmp_path / "list.txt") == ["a.jpg", NOT_UTF8]


def test_a_name_that_is_not_utf8_is_read_from_standard_input_in_every_locale(tmp_path: Path) -> None:
    touch(tmp_path, NOT_UTF8)
    program = (
        "from producer.sources.argument import open_source; print([ascii(path) for path in open_source('-').paths()])"
    )
    for encoding in ("utf-8:strict", "ascii:strict"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            input="Müll.jpg\n".encode() + b"caf\xe9.jpg\n",
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONIOENCODING": encoding},
            cwd=tmp_path,
            timeout=60,
            check=False,
        )
        assert done.stderr == b""
        assert done.stdout.decode().strip() == str([ascii("Müll.jpg"), ascii(NOT_UTF8)])


@pytest.mark.parametrize("kind", ["folder", "list", "file"])
def test_the_name_of_a_source_can_be_written_anywhere(tmp_path: Path, kind: str) -> None:
    stem = os.fsdecode(b"caf\xe9")
    path = tmp_path / {"folder": stem, "list": f"{stem}.txt", "file": f"{stem}.jpg"}[kind]
    path.mkdir() if kind == "folder" else path.touch()
    source = open_source(str(path))

    assert source.name == path_to_text(stem) == "caf%E9"
    assert source.base.encode("utf-8", "surrogateescape").startswith(os.fsencode(tmp_path)) or kind == "list"
