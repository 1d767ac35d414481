"""A folder of labelled images: its classes, its files, its fingerprint.

The folder holds one folder a class, or ``train/`` and maybe ``val/`` (``valid/``, ``validation/``) that do, in either
case; ``test/`` beside them is left alone. A ``classes.csv`` beside them names the classes: ``class`` (the folder) is
required, ``index`` gives the order, ``name_en``, ``name_zh`` and so on the names, ``group`` or ``group_en`` the group.
Without it a class is called like its folder, and folders count in sorted order.

A ``families.csv`` (or ``manifest.csv``) with the columns ``file``, a path below the folder, and ``family`` says which
images of a class belong together, such as the frames of one film: a split never parts them.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from base.image_files import has_image_suffix, is_system_folder
from base.paths import as_on_disk
from base.process import available_cpus
from base.text_files import TextError, read_table
from vision.errors import VisionError

LABELS_FILE = "classes.csv"
FAMILY_FILES = ("families.csv", "manifest.csv")
TRAIN_FOLDERS = frozenset({"train", "training"})
VALIDATION_FOLDERS = frozenset({"val", "valid", "validation"})
SPLIT_FOLDERS = TRAIN_FOLDERS | VALIDATION_FOLDERS | {"test", "testing"}  # in either case


class DatasetError(VisionError):
    """A folder is not a usable set of labelled images; the message says what is wrong, where, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassInfo:
    """One class: the folder of its images, the label of reports, its names by language, and the group it counts to."""

    folder: str
    label: str
    names: Mapping[str, str]
    group: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class LabelledImage:
    """A file and the index of its class in `Dataset.classes`."""

    path: Path
    class_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Images in the order of class, then path. ``validation`` is None where the folder holds no split of its own.

    ``families`` are those that people named themselves, by path; empty without a ``families.csv``. ``unlisted`` has a
    line for each folder that can't be entered, ``notes`` sentences about what else was passed over. Corrections say of
    which bytes they are (``expected``, sha256 by path), and which images are not to be trained on (``rejected``).
    """

    root: Path
    classes: tuple[ClassInfo, ...]
    train: tuple[LabelledImage, ...]
    validation: tuple[LabelledImage, ...] | None = None
    families: Mapping[Path, str] = field(default_factory=dict)
    unlisted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    expected: Mapping[Path, str] = field(default_factory=dict)
    rejected: Mapping[Path, str] = field(default_factory=dict)  # sha256, or ""

    @property
    def side_names(self) -> tuple[str, str]:
        """What validation and training are called: their folders, where both have one."""
        sides = (self.validation or self.train, self.train)
        val, train = (side[0].path.relative_to(self.root).parts[0] for side in sides)
        is_split = {val.lower(), train.lower()} <= SPLIT_FOLDERS
        return (f"{val}/", f"{train}/") if is_split else ("validation", "training")


def read_dataset(root: Path, *, labels: Path | None = None) -> Dataset:
    """Return the classes and files of a folder; ``labels`` replaces its own ``classes.csv``. No image is opened.

    Hidden files, folders of a system and what has no image suffix are passed over; folders below a class folder belong
    to the class.

    Raises:
        DatasetError: fewer than two class folders, a class without images, validation of an unknown class, folders
            that may be classes or a split, or a labels file that does not fit.
    """
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder; pass the folder that holds one folder of images a class")
    walk = _Walk()
    split, validation_root, unused = _sides(root)
    folders = _folders(split)
    if len(folders) < 2:
        found = f"only the class folder {folders[0]!r}" if folders else "no class folders"
        raise DatasetError(f"{split} has {found}; put the images of each class into a folder named after the class")
    classes = _classes(folders, labels or root / LABELS_FILE, required=labels is not None)

    train = walk.images(split, classes)
    filled = {image.class_index for image in train}
    empty = [info.folder for index, info in enumerate(classes) if index not in filled]
    if empty:
        why = f" ({'; '.join(walk.unlisted)})" if walk.unlisted else ""
        raise DatasetError(
            f"no images in {', '.join(str(split / name) for name in empty)}{why}; add some or remove the folder"
        )
    families = _read_families(root)
    validation = _validation(validation_root, split, classes, walk) if validation_root is not None else None
    return Dataset(
        root=root,
        classes=classes,
        train=train,
        validation=validation,
        families=families,
        unlisted=tuple(walk.unlisted),
        notes=tuple([f"not trained on: {_listing(unused)}"] * bool(unused) + walk.notes()),
    )


def _sides(root: Path) -> tuple[Path, Path | None, list[str]]:
    """Return the folder of training classes, that of validation, and what beside them is left alone."""
    found = _folders(root)
    known = [name for name in found if name.lower() in SPLIT_FOLDERS]
    others = [name for name in found if name not in known]
    train = [name for name in known if name.lower() in TRAIN_FOLDERS and _folders(root / name)]
    validation = [name for name in known if name.lower() in VALIDATION_FOLDERS]
    if not train:
        if len(known) > 1 and not others:
            raise DatasetError(
                f"{root} holds {_listing(known)}, and no train/ with a folder for each class: put the images of each "
                "class into one there, or rename the folders if they are classes"
            )
        return root, None, []
    if len(train) > 1 or len(validation) > 1:
        raise DatasetError(
            f"{root} holds {_listing(train + validation)}; keep one to train on and one to validate with"
        )
    if len(known) == 1 and any(_Walk().paths(root / name) for name in others):
        raise DatasetError(
            f"{root} holds {train[0]}/ with folders in it, and images in {_listing(others)}. If {train[0]} is a class, "
            "move its images out of those folders or rename it; if it holds the classes, move the others away"
        )
    sides = train + validation
    unused = [name for name in found if name not in sides]
    return root / train[0], root / validation[0] if validation else None, unused


def _listing(names: list[str]) -> str:
    return ", ".join(f"{name}/" for name in names)


def _validation(
    validation_root: Path, split: Path, classes: tuple[ClassInfo, ...], walk: _Walk
) -> tuple[LabelledImage, ...]:
    unknown = sorted(set(_folders(validation_root)) - {info.folder for info in classes})
    if unknown:
        raise DatasetError(
            f"{validation_root} has the classes {', '.join(unknown)}, which {split} has not; add them there"
        )
    validation = walk.images(validation_root, classes)
    if not validation:
        raise DatasetError(f"{validation_root} has no images in its class folders; add some or remove it")
    return validation


def fingerprint(dataset: Dataset, digests: Mapping[Path, str] | None = None) -> str:
    """Return 64 hex digits that change with any readable file's content, place or class, and with nothing else.

    ``digests`` are those of `file_digests`, where the caller has them already.
    """
    images = [*dataset.train, *(dataset.validation or ())]
    if digests is None:
        digests = file_digests(image.path for image in images)
    lines = sorted(
        f"{image.path.relative_to(dataset.root).as_posix()}\0{dataset.classes[image.class_index].folder}"
        f"\0{digests[image.path]}\n"
        for image in images
        if image.path in digests
    )
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def file_digests(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the sha256 of each regular file that can be read, in the order of ``paths``."""

    def digest(path: Path) -> tuple[Path, str | None]:
        found = hashlib.sha256()
        try:
            if not path.is_file():  # opening a named pipe waits for a writer who may never come
                return path, None
            with path.open("rb") as file:
                while part := file.read(1 << 20):
                    found.update(part)
        except OSError:
            return path, None
        return path, found.hexdigest()

    with ThreadPoolExecutor(available_cpus()) as pool:
        return {path: digest for path, digest in pool.map(digest, paths) if digest is not None}


def _folders(root: Path) -> list[str]:
    """Return the names of the folders in ``root`` that may be classes or sides of a split."""
    try:
        found = [entry for entry in root.iterdir() if entry.is_dir()] if root.is_dir() else []
        found = [entry for entry in found if not entry.name.startswith(".") and not is_system_folder(entry.name)]
        round_about = [
            entry for entry in found if entry.is_symlink() and root.resolve().is_relative_to(entry.resolve())
        ]
    except OSError as error:
        raise DatasetError(f"{root} can't be listed: {error.strerror}") from error
    if round_about:
        raise DatasetError(f"{round_about[0]} is a link that leads back into a folder that it lies in; remove it")
    return sorted(entry.name for entry in found)


class _Walk:
    """Finds the images of class folders, and keeps what was passed over."""

    def __init__(self) -> None:
        self.unlisted: list[str] = []
        self._skipped: Counter[str] = Counter()

    def images(self, root: Path, classes: tuple[ClassInfo, ...]) -> tuple[LabelledImage, ...]:
        """Return the images of ``classes``, whose folders lie in ``root``."""
        folders = [(index, root / info.folder) for index, info in enumerate(classes)]
        return tuple(LabelledImage(path, index) for index, at in folders if at.is_dir() for path in self.paths(at))

    def paths(self, folder: Path) -> list[Path]:
        """Return the images below ``folder``, sorted. Linked folders are not entered; the depth does not matter."""
        found: list[Path] = []
        folders = [str(folder)]
        while folders:
            above = folders.pop()
            try:
                with os.scandir(above) as entries:
                    for entry in entries:
                        if not entry.name.startswith("."):
                            self._sort(entry, folders, found)
            except OSError as error:
                self.unlisted.append(f"{above}: the folder can't be entered: {error.strerror}")
        return sorted(found)

    def notes(self) -> list[str]:
        """Return a sentence on what was passed over, if anything was."""
        counts = ", ".join(f"{what} {count:,}" for what, count in self._skipped.most_common(20))
        return [f"passed over in class folders: {counts}"] if counts else []

    def _sort(self, entry: os.DirEntry[str], folders: list[str], images: list[Path]) -> None:
        name = entry.name.lower()
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder and not is_system_folder(name):
            folders.append(entry.path)
        elif not is_folder and has_image_suffix(name) and not (entry.is_symlink() and os.path.isdir(entry.path)):  # noqa: PTH112
            images.append(Path(entry.path))
        else:
            self._skipped[f"{name}/" if is_folder else os.path.splitext(name)[1] or "none"] += 1  # noqa: PTH122


def _classes(folders: list[str], labels: Path, *, required: bool) -> tuple[ClassInfo, ...]:
    """Return the classes of these folders; rows of the labels file for other folders are passed over."""
    if not required and not labels.is_file():
        return tuple(ClassInfo(folder=folder, label=folder, names={}) for folder in folders)
    rows = _read_labels(labels)
    forms = {unicodedata.normalize("NFC", name): row for name, row in rows.items()}  # a Mac's folders are in NFD
    rows = {name: row for name in folders if (row := rows.get(name) or forms.get(unicodedata.normalize("NFC", name)))}
    missing = [folder for folder in folders if folder not in rows]
    if missing:
        raise DatasetError(f"{labels} has no row for {', '.join(missing)}; add it, or remove the folder")
    if all("index" in rows[folder] for folder in folders):
        try:
            folders = sorted(folders, key=lambda folder: int(rows[folder]["index"]))
        except ValueError as error:
            raise DatasetError(f"{labels}: the column index must hold whole numbers: {error}") from error
    classes = tuple(_class_info(folder, rows[folder]) for folder in folders)
    seen: dict[str, str] = {}
    for info in classes:
        if info.label in seen:
            raise DatasetError(f"{labels} calls both {seen[info.label]} and {info.folder} {info.label!r}; rename one")
        seen[info.label] = info.folder
    return classes


def _read_labels(path: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a labels file by folder, without empty cells."""
    found: dict[str, dict[str, str]] = {}
    for number, cells in _read_rows(path):
        folder = cells.get("class")
        if folder is None:
            raise DatasetError(f'{path}, line {number}: the column "class" must name the folder')
        if folder in found:
            raise DatasetError(f"{path}, line {number}: a second row for {folder}; keep one")
        found[folder] = cells
    return found


def _read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return line number and cells of the rows of a CSV file with a header, without empty cells."""
    try:
        return read_table(path)[1]
    except TextError as error:
        raise DatasetError(str(error)) from error
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error}") from error


def _read_families(root: Path) -> dict[Path, str]:
    """Return the family of each file that a list of families names; a file without the two columns is no such list."""
    for path in (root / name for name in FAMILY_FILES):
        if path.is_file():
            rows = [row for _, row in _read_rows(path) if {"file", "family"} <= row.keys()]
            if rows:
                return {root / as_on_disk(row["file"], str(root)): row["family"] for row in rows}
    return {}


def _class_info(folder: str, row: Mapping[str, str]) -> ClassInfo:
    names = {key.removeprefix("name_"): value for key, value in row.items() if key.startswith("name_")}
    return ClassInfo(
        folder=folder, label=names.get("en", folder), names=names, group=row.get("group_en") or row.get("group")
    )
