"""Names and places that no report can have; looked at before anything is labelled."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from base.image_files import has_image_suffix
from producer.errors import UsageError

# Other programs would open these as something else. A name with another suffix, as of a date, is a folder's.
OTHER_FORMATS = frozenset(
    suffix
    for suffixes in (
        "json ndjson geojson json5 xml yaml yml toml ini cfg htm xhtml mht mhtml svg pdf md rst tex rtf doc docx odt",
        "tsv tab psv xls xlsm xlsb ods numbers pq feather arrow ipc orc avro h5 hdf5 mat npy npz pkl pickle log",
        "db sqlite sqlite3 sql dta sav sas7bdat rds rdata gz tgz bz2 xz zst lz4 zip 7z tar rar run",
    )
    for suffix in suffixes.split()
)
DRAFT = ".12345678.new"  # what a file's name has more while it is written, and a dot


def refuse_other_formats(path: Path, formats: Iterable[str]) -> None:
    """Raise UsageError for a name, not of a folder that is there, whose suffix is that of another format."""
    if not path.is_dir() and (path.suffix.lower().removeprefix(".") in OTHER_FORMATS or has_image_suffix(path.name)):
        raise UsageError(
            f"{path}: no report has the format {path.suffix}; there are {', '.join(formats)}. A name without such a "
            "suffix is that of a folder for all files"
        )


def refuse_unwritable(path: Path) -> None:
    """Raise UsageError where no file can be put at ``path``; its folder need not exist yet."""
    try:
        if path.is_dir():
            raise UsageError(f"{path} can't be written: it is a folder")
        with suppress(FileNotFoundError):
            path.with_name(f".{path.name}{DRAFT}").lstat()
        with TemporaryFile(dir=next(parent for parent in path.parents if parent.exists())):
            pass
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}; name another place") from error
