"""Several datasets as one: later labels count, by the bytes of an image; contradictions are counted and named."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from vision.training import combine, file_digests, paths_of, read_dataset, read_table_dataset
from vision.training.dataset import Dataset, DatasetError, fingerprint

COLUMNS = ("path", "label", "verdict", "sha256")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four images in two classes; the bytes of each are its name."""
    for name in ("can/a.png", "can/b.png", "tin/c.png", "tin/d.png"):
        write(tmp_path / "photos" / name)
    return tmp_path / "photos"


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(path.name)
    return path


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def corrections(folder: Path, *rows: Sequence[str], name: str = "corrections.csv") -> Path:
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return folder / name


def joined(*sources: Path) -> Dataset:
    found = [
        read_table_dataset(source, Path("/"), is_alone=len(sources) == 1) if source.is_file() else read_dataset(source)
        for source in sources
    ]
    return combine(found, file_digests(paths_of(found)))


def labels(dataset: Dataset) -> dict[str, str]:
    images = (*dataset.train, *(dataset.validation or ()))
    return {image.path.name: dataset.classes[image.class_index].label for image in images}


def test_one_source_is_as_it_is(photos: Path) -> None:
    assert joined(photos) == read_dataset(photos)


def test_a_later_source_gives_another_label_to_the_same_bytes_wherever_they_lie(photos: Path, tmp_path: Path) -> None:
    write(tmp_path / "inbox" / "b.png")  # a copy of an image of the photos
    write(tmp_path / "inbox" / "new.png")
    rows = [
        (str(tmp_path / "inbox" / "b.png"), "tin", "wrong", ""),
        (str(tmp_path / "inbox" / "new.png"), "wine", "wrong", ""),
    ]
    dataset = joined(photos, corrections(tmp_path, *rows))

    assert labels(dataset) == {"a.png": "can", "b.png": "tin", "c.png": "tin", "d.png": "tin", "new.png": "wine"}
    assert [info.label for info in dataset.classes] == ["can", "tin", "wine"]
    assert {image.path for image in dataset.train if image.path.name == "b.png"} == {photos / "can" / "b.png"}
    assert dataset.notes == ("another label in a later source: 1, b.png (tin, was can)",)
    assert len(fingerprint(dataset)) == 64


def test_the_last_of_several_sources_counts(photos: Path, tmp_path: Path) -> None:
    path = str(photos / "can" / "a.png")
    first = corrections(tmp_path, (path, "tin", "wrong", ""), name="1.csv")
    second = corrections(tmp_path, (path, "wine", "wrong", ""), name="2.csv")

    assert labels(joined(photos, first, second))["a.png"] == "wine"
    assert labels(joined(photos, second, first))["a.png"] == "tin"


def test_what_was_rejected_or_taken_back_has_no_label_of_the_corrections(photos: Path, tmp_path: Path) -> None:
    a, b, c = str(photos / "can" / "a.png"), str(photos / "can" / "b.png"), str(photos / "tin" / "c.png")
    rows = [
        (a, "tin", "wrong", ""), (a, "", "open", ""),
        (b, "", "reject", ""), (b, "can", "right", ""),
        (c, "can", "wrong", ""), (c, "", "reject", digest("c.png")),
    ]  # fmt: skip
    dataset = joined(photos, corrections(tmp_path, *rows))

    assert labels(dataset) == {"a.png": "can", "b.png": "can", "d.png": "tin"}
    assert dataset.notes == ("not usable, left out: 1, c.png",)


def test_a_correction_of_an_image_that_changed_or_is_gone_is_passed_over_and_named(
    photos: Path, tmp_path: Path
) -> None:
    rows = [
        (str(photos / "can" / "a.png"), "tin", "wrong", digest("what it was")),
        (str(tmp_path / "gone.png"), "tin", "wrong", digest("gone")),
        (str(tmp_path / "moved.png"), "tin", "wrong", digest("b.png")),  # its bytes lie among the photos
        (str(photos / "tin" / "c.png"), "", "reject", digest("what it was")),
    ]
    dataset = joined(photos, corrections(tmp_path, *rows))

    assert labels(dataset) == {"a.png": "can", "b.png": "tin", "c.png": "tin", "d.png": "tin"}
    assert dataset.notes[-1] == "corrected, but changed since or gone, passed over: 3, gone.png, a.png, c.png"


def test_a_table_alone_leaves_out_what_changed_since(photos: Path, tmp_path: Path) -> None:
    images = [("can/a.png", "x"), ("can/b.png", "y"), ("tin/c.png", "x"), ("tin/d.png", "y")]
    rows = [(str(photos / name), label, "", digest(Path(name).name)) for name, label in images]
    (photos / "can" / "a.png").write_text("another picture")

    dataset = joined(corrections(tmp_path, *rows))
    assert labels(dataset) == {"b.png": "y", "c.png": "x", "d.png": "y"}
    assert dataset.notes == ("changed since the table was made, passed over: 1, a.png",)


def test_a_corrected_validation_image_goes_on_validating_and_a_class_without_images_goes(tmp_path: Path) -> None:
    for name in ("train/can/a.png", "train/tin/b.png", "train/wine/e.png", "val/can/c.png", "val/tin/d.png"):
        write(tmp_path / "photos" / name)
    rows = [(str(tmp_path / "photos" / "val/can/c.png"), "tin", "wrong", "")]
    rows += [(str(tmp_path / "photos" / "train/wine/e.png"), "tin", "wrong", "")]
    dataset = joined(tmp_path / "photos", corrections(tmp_path, *rows))

    assert dataset.validation is not None
    assert {image.path.name for image in dataset.validation} == {"c.png", "d.png"}
    assert labels(dataset) == {"a.png": "can", "b.png": "tin", "c.png": "tin", "d.png": "tin", "e.png": "tin"}
    assert [info.label for info in dataset.classes] == ["can", "tin"]


def test_corrections_that_leave_one_class_are_refused(photos: Path, tmp_path: Path) -> None:
    rows = [(str(path), "tin", "wrong", "") for path in (photos / "can").iterdir()]
    with pytest.raises(DatasetError, match="1 classes are left of all sources"):
        joined(photos, corrections(tmp_path, *rows))
