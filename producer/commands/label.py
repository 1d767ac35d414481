"""``sortline label``: a folder becomes a report."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from producer.commands.options import (
    EMBED_MB,
    Broker,
    By,
    ClassMapFile,
    Config,
    DataRoot,
    EmbedMb,
    Formats,
    Home,
    Model,
    ProbColumns,
    Quiet,
    SortBy,
    SortInto,
    Store,
    settings_of,
)
from producer.errors import OK, TOO_MANY_FAILURES, RunCancelled, UsageError

if TYPE_CHECKING:
    from configs import Settings
    from producer.local.session import Session
    from producer.reports.request import Request
    from producer.reports.tally import Tally
    from producer.run.run_file import RunFile
    from producer.terminal.progress import RunView

MOST_KEPT = 1000  # labels of an image in a message: jobs/messages.py: LabelChunk.top_k
NO_WORKER_AFTER_S = 4.0  # without a row, ask whether anybody is there to label


class OnExisting(str, Enum):
    """What to do when the same command has run before."""

    resume = "resume"
    overwrite = "overwrite"
    error = "error"


def label(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder (searched recursively), an image, the URL of either, a .txt list, or - to read the list.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The report to write; or a folder for all of them.")
    ] = Path("report.csv"),
    formats: Formats = None,
    model: Model = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, max=1000, help="Labels in each row.")] = 5,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="RUN_OR_REPORT",
            help="Label only files that are new or changed since an earlier run: by path, size and time of the last "
            "change. What has no label there, or one of another model version, is labelled as well.",
        ),
    ] = None,
    duplicates: Annotated[
        bool,
        typer.Option(
            "--duplicates",
            help="Label byte-identical images once; reports name the first one in the column duplicate_of.",
        ),
    ] = False,
    max_failures: Annotated[
        int | None, typer.Option(min=0, help="Exit with 4 if more images than this fail; any number may by default.")
    ] = None,
    on_existing: Annotated[
        OnExisting, typer.Option(help="When this command has run before: finish what is missing, start over, or stop.")
    ] = OnExisting.resume,
    detach: Annotated[
        bool, typer.Option("--detach", help="Only enqueue; `sortline jobs gather JOB` collects the report.")
    ] = False,
    quiet: Quiet = False,
    prob_columns: ProbColumns = False,
    class_map: ClassMapFile = None,
    embed_mb: EmbedMb = EMBED_MB,
    sort_into: SortInto = None,
    by: SortBy = By.link,
    config: Config = None,
    broker: Broker = None,
    data_root: DataRoot = None,
    store: Store = None,
    home: Home = None,
) -> None:
    """Label images with a trained network, through the queue; write reports with one row an image.

    With no broker, everything that is needed (a private Redis, a worker) is started and taken down again.
    An image that can't be read is a row with status "error" and the reason; the others are labelled all the same.
    Interrupted? The same command goes on where it stopped.

    Examples:

      sortline label photos/                                  # report.csv

      sortline label photos/ --model waste26:3                # exactly version 3

      sortline label photos/ -o monday/ --format csv,html     # a page as well

      sortline label photos/ -o tue.csv --since mon.csv       # what has changed

      find /mnt -name '*.jpg' | sortline label - -o found.csv # a list

      sortline label s3://bucket/photos                       # a URL

      sortline label /mnt/photos --broker redis://queue:6379/0 --data-root /mnt
    """
    from producer.reports.request import request_of

    request = request_of(
        output, formats, ranks=top_k, probabilities=prob_columns, class_map=class_map, embed_mb=embed_mb
    )
    settings = settings_of(config, home=home, broker=broker, data_root=data_root, store=store)
    labelling = Labelling(
        source, model, request, max_failures, on_existing, detach, quiet, sort_into, by, since, duplicates
    )
    if duplicates and detach:
        raise UsageError("--duplicates: not with --detach, whose run may be gathered where no image can be read")
    raise typer.Exit(label_source(settings, labelling))


@dataclass(frozen=True, slots=True)
class Labelling:
    """What one command labels, and what becomes of the answers."""

    source: str
    model: str | None
    request: Request
    max_failures: int | None = None
    on_existing: OnExisting = OnExisting.resume
    detach: bool = False
    quiet: bool = False
    sort_into: Path | None = None
    by: By = By.link
    since: str | None = None
    duplicates: bool = False


def label_source(settings: Settings, labelling: Labelling) -> int:
    """Label a source through the queue and write its reports; return the exit code."""
    from model_store import ModelStore
    from producer.local.session import is_alone, open_session
    from producer.local.stack import private_root
    from producer.run.runs import find_model, open_run, run_path
    from producer.sources.images import of_lines, open_source
    from producer.sources.remote_images import rooted
    from producer.terminal.progress import RunView

    request, detach = labelling.request, labelling.detach
    images = open_source(labelling.source)
    listed = list(images.paths()) if images.is_read_once else None
    if listed is not None:
        images = of_lines(images, listed)
    settings = rooted(settings, images)
    _refuse_if_remote(settings, labelling)
    models = ModelStore(settings.store_root)
    version = find_model(models, labelling.model)
    top_k = _kept(request, len(version.manifest.classes))
    path = run_path(
        settings, images, labelling.source, labelling.model, top_k, request.main, labelling.since, labelling.duplicates
    )
    if labelling.sort_into is not None:
        from producer.reports.sorting import check_folder

        check_folder(labelling.sort_into, images.base, images.is_folder)
    resume = f"to go on: {_command_line()}"
    with RunView(quiet=labelling.quiet) as view, ExitStack() as opening:

        def connected() -> Session:
            session = opening.enter_context(open_session(settings, ["label"], start=not detach))
            if session.stack is not None:
                session.stack.say = view.say
            return session

        # A private stack starts while inputs are listed; but not where there may be nothing to label.
        waits = is_alone(settings) and not detach and (path.exists() or labelling.since is not None)
        session = None if waits else connected()
        if labelling.duplicates:
            view.say("looking for copies, which reads the files of equal size")
        opened = open_run(
            path,
            session.settings
            if session is not None
            else settings.model_copy(update={"data_root": private_root(settings)}),
            images,
            listed,
            version,
            top_k=top_k,
            on_existing=labelling.on_existing.value,
            since=labelling.since,
            report=request.main,
            duplicates=labelling.duplicates,
        )
        run = opened.run
        try:
            request.layout(run)  # refuses a class map of other labels before anything is labelled
            for line in [opened.note, *images.unreadable]:
                if line:
                    view.say(line)
            if images.skipped:
                view.say(f"skipped, without an image suffix: {images.skipped}")
            if session is None and run.done < run.total:
                session = connected()
            if session is not None and run.done < run.total:
                session.board.add(
                    run.plan.run,
                    kind="label",
                    title=f"{run.plan.source}, {run.total} images",
                    model=str(run.plan.model),
                )
            if detach and session is not None:
                request.keep(run)
                enqueue_all(session, run)
                print(run.plan.run)
                view.say(
                    f"{run.total} images enqueued; collect with: sortline jobs gather {run.plan.run} -o {request.main}"
                )
                return OK
            if session is None:
                code = conclude(run, view, request, settings, labelling.max_failures)
            else:
                code = finish(session, run, view, request, labelling.max_failures)
            if labelling.sort_into is not None:
                sort_run(run, request, labelling.sort_into, labelling.by, view.say)
            return code
        except KeyboardInterrupt:
            view.say(f"interrupted after {run.done} of {run.total} images; {resume}")
            raise
        except Exception as error:
            if isinstance(error, RunCancelled) and session is not None:
                session.board.update(run.plan.run, state="cancelled")
            view.say(f"stopped after {run.done} of {run.total} images; {resume}")
            raise
        finally:
            run.close()


def _refuse_if_remote(settings: Settings, labelling: Labelling) -> None:
    given = {
        "--since": labelling.since is not None,
        "--duplicates": labelling.duplicates,
        "--sort-into": labelling.sort_into is not None,
    }
    for option, is_given in given.items():
        if is_given and isinstance(settings.data_root, str):
            raise UsageError(f"{option}: only with images of this machine, not with a URL")


def finish(session: Session, run: RunFile, view: RunView, request: Request, max_failures: int | None) -> int:
    """Bring a run to its end, write the reports, say what became of it; return the exit code."""
    from producer.run.enqueue import ChunkSender
    from producer.run.events import told
    from producer.run.gather import Gatherer

    settings = session.settings
    sender = ChunkSender(session.app, run.plan)
    gatherer = Gatherer(
        run, sender, session.client, session.keys, settings.window_chunks, settings.stale_s, session.watch
    )
    started, asked, hint = time.monotonic(), False, ""
    at_start = run.done
    if run.done < run.total:
        session.board.update(run.plan.run, state="running")
        run.begin_work()
    for progress in told(session, run, gatherer.gather()):
        if progress.done > at_start:
            hint = ""
        elif not asked and session.stack is None and time.monotonic() - started > NO_WORKER_AFTER_S:
            asked = True
            if not session.workers("label"):
                hint = "no label worker answers; start one: sortline worker --queues label"
                view.say(hint)
        view.show(progress, hint, run)
    sender.close()
    seconds = time.monotonic() - started
    code = conclude(run, view, request, settings, max_failures, labelled=run.done - at_start, seconds=seconds)
    session.board.update(run.plan.run, state="done", text=f"{run.total} rows, {run.failed} failed")
    return code


def conclude(
    run: RunFile,
    view: RunView,
    request: Request,
    settings: Settings,
    max_failures: int | None,
    *,
    labelled: int = 0,
    seconds: float = 0.0,
) -> int:
    """Write the reports of a run whose rows are all there, say what became of it; return the exit code."""
    from producer.reports.request import write_reports

    counts = write_reports(run, request, max_pixels=settings.max_image_pixels, say=view.say)
    view.stop()
    view.say(summary(run, counts, labelled, seconds, max_failures))
    view.conclude(counts, request)
    allowed = run.total if max_failures is None else max_failures
    return TOO_MANY_FAILURES if run.failed > allowed else OK


def sort_run(run: RunFile, request: Request, into: Path, by: By, say: Callable[[str], None]) -> None:
    """Put the images of a run into class folders, and say what became of it."""
    from producer.reports.sorting import sort_images, undo_file

    done = sort_images(run, request.layout(run), into, by.value)
    for sentence in done.told:
        say(sentence)
    more = f", {done.left} left where they are" if done.left else ""
    say(f"sorted by {by.value} into {into}: {done.placed} images{more}")
    say(f"to undo it: sortline report --undo-sort {undo_file(into, run)}")


def summary(run: RunFile, counts: Tally, labelled: int, seconds: float, max_failures: int | None) -> str:
    """Return the closing line: how many, how fast, what failed and why."""
    why = ", ".join(f"{reason} {count}" for reason, count in counts.reasons.most_common())
    rate = f" in {seconds:.1f} s, {labelled / max(seconds, 1e-9):.0f} img/s" if labelled else ""
    failed = f"{run.failed} failed ({why})" if run.failed else "0 failed"
    if run.failed and max_failures is None:
        failed += ", which is allowed without --max-failures"
    return f"{run.total} images: {run.total - run.failed} labelled, {failed}{rate}, model {run.plan.model}"


def _kept(request: Request, classes: int) -> int:
    """Return how many labels of an image the run keeps: all of them when each has a column."""
    if not request.probabilities:
        return request.ranks or 1
    if classes > MOST_KEPT:
        raise UsageError(f"--prob-columns: a model of {classes} classes; a worker answers at most {MOST_KEPT} an image")
    return classes


def enqueue_all(session: Session, run: RunFile) -> None:
    """Put every chunk without rows on the queue, and the list of inputs beside it for whoever gathers."""
    from functools import partial

    from producer.run.detached import chunk_images, upload
    from producer.run.enqueue import ChunkSender

    upload(session.client, session.keys, run)
    sender = ChunkSender(session.app, run.plan)
    for first, paths in run.missing_chunks(partial(chunk_images, run.plan), run.sent()):
        sender.send(first, paths)
        run.note_sent(first, len(paths))
    sender.close()


def _command_line() -> str:
    import shlex

    return shlex.join(["sortline", *sys.argv[1:]])
