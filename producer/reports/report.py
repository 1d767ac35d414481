"""What every format of a report is written from, what a format is, and how its file appears: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from base import files
from base.fault import fault
from producer.errors import ProducerError
from producer.reports import EMBED_MB
from producer.reports.layout import Layout
from producer.reports.tally import Tally
from producer.runfile import Plan, RunFile, StoredRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One report of a run.

    Attributes:
        counts: complete once a table is written.
        embed_mb: size of the thumbnails inside a page; further images are linked to, and load when looked at.
        max_pixels: images that claim more get no thumbnail.
        say: takes a line for a person, when something takes long.
    """

    run: RunFile
    layout: Layout
    counts: Tally
    embed_mb: float = EMBED_MB
    max_pixels: int
    say: Callable[[str], None] = lambda text: None


@dataclass(frozen=True, slots=True)
class Format:
    """One format, as ``--format`` names it.

    Attributes:
        write: writes a report beside the path and renames it there, of the rows if it is a table.
        is_table: whether it has a row an image; tables are written while rows are counted, others from the counts.
        check: raises UsageError where a package is missing: before hours of labelling, not after.
        most_rows: that a file can hold.
        check_plan: raises UsageError where the rows of such a run don't fit.
        own_suffix: of its files, where that is not the name.
    """

    name: str
    write: Callable[[Report, Path, Iterable[StoredRow]], object]
    is_table: bool = True
    check: Callable[[], None] = lambda: None
    most_rows: int | None = None
    check_plan: Callable[[Plan], None] = lambda plan: None
    own_suffix: str = ""

    @property
    def suffix(self) -> str:
        """The suffix of its files, without the first dot."""
        return self.own_suffix or self.name


def table(
    name: str,
    write: Callable[[RunFile, Path, Layout, Iterable[StoredRow]], object],
    check: Callable[[], None] = lambda: None,
    **more: Any,
) -> Format:
    """Return the format whose rows ``write`` writes; ``more`` as `Format` has them."""
    return Format(
        name,
        lambda report, path, rows: write(report.run, path, report.layout, rows),
        check=check,
        **more,
    )


@contextmanager
def replacing(path: Path, run_file: Path) -> Iterator[Path]:
    """Yield what `base.files.replacing` does; the draft is the run file's, which one process at a time holds."""
    mark = sha256(f"{os.uname().nodename}:{run_file.absolute()}".encode("utf-8", "surrogateescape")).hexdigest()[:8]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path, mark) as draft:
            yield draft
            fault("report written")
    except OSError as error:
        raise ProducerError(
            f"{path} can't be written: {error.strerror or error}. Every row is safe in {run_file}: "
            f"once this is mended, type the same command again, or sortline report {run_file}"
        ) from error
    fault("report renamed")
