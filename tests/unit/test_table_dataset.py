"""Labelled images as a CSV: what it may say, what is refused with its line, and a report read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vision.training import read_table_dataset
from vision.training.dataset import DatasetError

HEADER = "path,label\n"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "c.png", "d.png", "sub/e.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"picture")
    return tmp_path


def table(folder: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def seen(root: Path, path: Path) -> dict[str, list[str]]:
    dataset = read_table_dataset(path, root)
    sides = {"train": dataset.train, "val": dataset.validation or ()}
    return {
        side: [f"{image.path.relative_to(root)}={dataset.classes[image.class_index].label}" for image in images]
        for side, images in sides.items()
        if images
    }


def test_paths_are_of_the_tables_folder_or_absolute(photos: Path) -> None:
    text = f"{HEADER}a.png,metal\nsub/e.png,glass\n{photos}/b.png,metal\n"
    assert seen(photos, table(photos, text)) == {"train": ["sub/e.png=glass", "a.png=metal", "b.png=metal"]}


def test_splits_and_groups_are_understood(photos: Path) -> None:
    rows = "a.png,x,train,film\nb.png,y,,film\nc.png,x,Validation,\nd.png,y,test,\nsub/e.png,y,val,\n"
    path = table(photos, f"path,label,split,group\n{rows}")
    assert seen(photos, path) == {"train": ["a.png=x", "b.png=y"], "val": ["c.png=x", "sub/e.png=y"]}
    dataset = read_table_dataset(path, photos)
    assert dataset.families == {photos / "a.png": "film", photos / "b.png": "film"}
    assert dataset.notes == ("labels.csv: images of split test 1, passed over",)


def test_a_later_row_takes_the_place_of_an_earlier_and_is_counted(photos: Path) -> None:
    path = table(photos, f"{HEADER}a.png,x\nb.png,y\nc.png,\na.png,y\n./b.png,y\nd.png,x\n")
    assert seen(photos, path) == {"train": ["d.png=x", "a.png=y", "b.png=y"]}
    assert set(read_table_dataset(path, photos).notes) == {
        "labels.csv: images with another label in a later row 1, passed over",
        "labels.csv: repeated rows 1, passed over",
        "labels.csv: rows without a label 1, passed over",
    }


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_of_spreadsheets_are_read(photos: Path, encoding: str) -> None:
    (photos / "größe.png").write_bytes(b"picture")
    path = table(photos, "path;label\r\na.png;Gläser\r\ngröße.png;Dosen\r\n".encode(encoding))
    assert seen(photos, path) == {"train": ["größe.png=Dosen", "a.png=Gläser"]}


def test_a_report_is_read_back_from_wherever_it_lies(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (photos / "100%.png").write_bytes(b"picture")
    (photos / "=1.png").write_bytes(b"picture")
    reports = tmp_path_factory.mktemp("reports")
    text = "path,status,label,confidence\na.png,ok,x,0.9\n100%25.png,ok,y,0.8\n'=1.png,ok,'=y,0.8\nb.png,error,,\n"
    path = table(reports, text, "report.csv")
    (reports / "report.summary.json").write_text(json.dumps({"base": str(photos)}))
    dataset = read_table_dataset(path, Path("/"))
    assert [image.path.name for image in dataset.train] == ["=1.png", "a.png", "100%.png"]
    assert [info.label for info in dataset.classes] == ["=y", "x", "y"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.png,x\n", "it needs path and label"),
        (f"{HEADER}a.png,x\nb.png,x\n", "has 1 labels to train on"),
        (HEADER, "has 0 labels to train on"),
        (f"{HEADER},x\na.png,y\n", "line 2: it needs a path"),
        (f"{HEADER}a.png,{'x' * 501}\n", "line 2: it needs a path, and a label of at most"),
        ("path,label,split\na.png,x,maybe\n", "line 2: the split 'maybe' is unknown"),
        (f"{HEADER}a.png,x\n../../etc/passwd,y\n", r"line 3: \.\./\.\./etc/passwd lies outside the data root"),
        (f"{HEADER}a.png,x\n/etc/passwd,y\n", "line 3: /etc/passwd lies outside"),
        (f"{HEADER}a.png,x\nlink.png,y\n", r"line 3: link\.png lies outside"),
        (f"{HEADER}p.png,x\nq.png,y\n", r"none of the 2 images of .* is there, such as .*p\.png"),
        ("path,label,split\na.png,x,train\nb.png,y,train\nc.png,z,val\n", "only rows of split val have the label 'z'"),
        (b"path,label\n\xff\xfe\xfd,x\n", "labels.csv"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused_with_its_line(photos: Path, text: str, message: str) -> None:
    (photos / "link.png").symlink_to("/etc/passwd")
    with pytest.raises(DatasetError, match=message):
        read_table_dataset(table(photos, text), photos)


def test_a_large_table_is_read(photos: Path) -> None:
    path = table(photos, HEADER + "".join(f"{'ab'[n % 2]}.png,{'xy'[n % 2]}\n" for n in range(200_000)))
    assert seen(photos, path) == {"train": ["a.png=x", "b.png=y"]}
