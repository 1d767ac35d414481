"""A source becomes reports: prepare what the run needs, execute it through the queue, conclude with its reports."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from configs import Settings
from model_store import ModelStore
from producer.errors import OK, UsageError
from producer.local.session import Session, is_alone
from producer.models import find_model
from producer.reports import By
from producer.reports.request import EarlyReport, Request
from producer.reports.sorting import check_folder
from producer.run import OnExisting
from producer.run.conclusion import NO_WORK, Limits, conclude, sort_run
from producer.run.connection import Connection, announce, execute_run, opened
from producer.run.opening import RunRequest
from producer.run.shadow import Shadow, ride_along
from producer.runfile import RunFile
from producer.sources.argument import open_labelled, open_source, rooted
from producer.terminal.progress import RunView

MOST_KEPT = 1000  # labels of an image in a message: jobs/messages.py: LabelChunk.top_k


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelling:
    """What one command labels, and what becomes of the rows."""

    source: str
    model: str | None
    reports: Request
    max_failures: int | None = None
    max_review: int | None = None
    on_existing: OnExisting = "resume"
    detach: bool = False
    quiet: bool = False
    sort_into: Path | None = None
    by: By = "link"
    since: str | None = None
    duplicates: bool = False
    file_info: bool = False
    exif: bool = False
    pages: bool = False
    merged: bool = False
    retry_failed: bool = False
    may_be_table: bool = False  # SOURCE: of labelled images
    shadow: Shadow | None = None


def label_source(settings: Settings, labelling: Labelling) -> int:
    """Label a source through the queue and write its reports; return the exit code."""
    settings, request = prepare(settings, labelling)
    shadow = labelling.shadow.of(settings, request) if labelling.shadow is not None else None
    limits = Limits(labelling.max_failures, labelling.max_review, settings.max_image_pixels)
    with RunView(quiet=labelling.quiet) as view, ExitStack() as opening:
        connection = Connection(opening, settings, view, start=not labelling.detach)
        # A private stack starts while inputs are listed; but not where there may be nothing to label.
        is_finished = request.path(settings).exists() or request.since is not None
        if labelling.detach or not is_finished or not is_alone(settings):
            connection.open()
        with opened(connection, request, labelling.reports, labelling.on_existing) as run:
            limits.check(run, labelling.reports)
            session = connection.open() if run.done < run.total else connection.session
            if session is not None and run.done < run.total:
                announce(session, run)
            if session is not None and labelling.detach:
                return _detach(session, run, view, labelling.reports)
            work, counts = NO_WORK, None
            if session is not None:
                with EarlyReport(run, labelling.reports) as early:
                    work = execute_run(session, run, view)
                counts = early.counts()
            beside = None
            if shadow is not None:
                beside = partial(ride_along, connection, request, run, shadow, labelling.reports, labelling.on_existing)
            code = conclude(run, view, labelling.reports, limits, work, session, counts, beside)
            if labelling.sort_into is not None:
                sort_run(run, labelling.reports, labelling.sort_into, labelling.by, view.say)
            return code


def prepare(settings: Settings, labelling: Labelling) -> tuple[Settings, RunRequest]:
    """Return what the run is to label, and the settings with the data root that fits it.

    Raises:
        UsageError: what can't be done is refused here, before anything is started.
    """
    if labelling.retry_failed and labelling.on_existing != "resume":
        raise UsageError("--retry-failed goes on with an earlier call: not with --on-existing overwrite or error")
    is_table = labelling.may_be_table or labelling.reports.truth == "folders"
    source = (open_labelled if is_table else open_source)(labelling.source)
    settings = rooted(settings, source)
    _refuse_if_remote(settings, labelling)
    if not labelling.detach:  # then another host may write them
        labelling.reports.check_places()
    if labelling.sort_into is not None:
        check_folder(labelling.sort_into, source.base, source.is_folder)
    version = find_model(ModelStore(settings.store_root), labelling.model)
    return settings, RunRequest(
        source=source,
        origin=labelling.source,
        reference=labelling.model,
        version=version,
        top_k=kept_labels(labelling.reports, len(version.manifest.classes)),
        report=labelling.reports.main,
        since=labelling.since,
        duplicates=labelling.duplicates,
        file_info=labelling.file_info,
        pages=labelling.pages,
        merged=labelling.merged,
        exif=labelling.exif or labelling.reports.bursts_s is not None,
        retry_failed=labelling.retry_failed,
    )


def _refuse_if_remote(settings: Settings, labelling: Labelling) -> None:
    given = {
        "--since": labelling.since is not None,
        "--duplicates": labelling.duplicates,
        "--sort-into": labelling.sort_into is not None,
        "--pages": labelling.pages,
    }
    for option, is_given in given.items():
        if is_given and isinstance(settings.data_root, str):
            raise UsageError(f"{option}: only with images of this machine, not with a URL")


def kept_labels(reports: Request, classes: int) -> int:
    """Return how many labels of an image the run keeps: all of them when each has a column."""
    if not reports.probabilities:
        return reports.ranks or 1
    if classes > MOST_KEPT:
        raise UsageError(f"--prob-columns: a model of {classes} classes; a worker answers at most {MOST_KEPT} an image")
    return classes


def _detach(session: Session, run: RunFile, view: RunView, reports: Request) -> int:
    """Queue a window of chunks, leave the others for workers to queue, and the list of inputs for whoever gathers."""
    from producer.run.chunk_size import MOST_FIXED
    from producer.run.detached import send_all, upload
    from producer.run.enqueue import ChunkSender
    from producer.run.events import announce
    from producer.run.refusals import Refusals
    from producer.run.witness import Witness

    reports.keep(run)
    upload(session.client, session.keys, run)
    settings = session.settings
    sender, witness = (
        ChunkSender(session.app, run.plan, priority=settings.priority),
        Witness(run, Refusals(list, view.warn)),
    )
    send_all(run, sender, witness.sample, settings.window_chunks or MOST_FIXED)
    sender.close()
    announce(session, run)
    print(run.plan.run)
    view.say(f"{run.total} images enqueued; collect with: sortline jobs gather {run.plan.run} -o {reports.main}")
    return OK
