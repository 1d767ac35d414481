"""``sortline jobs``: what is queued, running and done."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from producer.commands.options import Broker, Formats, Home, MaxReview, Quiet, RetryFailed, settings_of
from producer.errors import UsageError

if TYPE_CHECKING:
    from jobs import JobState
    from producer.local.session import Session

app = typer.Typer(no_args_is_help=True, help="List, show, watch, cancel and gather jobs.")

Job = Annotated[
    str, typer.Argument(metavar="JOB", help="The name that the command printed, or `sortline jobs list` shows.")
]


@app.command("list")
def list_jobs(broker: Broker = None, home: Home = None) -> None:
    """Show all jobs of the broker, the newest first; in a pipe a line each, with tabs between the columns.

    Example:

      sortline jobs list --broker redis://queue:6379/0
    """
    from rich.console import Console

    from producer.terminal.job_list import job_lines

    with _session(broker, home) as session:
        jobs = session.board.jobs()
        if not jobs:
            print("no jobs yet: sortline label SOURCE --detach, or sortline train DATASET --config NAME --detach")
            return
        console = Console(highlight=False, soft_wrap=True)
        for line in job_lines(jobs, console.width if console.is_terminal else None, time.time()):
            print(line)


@app.command()
def show(job: Job, broker: Broker = None, home: Home = None) -> None:
    """Show one job.

    Example:

      sortline jobs show train-digits-20260301-1a2b3c
    """
    from base.text import printable

    with _session(broker, home) as session:
        found = _found(session, job)
        for name in ("job", "kind", "title", "state", "text", "model"):
            print(f"{name:7} {printable(getattr(found, name))}")
        if found.state == "running" and (by := session.client.get(session.keys.holder(job))):
            print(f"{'by':7} {printable(str(by)).split(' ', 2)[-1]}")
        for name in ("created", "updated"):
            print(f"{name:7} {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(getattr(found, name)))}")


@app.command()
def watch(job: Job, broker: Broker = None, home: Home = None) -> None:
    """Follow a job until it ends or stops: a training from its first event on, a run whoever is at it.

    Example:

      sortline jobs watch train-digits-20260301-1a2b3c
    """
    from rich.console import Console

    from producer.run.watch import watch_run
    from producer.training.training import watch as watch_training

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with _session(broker, home) as session:
        follow = watch_run if _found(session, job).kind == "label" else watch_training
        print(follow(session, job, console))


@app.command()
def cancel(job: Job, broker: Broker = None, home: Home = None) -> None:
    """Ask the workers to stop a job. Rows that it has stay; a training job publishes nothing.

    Example:

      sortline jobs cancel train-digits-20260301-1a2b3c
    """
    from jobs import Waiting

    with _session(broker, home) as session:
        found = _found(session, job)
        if found.ended:
            raise UsageError(f"job {job} is {found.state}")
        session.board.ask_to_cancel(job)
        if found.kind == "label":
            with session.client.pipeline() as pipeline:
                Waiting(session.client, session.keys).forget(pipeline, job)
                pipeline.execute()
            session.board.update(job, state="cancelled", text=f"{found.done} of {found.total} images were labelled")
        print(f"asked to cancel {job}")


@app.command()
def gather(
    job: Job,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The report to write, or a folder; the default is what `label` was given."),
    ] = None,
    formats: Formats = None,
    max_failures: Annotated[int | None, typer.Option(min=0, help="Exit with 4 if more images than this fail.")] = None,
    max_review: MaxReview = None,
    retry_failed: RetryFailed = False,
    quiet: Quiet = False,
    broker: Broker = None,
    home: Home = None,
) -> None:
    """Collect the rows of a detached run into a report, on the host that sent it or on another.

    Example:

      sortline jobs gather inbox-4d5e6f70-20260301-1a2b3c -o monday.csv
    """
    from producer.reports.request import EarlyReport, request_of, requests_of
    from producer.run.conclusion import Limits, conclude
    from producer.run.detached import find_detached
    from producer.run.execution import execute
    from producer.terminal.progress import RunView

    data_root = settings_of(home=home, broker=broker).data_root
    with (
        RunView(quiet=quiet) as view,
        _session(broker, home) as session,
        closing(find_detached(session, job, data_root)) as run,
    ):
        kept = requests_of(run)
        if output is not None or formats is not None or not kept:
            request = request_of(output or Path("report.csv"), formats)
        else:
            request = kept[-1]
        request.check_places()
        request.check_rows(run)
        if retry_failed:
            run.forget_curable()
        limits = Limits(max_failures, max_review, session.settings.max_image_pixels)
        limits.check(run, request)
        with EarlyReport(run, request) as early:
            work = execute(session, run, view)
        code = conclude(run, view, request, limits, work, session, early.counts())
    raise typer.Exit(code)


def _session(broker: str | None, home: Path | None) -> AbstractContextManager[Session]:
    from producer.local.session import open_session

    return open_session(settings_of(home=home, broker=broker), start=False)


def _found(session: Session, job: str) -> JobState:
    found = session.board.look(job)
    if found is None:
        raise UsageError(f"no job {job} on this broker; `sortline jobs list` shows what there is")
    return found
