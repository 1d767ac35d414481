"""Follow a run that somebody else gathers, or that nobody gathers yet."""

from __future__ import annotations

import time

from rich.console import Console

from base.text import printable
from jobs import AWAY, STOPPED, JobState
from producer.errors import ProducerError
from producer.local.session import Outage, Session

LOOK_S = 1.0
SAY_EVERY_S = 5.0


class RunStopped(ProducerError):
    """The run was cancelled, or nobody goes on with it."""


def watch_run(session: Session, job: str, console: Console) -> str:
    """Show how far a run is until it ends or stops; return what came of it.

    Raises:
        RunStopped: it was cancelled, failed, was interrupted, or Redis has forgotten it.
        BrokerUnreachable: Redis was away for two minutes.
    """
    outage, shown, said_at = Outage(), "", float("-inf")
    while True:
        try:
            found = session.board.look(job)
            outage.end()
        except AWAY as error:
            outage.go_on(error)
            time.sleep(LOOK_S)
            continue
        if found is None:
            raise RunStopped(f"Redis has forgotten the run {job}; the command that began it goes on with it")
        if found.state in STOPPED:
            return _end_of(found)
        text = printable(f"{found.state}: {found.text}" if found.text else found.state)
        if text != shown and time.monotonic() - said_at >= SAY_EVERY_S:
            console.print(text, markup=False)
            shown, said_at = text, time.monotonic()
        time.sleep(LOOK_S)


def _end_of(found: JobState) -> str:
    text = printable(f"{found.job} {found.state}: {found.text}")
    if found.state in ("done", "labelled"):
        return text
    raise RunStopped(text)
