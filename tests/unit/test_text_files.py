"""Texts that people write, as editors and spreadsheets save them: each is read, or refused with its name and a cure."""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from base.paths import as_on_disk
from base.text_files import TextError, read_table, read_text
from configs import SettingsError, read_toml
from producer.__main__ import run
from producer.reports.layout import read_class_map
from producer.sources.argument import open_source
from vision.training.dataset import DatasetError, read_dataset
from worker.models import __main__ as models
from worker.models.importing import _classes as read_labels

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "K\u00e4se") for form in ("NFC", "NFD"))
FORMS = [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)]
READ = {
    "plain": lambda text: text.encode(),
    "mark": lambda text: text.encode("utf-8-sig"),
    "windows-mark": lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
    "utf-16": lambda text: text.replace("\n", "\r\n").encode("utf-16"),
    "utf-16-big": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
}
REFUSED = {
    "windows-1252": (lambda text: text.encode("cp1252"), "is not valid UTF-8; save it as UTF-8"),
    "utf-16-without-mark": (lambda text: text.encode("utf-16-le"), "UTF-8"),
    "utf-16-cut": (lambda text: text.encode("utf-16")[:-1], "is not valid UTF-16; save it as UTF-8"),
    "utf-32": (lambda text: text.encode("utf-32"), "UTF-8"),
}


def class_folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "1.png").touch()
    return root


def toml(path: Path) -> object:
    return read_toml(path)


def class_map(path: Path) -> object:
    return {label: name for label, (name, _) in read_class_map(path).items()}


def classes(path: Path) -> object:
    class_folders(path.parent / "set", COMPOSED, "b")
    return {info.folder: info.label for info in read_dataset(path.parent / "set", labels=path).classes}


def families(path: Path) -> object:
    root = class_folders(path.parent / "set", COMPOSED, "b")
    path.rename(root / "manifest.csv")
    return {file.parent.name: family for file, family in read_dataset(root).families.items()}


def labels(path: Path) -> object:
    return {entry.label: "Cheese" if number == 0 else "B" for number, entry in enumerate(read_labels(path, 2))}


READERS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "toml": (toml, "a.toml", f'"{COMPOSED}" = "Cheese"\nb = "B"\n'),
    "class map": (class_map, "a.csv", f"label,name\n{COMPOSED},Cheese\nb,B\n"),
    "class map in TOML": (class_map, "a.toml", f'"{COMPOSED}" = "Cheese"\nb = "B"\n'),
    "classes": (classes, "a.csv", f"class,name_en\n{COMPOSED},Cheese\nb,B\n"),
    "families": (families, "a.csv", f"file,family\n{COMPOSED}/1.png,Cheese\nb/1.png,B\n"),
    "labels": (labels, "a.txt", f"{COMPOSED}\nb\n"),
}


@pytest.mark.parametrize("encoding", READ)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_reads_what_has_a_mark_or_is_utf8(reader: str, encoding: str, tmp_path: Path) -> None:
    read, name, text = READERS[reader]
    (tmp_path / name).write_bytes(READ[encoding](text))

    assert read(tmp_path / name) == {COMPOSED: "Cheese", "b": "B"}


@pytest.mark.parametrize("encoding", REFUSED)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_other_encodings_by_name_and_cure(reader: str, encoding: str, tmp_path: Path) -> None:
    read, name, text = READERS[reader]
    encode, message = REFUSED[encoding]
    (tmp_path / name).write_bytes(encode(text))

    with pytest.raises((TextError, SettingsError, DatasetError), match=message) as refused:
        read(tmp_path / name)
    assert ("manifest.csv" if reader == "families" else name) in str(refused.value)


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("reader", ["class map", "classes", "families"])
def test_every_table_may_have_the_separators_of_spreadsheets(reader: str, separator: str, tmp_path: Path) -> None:
    read, name, text = READERS[reader]
    (tmp_path / name).write_text(text.replace(",", separator) + separator * 2 + "\n", encoding="utf-8")

    assert read(tmp_path / name) == {COMPOSED: "Cheese", "b": "B"}


def test_a_table_tells_its_separator_and_numbers_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'sep=;\r\nclass;name,en\r\n\r\na;"Glass, white; \nclear"\r\n;;\r\nb;\r\n')

    assert read_table(path) == (
        ["class", "name,en"],
        [(5, {"class": "a", "name,en": "Glass, white; \nclear"}), (7, {"class": "b"})],
    )
    path.write_bytes(b"")
    assert (read_table(path), read_text(path)) == (([], []), "")
    path.write_bytes(b"a,b\n" + b"x" * (csv.field_size_limit() + 1) + b",1\n")
    with pytest.raises(TextError, match=r"a\.csv is not a table that can be read: field larger"):
        read_table(path)


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes, bool], list[str]]:
    monkeypatch.chdir(tmp_path)

    def read(data: bytes, is_stdin: bool) -> list[str]:
        (tmp_path / "list.txt").write_bytes(data)
        if not is_stdin:
            return list(open_source("list.txt").paths())
        with (tmp_path / "list.txt").open(encoding="ascii") as given:
            return list(open_source("-", given).paths())

    return read


both_ways = pytest.mark.parametrize("is_stdin", [False, True])


@both_ways
@pytest.mark.parametrize("encoding", READ)
def test_lists_are_read_alike_from_files_and_standard_input(
    listed: Callable[[bytes, bool], list[str]], encoding: str, is_stdin: bool
) -> None:
    assert listed(READ[encoding](f"1.png\n\n{COMPOSED}.png\n日本/3.png\n"), is_stdin) == [
        "1.png",
        f"{COMPOSED}.png",
        "日本/3.png",
    ]


@both_ways
@pytest.mark.parametrize(
    "data",
    ["1.png\n2.png\n".encode("utf-16-le"), "日\n".encode("utf-16-be"), "1.png\n".encode("utf-32"), b"1.png\x002.png"],
)
def test_lists_with_nul_bytes_are_refused(
    listed: Callable[[bytes, bool], list[str]], data: bytes, is_stdin: bool
) -> None:
    name = "standard input" if is_stdin else r"list\.txt"
    with pytest.raises(TextError, match=f"{name} holds NUL bytes.*save it as UTF-8"):
        listed(data, is_stdin)


@both_ways
@pytest.mark.parametrize(("written", "on_disk"), FORMS)
def test_lines_find_names_of_the_other_normal_form_and_give_them_as_on_disk(
    listed: Callable[[bytes, bool], list[str]], tmp_path: Path, written: str, on_disk: str, is_stdin: bool
) -> None:
    class_folders(tmp_path, on_disk, f"{on_disk}/{written}")
    text = f"{written}/1.png\n{written}/{on_disk}/1.png\n{written}/2.png\n{tmp_path}/{written}/1.png\n"

    assert listed(text.encode(), is_stdin) == [
        f"{on_disk}/1.png",
        f"{on_disk}/{written}/1.png",
        f"{written}/2.png",  # there is none: as written
        f"{tmp_path}/{on_disk}/1.png",
    ]


@both_ways
@pytest.mark.parametrize("on_disk", [COMPOSED, DECOMPOSED])
def test_lists_in_windows_1252_find_names_in_utf8(
    listed: Callable[[bytes, bool], list[str]], tmp_path: Path, on_disk: str, is_stdin: bool
) -> None:
    class_folders(tmp_path, on_disk)

    assert listed(f"{COMPOSED}/1.png\r\n".encode("cp1252"), is_stdin) == [f"{on_disk}/1.png"]


@both_ways
def test_lists_that_are_not_utf8_and_find_nothing_are_refused(
    listed: Callable[[bytes, bool], list[str]], tmp_path: Path, is_stdin: bool
) -> None:
    name = os.fsdecode("日本.png".encode("gbk", "replace"))
    gbk = os.fsencode(f"1.png\n{name}\n")
    with pytest.raises(TextError, match=r"is not UTF-8, and no file is called %.*save the list as UTF-8"):
        listed(gbk, is_stdin)
    # One such name on disk, and they are names; a share that is not here says nothing.
    assert listed(gbk.replace(b"\n", b"\nelsewhere/"), is_stdin) == ["1.png", f"elsewhere/{name}", "elsewhere/"]
    (tmp_path / name).touch()
    assert listed(gbk + b"gone\xff.png\n", is_stdin) == ["1.png", name, "gone\udcff.png"]


def test_a_refused_list_ends_the_command_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("1.png\n".encode("utf-16-le"))
    monkeypatch.setenv("SORTLINE_HOME", str(tmp_path / "home"))

    assert run(["label", str(path), "-o", str(tmp_path / "r.csv")]) == 2
    assert "list.txt holds NUL bytes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    assert run(["label", "-", "-o", str(tmp_path / "r.csv")]) == 2
    assert "standard input holds NUL bytes" in capsys.readouterr().err


@pytest.mark.parametrize(("written", "on_disk"), FORMS)
def test_classes_and_families_match_folders_of_the_other_normal_form(
    tmp_path: Path, written: str, on_disk: str
) -> None:
    class_folders(tmp_path, on_disk, "b")
    (tmp_path / "classes.csv").write_text(f"class;name_en\n{written};Cheese\nb;B\n", encoding="utf-8")
    (tmp_path / "families.csv").write_text(f"file;family\n{written}/1.png;film\n", encoding="utf-8")
    dataset = read_dataset(tmp_path)

    assert {info.folder: info.label for info in dataset.classes} == {on_disk: "Cheese", "b": "B"}
    assert dataset.families == {tmp_path / on_disk / "1.png": "film"}
    assert as_on_disk(f"{written}/1.png", str(tmp_path)) == f"{on_disk}/1.png"


def test_labels_in_another_encoding_end_the_import_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "labels.txt").write_bytes(f"{COMPOSED}\nb\n".encode("cp1252"))
    # Labels are read once the network is known; the network itself is no part of this rule.
    monkeypatch.setattr(models, "import_file", lambda *given: read_labels(given[-1], 2))
    monkeypatch.setenv("SORTLINE_HOME", str(tmp_path / "home"))

    assert models.main(["import", "w.safetensors", "--name", "x", "--labels", str(tmp_path / "labels.txt")]) == 2
    assert "labels.txt is not valid UTF-8; save it as UTF-8" in capsys.readouterr().err
