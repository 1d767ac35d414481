"""``sortline review``: look at a run's doubtful answers and correct them, in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from base.decisions import Decision
from producer.commands.options import Home, settings_of
from producer.review import Order


def review(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run file, the name of a run, a report of one, or any CSV of path and label."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The corrections; the default is beside the report of the run."
        ),
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(
            "--data-root", metavar="DIR", help="Where the images are here, if they were labelled on another machine."
        ),
    ] = None,
    who: Annotated[
        str | None, typer.Option("--who", metavar="NAME", help="Who decides; the default is the user's name.")
    ] = None,
    order: Annotated[
        Order,
        typer.Option(
            "--order",
            help="What comes first: the least sure; those far from each other among them; those least like the "
            "training (outlier); or of a comparison those about which both versions are surest and disagree.",
        ),
    ] = "uncertain",
    decision: Annotated[
        Decision | None,
        typer.Option(
            "--decision", help="Begin with the images that have this decision; the page shows the others, too."
        ),
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(
            "--embeddings",
            metavar="FILE",
            help="What a network sees in the images, of `sortline audit --embeddings`: --order diverse goes by it.",
        ),
    ] = None,
    browse: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
    home: Home = None,
) -> None:
    """Show a run's images in a browser, the doubtful first, and save each correction at once.

    The page is for this user and this machine alone. All that is decided stands in corrections.csv, one row a decision;
    it is a table of labelled images that `sortline train` reads.

    Examples:

      sortline review report.csv

      sortline review report.csv --decision unknown --order outlier

      sortline review audit.csv -o fixes.csv

      sortline review audit.csv --embeddings photos.parquet --order diverse

      sortline review comparison.csv --order disagreement
    """
    from producer.review.review import review as review_run

    review_run(
        settings_of(home=home), run, output, data_root, who, order, decision, embeddings=embeddings, browse=browse
    )
