"""``sortline report``: the reports of a run again, or others, from its run file."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from producer.commands.options import Home, ReportOptions, settings_of, with_options
from producer.errors import UsageError
from producer.reports import EMBED_MB

if TYPE_CHECKING:
    from producer.reports.request import Request
    from producer.runfile import RunFile


THRESHOLDS = ("min_confidence", "target_precision")  # one of which takes the place of the other
CHANGES = ("formats", "prob_columns", "class_map", "columns", "bursts", *THRESHOLDS, "csv_dialect")
KEPT = (
    "probabilities",
    "class_map",
    "columns",
    "bursts_s",
    "csv_dialect",
)  # of the newest request, if not given


@with_options
def report(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="A run file, the name of a run, or a report that was made of one."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The report to write, or a folder; the default is where it was."),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", min=1, max=1000, help="Labels in each row, at most as many as the run kept."),
    ] = None,
    undo_sort: Annotated[
        Path | None,
        typer.Option("--undo-sort", metavar="FILE", help="Play the undo file of a sort back, and do nothing else."),
    ] = None,
    home: Home = None,
    *,
    reports: ReportOptions,
) -> None:
    """Make the reports of a run again, or others, from its run file; nothing is labelled.

    Without options: the same reports in the same places. An unfinished run has rows of status "missing".

    Examples:

      sortline report report.csv                          # the same again

      sortline report report.csv --format html            # a page beside it

      sortline report report.csv --sort-into sorted --by copy

      sortline report --undo-sort sorted/undo-inbox-4d5e6f70-20260301-1a2b3c.jsonl
    """
    if undo_sort is not None:
        _undo(undo_sort)
        return
    if run is None:
        raise UsageError("say which run: its file, its name, or a report that was made of it")
    from producer.reports.request import write_reports
    from producer.run.conclusion import sort_run
    from producer.run.opening import find_run
    from producer.terminal.progress import RunView

    settings = settings_of(home=home)
    with closing(find_run(settings, run)) as found, RunView(quiet=False, bar=False) as view:
        requests = _requests(found, run, output, top_k, reports)
        for request in requests:
            request.check_rows(found)
            counts = write_reports(found, request, max_pixels=settings.max_image_pixels, say=view.say)
            if counts.missing:
                view.say(f"{counts.missing} of {counts.images} images have no row yet; `sortline label` goes on")
            view.conclude(counts, request)
        if reports.sort_into is not None:
            sort_run(found, requests[-1], reports.sort_into, reports.by, view.say)


def _requests(
    run: RunFile, named: str, output: Path | None, top_k: int | None, options: ReportOptions
) -> list[Request]:
    """Return what to write: what was asked for before, or the newest of it with what the options change."""
    from producer.reports.request import requests_of

    kept = requests_of(run)
    path = os.path.abspath(named)  # noqa: PTH100 - links stay as the user wrote them
    earlier = [request for request in kept if path in request.outputs.values()] or kept
    changes = (output, top_k, *(getattr(options, name) for name in CHANGES), options.embed_mb != EMBED_MB)
    if earlier and all(change in (None, False) for change in changes):
        return earlier
    if not earlier:
        return [options.request(output or Path("report.csv"), ranks=top_k)]
    base = earlier[-1]
    if output is None and not options.formats:
        options = replace(options, formats=",".join(base.formats))
    made = options.request(output or base.main, ranks=top_k or base.ranks, truth=base.truth)
    kept_names = KEPT if any(getattr(made, name) is not None for name in THRESHOLDS) else (*KEPT, *THRESHOLDS)
    return [
        replace(
            made, **{name: getattr(base, name) for name in kept_names if getattr(made, name) in (None, False, [], {})}
        )
    ]


def _undo(journal: Path) -> None:
    from base.text import printable
    from producer.reports.sorting import undo

    if not journal.is_file():
        raise UsageError(f"no undo file {journal}")
    done = undo(journal)
    for sentence in done.problems:
        print(printable(sentence))
    kept = f"; {done.left} stay, and {journal} with them" if done.left else ""
    print(f"taken back: {done.placed} images{kept}")
