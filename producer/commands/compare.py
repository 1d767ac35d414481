"""``sortline compare``: what changes from one version to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from producer.commands.options import HowOptions, PlaceOptions, with_options


@with_options
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="The first version, such as the one in production.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The second, such as kitchen@candidate or kitchen:4.")],
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="What both label: as for `sortline label`, or a CSV: path,label.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page to write; or a folder. A CSV and a summary come beside it.")
    ] = Path("comparison.html"),
    *,
    how: HowOptions,
    place: PlaceOptions,
) -> None:
    """Label the same images by two versions, through the queue, and show what differs.

    The page says how often they agree, where labels go, and shows the images about which both are surest and disagree;
    `sortline review` opens the CSV beside it to correct them. Where images lie in folders that are named after classes,
    or SOURCE is a table of labelled images, it also says which version is right more often, and whether chance would
    explain that (McNemar).

    Examples:

      sortline compare kitchen kitchen@candidate inbox/

      sortline compare kitchen:3 kitchen:4 photos/test -o march/

      sortline review comparison.csv --order disagreement
    """
    from producer.run.comparing import compare_versions, comparison_request
    from producer.run.labelling import Labelling

    labelling = Labelling(
        source=source,
        model=first,
        reports=comparison_request(output),
        on_existing=how.on_existing,
        quiet=how.quiet,
        retry_failed=how.retry_failed,
        may_be_table=True,
    )
    raise typer.Exit(compare_versions(place.settings(how.config, priority=how.priority), labelling, second))
