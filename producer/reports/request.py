"""Which reports somebody wants of a run, and where; kept in the run file so that they can be made again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

from pydantic import TypeAdapter

from producer.errors import UsageError
from producer.reports import EMBED_MB, CsvDialect
from producer.reports.bursts import Bursts
from producer.reports.csv import CSV, write_errors
from producer.reports.jsonl import JSONL
from producer.reports.layout import Layout, read_class_map
from producer.reports.megadetector import MEGADETECTOR
from producer.reports.output import refuse_other_formats, refuse_unwritable
from producer.reports.page import HTML
from producer.reports.parquet import PARQUET
from producer.reports.report import Report
from producer.reports.summary import write_summary
from producer.reports.tally import Tally, Truth, counted
from producer.reports.truth import FolderTruth
from producer.reports.xlsx import XLSX
from producer.runfile import RunFile, StoredRow

# In the order in which they are listed and written. A new one is a file and a word here.
FORMATS = {format_.name: format_ for format_ in (CSV, PARQUET, JSONL, XLSX, MEGADETECTOR, HTML)}

_BARE = {"txt": ["csv"], "json": ["megadetector"]}  # suffixes that a report of one format alone may have

FIRST_S = 1.0  # in which the first chunks are sent, before an early report takes its part of the time


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The reports of one run.

    Attributes:
        outputs: absolute path by format, in the order of FORMATS, then "errors" and "summary".
        ranks: labels a row; all that the run kept when None.
        class_map: as read; kept, so that a file that has changed since changes no report made again.
        embed_mb: size of the thumbnails inside the page.
        bursts_s: the longest gap within a burst; without it there are no columns of bursts.
        min_confidence, target_precision, columns, csv_dialect: as `Layout` has them.
    """

    outputs: dict[str, str]
    ranks: int | None = None
    probabilities: bool = False
    class_map: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    truth: Truth = "auto"
    embed_mb: float = EMBED_MB
    bursts_s: float | None = None
    min_confidence: float | None = None
    target_precision: float | None = None
    columns: list[str] = field(default_factory=list)
    csv_dialect: CsvDialect | None = None

    @property
    def main(self) -> Path:
        """The report to name first."""
        return Path(next(iter(self.outputs.values())))

    @property
    def tables(self) -> list[str]:
        """Those of the formats that are tables."""
        return [name for name in self.formats if FORMATS[name].is_table]

    def path(self, name: str) -> Path:
        """Return where the output of this name goes."""
        return Path(self.outputs[name])

    @property
    def formats(self) -> list[str]:
        """The formats with a row an image."""
        return [name for name in self.outputs if name in FORMATS]

    def layout(self, run: RunFile) -> Layout:
        """Return the columns; UsageError when the run can't fill them."""
        if self.bursts_s is not None and not run.plan.exif:
            raise UsageError(f"run {run.plan.run} did not keep when photos were taken; label again with --bursts")
        return Layout.of(
            run.plan,
            ranks=self.ranks,
            class_map=self.class_map,
            probabilities=self.probabilities,
            bursts=Bursts(run, self.bursts_s) if self.bursts_s is not None else None,
            min_confidence=self.min_confidence,
            target_precision=self.target_precision,
            chosen=self.columns,
            csv_dialect=self.csv_dialect,
        )

    def check_rows(self, run: RunFile) -> None:
        """Raise UsageError when the rows can't fill the columns, or the folders name no class where they should."""
        layout = self.layout(run)
        for name in self.formats:
            FORMATS[name].check_plan(run.plan)
        for most, name in ((FORMATS[name].most_rows, name) for name in self.formats):
            if most is not None and run.total > most:
                raise UsageError(f"--format {name}: a file holds {most:,} rows, and this run has {run.total:,}")
        if self.truth == "folders":
            FolderTruth(run, layout, is_asked_for=True).check()

    def keep(self, run: RunFile) -> None:
        run.keep_request(str(self.main), json.dumps(asdict(self)))

    def check_places(self) -> None:
        """Raise UsageError where a report could not be put: before hours of labelling, not after."""
        for file in self.outputs.values():
            refuse_unwritable(Path(file))

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Return the request in ``text``; ValueError when it is none."""
        found: Request = TypeAdapter(cls).validate_json(text)
        return found


def requests_of(run: RunFile) -> list[Request]:
    """Return what was asked for of ``run``, the newest last."""
    return requests_of_text(run.requests())


def requests_of_text(texts: Iterable[str]) -> list[Request]:
    """Return the requests that a run file keeps as ``texts``."""
    return [Request.from_json(text) for text in texts]


def request_of(
    output: Path,
    formats: str | None,
    *,
    in_folder: Sequence[str] = ("csv",),
    class_map: Path | None = None,
    **more: Any,
) -> Request:
    """Return what options ask for; UsageError for what would fail only when all work is done.

    Args:
        more: as `Request` has them.
    """
    outputs = outputs_of(output, formats_of(formats), in_folder=in_folder)
    for name in outputs.keys() & FORMATS.keys():
        FORMATS[name].check()
    return Request(outputs=outputs, class_map=read_class_map(class_map) if class_map is not None else {}, **more)


def formats_of(text: str | None) -> list[str]:
    """Return the formats in a list such as "csv,html"; UsageError names an unknown one."""
    names = [name.strip().lower() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if name not in FORMATS:
            raise UsageError(f"--format {name}: no such format; there are {', '.join(FORMATS)}")
    return [name for name in FORMATS if name in names]


def outputs_of(output: Path, formats: Sequence[str], *, in_folder: Sequence[str] = ("csv",)) -> dict[str, str]:
    """Return where each report goes; UsageError where a suffix promises what no report holds.

    ``report.csv`` stands for itself, and with several formats for ``report.html`` and so on beside it, with
    ``report.errors.csv`` and ``report.summary.json``. Any other name, dots or not, is a folder, which holds
    ``report.*``, ``errors.csv`` and ``summary.json``. A text file may hold the CSV.
    """
    if str(output) == "-":
        raise UsageError("-o -: reports are files; name one, or a folder")
    path = Path(os.path.abspath(output))  # noqa: PTH100 - links stay as the user wrote them
    suffix = path.suffix.lower().removeprefix(".")
    if not formats and path.name.lower().endswith(f".{MEGADETECTOR.suffix}"):
        formats = [MEGADETECTOR.name]
    is_bare = [*formats] == _BARE.get(suffix)
    if path.is_dir() or not (suffix in FORMATS or suffix == "txt" or is_bare):
        refuse_other_formats(path, FORMATS)
        named = {name: path / f"report.{FORMATS[name].suffix}" for name in formats or in_folder}
        more = {"errors": path / "errors.csv", "summary": path / "summary.json"}
    else:
        wanted = list(formats) or ["csv" if suffix == "txt" else suffix]
        named = {name: path.with_suffix(f".{FORMATS[name].suffix}") for name in wanted}
        if wanted == _BARE.get(suffix):
            named = {wanted[0]: path}
        more = {name: path.with_suffix(end) for name, end in (("errors", ".errors.csv"), ("summary", ".summary.json"))}
    return {name: str(file) for name, file in {**named, **more}.items()}


def write_first(run: RunFile, request: Request, rows: Iterable[StoredRow]) -> Tally:
    """Write the first table of ``request``, if it has one, of all rows of ``run``; return the counts.

    It counts what it holds, which is one pass less over a million rows.
    """
    layout, counts = request.layout(run), Tally(images=run.total)
    counting = counted(run, rows, layout, counts, request.truth)
    for name in request.tables[:1]:
        FORMATS[name].write(Report(run=run, layout=layout, counts=counts, max_pixels=0), request.path(name), counting)
    for _ in counting:  # all of them, where there is no table
        pass
    return counts


def write_reports(
    run: RunFile,
    request: Request,
    *,
    max_pixels: int,
    say: Callable[[str], None] = lambda text: None,
    counts: Tally | None = None,
    beside: Callable[[], None] | None = None,
) -> Tally:
    """Write every report of ``request``, each by a rename, and keep the request in the run file; return the counts.

    Args:
        max_pixels: of an image that a thumbnail is made of.
        say: is told what takes long.
        counts: of the first table, if it is written already.
        beside: is called when all tables are there; page and summary say what it has left in the run file.
    """
    counts = counts or write_first(run, request, run.rows())
    layout = request.layout(run)
    report = Report(run=run, layout=layout, counts=counts, embed_mb=request.embed_mb, max_pixels=max_pixels, say=say)
    for name in request.tables[1:]:
        FORMATS[name].write(report, request.path(name), run.rows())
    write_errors(run, request.path("errors"), layout)
    if beside is not None:
        write_summary(run, request.path("summary"), counts, layout)
        request.keep(run)
        beside()
    for name in request.formats:
        if not FORMATS[name].is_table:
            FORMATS[name].write(report, request.path(name), ())
    write_summary(run, request.path("summary"), counts, layout)
    request.keep(run)
    return counts


class EarlyReport:
    """The first table of a run, written by a thread of its own while the rows come in; it appears when all are there.

    It only saves time: where it fails, or would need more of the run file than the rows (ambiguous names of folders),
    the table is written anew, and that says what is wrong.
    """

    def __init__(self, run: RunFile, request: Request) -> None:
        self._counts: Tally | None = None
        self._are_all, self._is_given_up = Event(), False
        self._thread = Thread(target=self._write, args=(run, request), name="report", daemon=True)

    def __enter__(self) -> EarlyReport:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_given_up = kind is not None
        self.counts()

    def counts(self) -> Tally | None:
        """Say that no more rows come; return the counts of the written table, or None when there is none."""
        self._are_all.set()
        self._thread.join()
        return self._counts

    def _write(self, run: RunFile, request: Request) -> None:
        if run.plan.duplicates or request.bursts_s is not None:  # which need rows that come later
            return
        self._are_all.wait(FIRST_S)
        with suppress(Exception):
            self._counts = write_first(run, request, self._while_wanted(run.rows_as_they_come(self._are_all)))

    def _while_wanted(self, rows: Iterable[StoredRow]) -> Iterator[StoredRow]:
        for row in rows:
            if self._is_given_up:
                raise InterruptedError
            yield row
