"""A source becomes reports: prepare what the run needs, execute it through the queue, conclude with its reports."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from configs import Settings
from jobs import passwords
from model_store import ModelStore
from producer.errors import OK, UsageError
from producer.local.session import Session, is_alone, open_session
from producer.local.stack import private_root
from producer.models import find_model
from producer.reports import By
from producer.reports.request import EarlyReport, Request
from producer.reports.sorting import check_folder
from producer.run import OnExisting
from producer.run.conclusion import NO_WORK, Limits, Work, conclude, sort_run
from producer.run.opening import RunRequest, open_run, skipped_files
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


class Connection:
    """A command's session, opened when it is first needed."""

    def __init__(self, opening: ExitStack, settings: Settings, view: RunView, *, start: bool = True) -> None:
        self._opening, self._start = opening, start
        self.settings, self.view = settings, view
        self.session: Session | None = None

    def open(self) -> Session:
        if self.session is None:
            self.session = self._opening.enter_context(open_session(self.settings, ["label"], start=self._start))
            if self.session.stack is not None:
                self.session.stack.say = self.view.say
        return self.session


def label_source(settings: Settings, labelling: Labelling) -> int:
    """Label a source through the queue and write its reports; return the exit code."""
    settings, request = prepare(settings, labelling)
    limits = Limits(labelling.max_failures, settings.max_image_pixels)
    with RunView(quiet=labelling.quiet) as view, ExitStack() as opening:
        connection = Connection(opening, settings, view, start=not labelling.detach)
        # A private stack starts while inputs are listed; but not where there may be nothing to label.
        is_finished = request.path(settings).exists() or request.since is not None
        if labelling.detach or not is_finished or not is_alone(settings):
            connection.open()
        with opened(connection, labelling, request) as run:
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
            code = conclude(run, view, labelling.reports, limits, work, session, counts)
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


def announce(session: Session, run: RunFile) -> None:
    """Put the run on the board of jobs, with the command that goes on with it."""
    command = _command()
    for secret in passwords(session.settings):
        command = command.replace(secret, "***")
    session.board.add(
        run.plan.run,
        kind="label",
        title=f"{run.plan.source}, {run.total} images",
        model=str(run.plan.model),
        total=run.total,
        again=f", on {os.uname().nodename} in {Path.cwd()}: {command}",
    )
    session.board.update(run.plan.run, done=run.done)


def _command() -> str:
    return shlex.join(["sortline", *sys.argv[1:]])


def execute_run(session: Session, run: RunFile, view: RunView) -> Work:
    """Label what has no row yet."""
    from producer.run.execution import execute  # loads Celery, while a private stack starts

    return execute(session, run, view)


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


@contextmanager
def opened(connection: Connection, labelling: Labelling, request: RunRequest) -> Iterator[RunFile]:
    """Give the run file of ``request``, ready to go on; say how far it is if something ends the block early."""
    settings, session, view = connection.settings, connection.session, connection.view
    if request.duplicates:
        view.say("looking for duplicates, which reads the files of equal size")
    alone = settings.model_copy(update={"data_root": private_root(settings)})
    found = open_run(session.settings if session is not None else alone, request, labelling.on_existing)
    run, go_on = found.run, f"to go on: {_command()}"
    try:
        labelling.reports.check_rows(run)  # before anything is labelled
        for line in [found.note, *request.source.unreadable]:
            if line:
                view.say(line)
        if run.plan.skipped:
            folders = ", or a folder of the system" if any(what.endswith("/") for what in run.plan.skipped) else ""
            view.say(f"skipped, without an image suffix{folders}: {skipped_files(run.plan.skipped)}")
        yield run
    except UsageError:
        raise
    except KeyboardInterrupt:
        view.say(f"interrupted after {run.done} of {run.total} images; {go_on}")
        raise
    except Exception:
        view.say(f"stopped after {run.done} of {run.total} images; {go_on}")
        raise
    finally:
        run.close()


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
