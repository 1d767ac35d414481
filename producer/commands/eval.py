"""``sortline eval``: how right a model is on folders that are named after what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from producer.commands.options import PageOptions, PlaceOptions, RunOptions, with_options

SHOWN_LABELS = 5


@with_options
def evaluate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder with one folder a class, named after its label or its images; or a CSV: path,label.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page to write, or a folder for all reports.")
    ] = Path("evaluation.html"),
    *,
    how: RunOptions,
    reports: PageOptions,
    place: PlaceOptions,
) -> None:
    """Label folders whose names are the truth, through the queue, and say how right the model is.

    The folder that an image lies in names its class: by its label, or by the folder that the model was trained on.
    Images in other folders are labelled and listed, and count neither as right nor as wrong. Of a CSV with a column
    split, the images of split test are taken, else those of val.

    Use images that the model was not trained on: `sortline train` says which it held back.

    Examples:

      sortline eval photos/test                      # evaluation.html and counts

      sortline eval photos/test -o march/            # a folder with all reports

      sortline eval labels.csv                       # its column label is true
    """
    from producer.run.labelling import Labelling, label_source

    request = reports.request(output, in_folder=("html", "csv"), ranks=SHOWN_LABELS, truth="folders")
    labelling = Labelling(
        source=source,
        model=how.model,
        reports=request,
        on_existing=how.on_existing,
        quiet=how.quiet,
        retry_failed=how.retry_failed,
    )
    raise typer.Exit(label_source(place.settings(how.config, priority=how.priority), labelling))
