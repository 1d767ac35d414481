"""Folders walked for labelling: nothing is left out without a row or a count."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from base.errors import ImageError
from producer.errors import UsageError
from producer.sources.argument import open_source
from storage.local import LocalFolder


def test_what_systems_leave_in_a_folder_is_counted_and_not_labelled(tmp_path: Path) -> None:
    for name in ("@eaDir/one.png/SYNOPHOTO_THUMB_XL.jpg", "#recycle/a.jpg", "$RECYCLE.BIN/b.jpg", "a/@eaDir/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "one.png").touch()
    source = open_source(str(tmp_path))

    assert list(source.paths()) == ["one.png"]
    assert source.skipped == {"@eadir/": 2, "#recycle/": 1, "$recycle.bin/": 1}
    assert list(open_source(str(tmp_path / "#recycle")).paths()) == ["a.jpg"]  # asked for by its name


def test_a_folder_thousands_of_levels_deep_is_walked_until_its_path_is_too_long(tmp_path: Path) -> None:
    (tmp_path / "z.png").touch()
    at = os.open(tmp_path, os.O_RDONLY)
    for level in range(2500):
        if level == 1500:
            os.close(os.open("x.png", os.O_CREAT | os.O_WRONLY, dir_fd=at))
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    source = open_source(str(tmp_path))

    *_, unlisted, image, last = source.paths()

    assert unlisted == "d/" * unlisted.count("d") != ""
    assert (image, last) == ("d/" * 1500 + "x.png", "z.png")
    assert source.unreadable[0].endswith("File name too long")
    with pytest.raises(ImageError, match="not_a_file"):
        LocalFolder(tmp_path).read(unlisted, 100)
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # deeper than pytest can remove


def test_a_folder_that_may_not_be_entered_is_a_path_and_its_row_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list(open_source(str(tmp_path)).paths()) == ["a/1.png", "b/"]
    with pytest.raises(UsageError, match=r"can't be listed: .*Permission denied"):
        list(open_source(str(tmp_path / "b")).paths())
    with pytest.raises(ImageError, match="not_a_file"):
        LocalFolder(tmp_path).read("b/", 100)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    with pytest.raises(ImageError, match=r"unreadable.*may not be entered"):
        LocalFolder(tmp_path).read("b/", 100)
