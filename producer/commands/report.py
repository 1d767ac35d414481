"""``sortline report``: the reports of a run again, or others, from its run file."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from producer.commands.options import (
    EMBED_MB,
    By,
    ClassMapFile,
    EmbedMb,
    Formats,
    Home,
    ProbColumns,
    SortBy,
    SortInto,
    settings_of,
)
from producer.errors import UsageError


def report(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="A run file, the name of a run, or a report that was made of one."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The report to write, or a folder; the default is where it was."),
    ] = None,
    formats: Formats = None,
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", min=1, max=1000, help="Labels in each row, at most as many as the run kept."),
    ] = None,
    prob_columns: ProbColumns = False,
    class_map: ClassMapFile = None,
    embed_mb: EmbedMb = EMBED_MB,
    sort_into: SortInto = None,
    by: SortBy = By.link,
    undo_sort: Annotated[
        Path | None,
        typer.Option("--undo-sort", metavar="FILE", help="Play the undo file of a sort back, and do nothing else."),
    ] = None,
    home: Home = None,
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
    from producer.commands.label import sort_run
    from producer.reports.request import Request, request_of, write_reports
    from producer.run.runs import find_run
    from producer.terminal.progress import RunView

    settings = settings_of(home=home)
    found = find_run(settings, run)
    try:
        with RunView(quiet=False, bar=False) as view:
            kept = [Request.from_json(text) for text in found.requests()]
            named = os.path.abspath(run)  # noqa: PTH100 - links stay as the user wrote them
            earlier = [request for request in kept if named in request.outputs.values()] or kept
            if output or formats or top_k or prob_columns or class_map or embed_mb != EMBED_MB or not earlier:
                base = earlier[-1] if earlier else None
                same_place = base is not None and output is None
                made = request_of(
                    output or (base.main if base else Path("report.csv")),
                    formats or (",".join(base.formats) if base and same_place else None),
                    ranks=top_k or (base.ranks if base else None),
                    probabilities=prob_columns or (base is not None and base.probabilities),
                    class_map=class_map,
                    truth=base.truth if base else "auto",
                    embed_mb=embed_mb,
                )
                earlier = [replace(made, class_map=base.class_map) if base and class_map is None else made]
            for request in earlier:
                counts = write_reports(found, request, max_pixels=settings.max_image_pixels, say=view.say)
                if counts.missing:
                    view.say(f"{counts.missing} of {counts.images} images have no row yet; `sortline label` goes on")
                view.conclude(counts, request)
            if sort_into is not None:
                sort_run(found, earlier[-1], sort_into, by, view.say)
    finally:
        found.close()


def _undo(journal: Path) -> None:
    from base.text import printable
    from producer.reports.sorting import undo

    if not journal.is_file():
        raise UsageError(f"no undo file {journal}")
    done = undo(journal)
    for sentence in done.told:
        print(printable(sentence))
    kept = f"; {done.left} stay, and {journal} with them" if done.left else ""
    print(f"taken back: {done.placed} images{kept}")
