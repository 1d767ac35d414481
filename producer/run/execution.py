"""Label what a run has no rows for, and show how far it is."""

from __future__ import annotations

import time

from producer.local.session import Session
from producer.run.conclusion import Work
from producer.run.enqueue import ChunkSender
from producer.run.events import reported
from producer.run.gather import Gatherer, check_cancel
from producer.run.stall_alarm import StallAlarm
from producer.runfile import RunFile
from producer.terminal.progress import RunView

NO_WORKER_AFTER_S = 4.0  # without a row, ask whether anybody is there to label
NO_WORKER = "no label worker answers; start one: sortline worker --queues label"


def execute(session: Session, run: RunFile, view: RunView) -> Work:
    """Bring a run to its end; return what was done for it."""
    sender = ChunkSender(session.app, run.plan, run.pages, session.settings.priority)
    started, at_start, hint = time.monotonic(), run.done, None
    if run.done < run.total:
        check_cancel(session, run)
        session.board.update(run.plan.run, state="running", total=run.total, done=run.done)
        run.begin_work()
    alarm = StallAlarm(session, view.warn)
    for progress in reported(session, run, Gatherer(session, run, sender, view.warn).gather()):
        if progress.done > at_start:
            hint = ""
        elif hint is None and session.stack is None and time.monotonic() - started > NO_WORKER_AFTER_S:
            hint = "" if session.workers("label") else NO_WORKER
            view.say(hint)
        alarm.check(progress.done)
        view.show(progress, hint or "", run)
    sender.close()
    return Work(run.done - at_start, time.monotonic() - started)
