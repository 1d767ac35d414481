"""Open a run: a new one, or the one that the same command left unfinished."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from configs import Settings
from model_store import ModelVersion
from producer.errors import UsageError
from producer.models import pin_of
from producer.reports.request import Request, requests_of
from producer.reports.tally import ranked
from producer.run import OnExisting
from producer.runfile import Plan, RunFile, RunFileError
from producer.runfile.inputs import digest_of
from producer.sources.images import Source
from producer.sources.since import EarlierFiles, InputFilter

MOST_RUNS = 1000  # of a chain


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What a command asks to be labelled.

    Attributes:
        origin: SOURCE as it was typed, of which ``source`` was made.
        reference: the model as it was typed, if it was.
        version: the model that it means now.
        top_k: labels of an image that the run keeps.
        report: the main report.
        since: an earlier run, as ``find_run`` knows it; what is unchanged since is left out.
        duplicates: label byte-identical images once.
        file_info: keep length, time of the last change and sha256 of each file.
        exif: keep what cameras wrote into each file.
        pages: label each picture of a file.
        merged: keep the rows of ``since`` that still stand.
        retry_failed: take back the rows of an earlier call that a cure may mend.
        is_watched: the run file grows, see ``watching.py``.
        beside: what sets a second run of the same command apart from the first.
    """

    source: Source
    origin: str
    version: ModelVersion
    top_k: int
    report: Path
    reference: str | None = None
    since: str | None = None
    duplicates: bool = False
    file_info: bool = False
    exif: bool = False
    pages: bool = False
    merged: bool = False
    retry_failed: bool = False
    is_watched: bool = False
    beside: str = ""

    def path(self, settings: Settings) -> Path:
        """Return the run file of this very request: same source, model, labels a row, report and earlier run."""
        parts = [self.source.base, self.origin, self.reference or "", str(self.top_k), str(self.report)]
        parts += [f"since {self.since}"] if self.since is not None else []
        parts += ["duplicates"] if self.duplicates else []
        parts += ["file info"] if self.file_info else []
        parts += ["exif"] if self.exif else []
        parts += ["watched"] if self.is_watched else []
        parts += ["pages"] if self.pages else []
        parts += ["merged"] if self.merged else []
        parts += [f"beside {self.beside}"] if self.beside else []
        parts += [settings.data_root] if isinstance(settings.data_root, str) else []  # that the inputs' paths are below
        digest = sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:8]
        slug = re.sub(r"[^A-Za-z0-9_-]+", "-", self.source.name).strip("-_")[:40] or "run"
        return settings.home / "runs" / f"{slug}-{digest}.run"


@dataclass(frozen=True, slots=True)
class OpenedRun:
    """A run ready to go on, and what a person should know about it."""

    run: RunFile
    note: str


def find_run(settings: Settings, text: str) -> RunFile:
    """Return the run that ``text`` means, held, as `find_run_file` finds it."""
    return RunFile(find_run_file(settings, text))


def find_run_file(settings: Settings, text: str) -> Path:
    """Return the run file that ``text`` means: itself, the name of a run, or a report that was made of one.

    Raises:
        UsageError: there is none.
    """
    given = Path(os.path.abspath(text))  # noqa: PTH100 - links stay as the user wrote them
    if given.suffix == ".run" and given.is_file():
        return given
    found, unread = [], ""
    for path in (settings.home / "runs").glob("*.run"):
        try:
            peeked = RunFile.peek(path)
        except RunFileError as error:
            unread = f"; unless it is this one: {error}"
            continue
        if peeked is None:
            continue
        plan, requests = peeked
        outputs = {output for request in requests for output in Request.from_json(request).outputs.values()}
        if text in (plan.run, path.stem) or str(given) in outputs:
            found.append((path.stat().st_mtime, path))
    if not found:
        raise UsageError(
            f"no run {text}: pass a run file, the name of a run, or a report that one of the runs in "
            f"{settings.home / 'runs'} has made{unread}"
        )
    return max(found)[1]


def open_run(settings: Settings, request: RunRequest, on_existing: OnExisting) -> OpenedRun:
    """Return the run of ``request``: the unfinished one goes on, with its images and its model version; else a new one.

    Raises:
        UsageError: there is one already and ``on_existing`` is "error"; or there is nothing to label.
    """
    path = request.path(settings)
    if path.exists() and on_existing == "error":
        raise UsageError(f"this command has run before ({path}); pass --on-existing resume or overwrite")
    resumes = path.exists() and on_existing == "resume"
    if resumes:
        found = RunFile(path)
        again = found.forget_curable() if request.retry_failed else 0
        if found.done < found.total:
            model = found.plan.model
            note = f"resuming {found.plan.run}: {found.done} of {found.total} images have their row, model {model}"
            return OpenedRun(found, f"{note}; {again} that failed are tried again" if again else note)
        former = found.plan.model
        found.close()  # ``since`` may mean it
    input_filter, note, since = InputFilter(request.source.base, pages=request.pages), "", ""
    if request.since is not None:
        input_filter, note, since = _since(settings, request, request.since)
    try:
        if resumes and (finished := _finished(path, request, input_filter)) is not None:
            return finished
        run = _new_run(path, settings, request, input_filter, since)
    finally:
        if input_filter.earlier is not None:
            input_filter.earlier.close()
    notes = []
    if resumes and former.digest != request.version.manifest.digest:
        meant = f"{request.reference} is {pin_of(request.version)}" if request.reference else pin_of(request.version)
        how = " now" if request.reference else " is in production now"
        notes.append(f"{meant}{how}: labelling anew; the former report was by {former}")
    if request.since is not None:
        to_label = run.total - run.done
        notes.append(f"{input_filter.unchanged:,} unchanged since {request.since}, {to_label:,} to label{note}")
    if request.duplicates:
        notes.append(f"{run.duplicates:,} of {run.total:,} images are duplicates of another")
    return OpenedRun(run, "; ".join(notes))


def _finished(path: Path, request: RunRequest, input_filter: InputFilter) -> OpenedRun | None:
    """Return the finished run at ``path`` if the same model and images would make the same again."""
    found = RunFile(path)
    if found.plan.model.digest == request.version.manifest.digest:
        if digest_of(request.source.paths(), input_filter) == (found.total, found.plan.inputs_digest):
            note = f"nothing new: all {found.total} images have their row; --on-existing overwrite starts over"
            return OpenedRun(found, note)
        request.source.skipped.clear()  # the walk to come counts anew
        request.source.unreadable.clear()
    found.close()
    return None


def _since(settings: Settings, request: RunRequest, since: str) -> tuple[InputFilter, str, str]:
    """Return what leaves out the files that ``since`` knows, what a person should know about it, and its run file."""
    run = find_run(settings, since)
    try:
        made = any(str(request.report) in earlier.outputs.values() for earlier in requests_of(run))
        if made and not request.merged:
            raise UsageError(
                f"--since {since} has made {request.report}, which this run would replace by the rows of new and "
                "changed files alone; give -o another name, or keep its rows with --merge"
            )
        kept = partial(InputFilter, request.source.base, pages=request.pages, merged=request.merged)
        if run.plan.model.digest != request.version.manifest.digest:
            pin = pin_of(request.version)
            why = f": that run's labels are of {run.plan.model}, not of {pin}"
        elif run.plan.pages != request.pages:
            why = f": one of the runs has --pages all, which {since} and this one must share"
        else:
            return kept(EarlierFiles(run.labelled_files())), "", str(run.path)
        return kept(EarlierFiles()), why, str(run.path)
    finally:
        run.close()


def _chain(path: Path, plan: Plan) -> list[tuple[Path, str]]:
    """Return the run file at ``path`` and those that it was labelled since, the newest first, as far as they fit.

    A run fits whose labels are of the same model version, as many an image or more, and which knows as much of files.
    """
    found: dict[Path, str] = {}
    while path not in found and len(found) < MOST_RUNS:
        peeked = None
        with suppress(RunFileError):  # of another version: what it has is labelled again
            peeked = RunFile.peek(path)
        if peeked is None or not _fits(peeked[0], plan):
            break
        found[path] = peeked[0].base
        if not peeked[0].since:
            break
        path = Path(peeked[0].since)
    return [*found.items()]


def _fits(earlier: Plan, plan: Plan) -> bool:
    return (
        earlier.model.digest == plan.model.digest
        and earlier.top_k >= plan.top_k
        and earlier.pages == plan.pages
        and earlier.file_info >= plan.file_info
        and earlier.exif >= plan.exif
    )


def skipped_files(skipped: Mapping[str, int]) -> str:
    """Return how many files were passed over, and of which suffixes."""
    return f"{sum(skipped.values()):,} ({', '.join(f'{suffix} {n:,}' for suffix, n in ranked(skipped))})"


def _new_run(path: Path, settings: Settings, request: RunRequest, input_filter: InputFilter, since: str) -> RunFile:
    source, plan = request.source, replace(plan_of(path.stem, settings, request), since=since)
    earlier_runs = _chain(Path(since), plan) if request.merged else []
    run = RunFile.create(path, plan, request.source.paths(), input_filter, earlier_runs)
    if run.total == 0 and not input_filter.unchanged:
        run.close()
        path.unlink()
        raise UsageError(
            f"no images in {source.base}" + (f" (skipped: {skipped_files(source.skipped)})" if source.skipped else "")
        )
    return run


def plan_of(stem: str, settings: Settings, request: RunRequest) -> Plan:
    """Return the plan of a new run, whose name begins with ``stem``; UsageError when no worker could do it."""
    source, manifest = request.source, request.version.manifest
    if settings.data_root is None:
        raise UsageError(
            "with a broker of your own, say where the workers' images begin: --data-root or SORTLINE_DATA_ROOT, "
            "the folder that this machine and the workers share"
        )
    if manifest.kind != "classifier":
        raise UsageError(f"{manifest.name} is a backbone, not a classifier: train a model on it with `sortline train`")
    return Plan(
        run=f"{stem}-{time.strftime('%Y%m%d')}-{secrets.token_hex(3)}",
        source=source.name,
        base=source.base,
        data_root=str(settings.data_root),
        walked=source.is_folder,
        model=pin_of(request.version),
        labels=[entry.label for entry in manifest.classes],
        groups=[entry.group for entry in manifest.classes],
        folders=[entry.folder for entry in manifest.classes],
        expected=manifest.expected,
        thresholds=dict(manifest.decisions.thresholds) if manifest.decisions is not None else {},
        outliers=bool(manifest.graph.get("outlier_name")),
        top_k=min(request.top_k, len(manifest.classes)),
        chunk_images=settings.chunk_images,
        truth_table=source.truth_table,
        duplicates=request.duplicates,
        file_info=request.file_info,
        exif=request.exif,
        pages=request.pages,
        merged=request.merged,
        skipped=source.skipped,  # which the walk fills
    )
