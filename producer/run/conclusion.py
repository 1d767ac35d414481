"""What becomes of a run whose rows are all there: reports, a closing line, images sorted into folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from producer.errors import OK, TOO_MANY_FAILURES, TOO_MANY_TO_REVIEW, UsageError
from producer.local.session import Session
from producer.reports import By
from producer.reports.drift import Drift
from producer.reports.request import Request, write_reports
from producer.reports.sorting import sort_images, undo_file
from producer.reports.tally import Tally
from producer.runfile import CURABLE, RunFile
from producer.terminal.progress import RunView


class Work(NamedTuple):
    """What this command did for a run."""

    images: int = 0
    seconds: float = 0.0


class Limits(NamedTuple):
    """How many images may fail, and be for review (any number when None), and the pixels of one with a thumbnail."""

    max_failures: int | None
    max_review: int | None
    max_pixels: int

    def check(self, run: RunFile, reports: Request) -> None:
        """Raise UsageError where nothing is decided that could be counted."""
        if self.max_review is not None and not reports.layout(run).thresholds:
            raise UsageError(
                f"--max-review: {run.plan.model} has no thresholds to accept answers by; give --min-confidence, too"
            )


NO_WORK = Work()


def conclude(
    run: RunFile,
    view: RunView,
    reports: Request,
    limits: Limits,
    work: Work,
    session: Session | None = None,
    counts: Tally | None = None,
    beside: Callable[[], None] | None = None,
) -> int:
    """Write the reports of a run whose rows are all there, say what became of it; return the exit code.

    Args:
        counts: of the first table, if it is written already.
        beside: as `write_reports` has it.
    """
    counts = write_reports(run, reports, max_pixels=limits.max_pixels, say=view.say, counts=counts, beside=beside)
    view.stop()
    view.say(_summary(run, counts, work))
    if (drift := Drift.of(run.plan, counts)) is not None:
        view.say(drift.sentence())
    if (shadow := run.shadow()) is not None:
        view.say(f"beside it, on {shadow['share']:.0%} of the images: {shadow['sentence']}")
    view.conclude(counts, reports)
    if session is not None:
        session.board.update(run.plan.run, state="done", text=f"{run.total} rows, {run.failed} failed")
    allowed = run.total if limits.max_failures is None else limits.max_failures
    if run.failed > allowed:
        return TOO_MANY_FAILURES
    return OK if limits.max_review is None or counts.to_review <= limits.max_review else TOO_MANY_TO_REVIEW


def sort_run(run: RunFile, reports: Request, into: Path, by: By, say: Callable[[str], None]) -> None:
    """Put the images of a run into class folders, and say what became of it."""
    done = sort_images(run, reports.layout(run), into, by)
    for problem in done.problems:
        say(problem)
    more = f", {done.left} left where they are" if done.left else ""
    say(f"sorted by {by} into {into}: {done.placed} images{more}")
    say(f"to undo it: sortline report --undo-sort {undo_file(into, run)}")


def _summary(run: RunFile, counts: Tally, work: Work) -> str:
    """Return the closing line: how many, how fast, what failed and why."""
    why = ", ".join(f"{reason} {count}" for reason, count in counts.reasons.most_common())
    rate = f" in {work.seconds:.1f} s, {work.images / max(work.seconds, 1e-9):.0f} img/s" if work.images else ""
    failed = f"{run.failed} failed ({why})" if run.failed else "0 failed"
    if curable := sum(counts.reasons[reason] for reason in CURABLE):
        failed += f"; --retry-failed tries {curable} of them again"
    return f"{run.total} images: {run.total - run.failed} labelled, {failed}{rate}, model {run.plan.model}"
