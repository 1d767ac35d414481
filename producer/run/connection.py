"""A command's session, opened when it is first needed, and the runs that it brings to their end."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from configs import Settings
from jobs import passwords
from producer.errors import UsageError
from producer.local.session import Session, open_session
from producer.local.stack import private_root
from producer.reports.request import Request
from producer.run import OnExisting
from producer.run.conclusion import Work
from producer.run.opening import RunRequest, open_run, skipped_files
from producer.runfile import RunFile
from producer.terminal.progress import RunView


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


@contextmanager
def opened(connection: Connection, request: RunRequest, reports: Request, on_existing: OnExisting) -> Iterator[RunFile]:
    """Give the run file of ``request``, ready to go on; say how far it is if something ends the block early."""
    settings, session, view = connection.settings, connection.session, connection.view
    if request.duplicates:
        view.say("looking for duplicates, which reads the files of equal size")
    alone = settings.model_copy(update={"data_root": private_root(settings)})
    found = open_run(session.settings if session is not None else alone, request, on_existing)
    run, go_on = found.run, f"to go on: {_command()}"
    try:
        reports.check_rows(run)  # before anything is labelled
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


def label_rest(connection: Connection, run: RunFile) -> None:
    """Label what has no row yet, of a run without reports of its own."""
    if run.done == run.total:
        return
    session = connection.open()
    announce(session, run)
    execute_run(session, run, connection.view)
    session.board.update(run.plan.run, state="done", text=f"{run.total} rows, {run.failed} failed")
