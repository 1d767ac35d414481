"""``sortline label``: a folder becomes a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from producer.commands.options import Exif, FileInfo, MaxReview, PlaceOptions, ReportOptions, RunOptions, with_options
from producer.errors import UsageError

Pages = Literal["first", "all"]
SHADOW_SHARE = 0.1


@with_options
def label(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder (searched recursively), an image, the URL of either, a .txt list, or - to read the list.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The report to write; or a folder for all of them.")
    ] = Path("report.csv"),
    top_k: Annotated[int, typer.Option("--top-k", min=1, max=1000, help="Labels in each row.")] = 5,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="RUN_OR_REPORT",
            help="Label only files that are new or changed since an earlier run: by path, size and time of the last "
            "change. What has no label there, or one of another model version, is labelled as well.",
        ),
    ] = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge", help="With --since: keep the rows of that run, and of those before it, that still stand."
        ),
    ] = False,
    duplicates: Annotated[
        bool,
        typer.Option(
            "--duplicates",
            help="Label byte-identical images once; reports name the first one in the column duplicate_of.",
        ),
    ] = False,
    file_info: FileInfo = False,
    pages: Annotated[
        Pages,
        typer.Option(
            help="Of files with several pictures (TIFF, GIF, WebP, PNG, HEIC, AVIF, MPO) label the first, or all: then "
            "each has a row, with the column page."
        ),
    ] = "first",
    exif: Exif = False,
    max_failures: Annotated[
        int | None, typer.Option(min=0, help="Exit with 4 if more images than this fail; any number may by default.")
    ] = None,
    max_review: MaxReview = None,
    shadow: Annotated[
        str | None,
        typer.Option(
            "--shadow",
            metavar="NAME[@ALIAS|:VERSION]",
            help="Have another version label a part of the images too, at that part's cost. Rows and reports stay "
            "those of the one that labels; summary and page compare both.",
        ),
    ] = None,
    shadow_share: Annotated[
        float, typer.Option("--shadow-share", metavar="PART", help="With --shadow: which part, above 0 and up to 1.")
    ] = SHADOW_SHARE,
    detach: Annotated[
        bool, typer.Option("--detach", help="Only enqueue; `sortline jobs gather JOB` collects the report.")
    ] = False,
    *,
    how: RunOptions,
    reports: ReportOptions,
    place: PlaceOptions,
) -> None:
    """Label images with a trained network, through the queue; write reports with one row an image.

    With no broker, everything that is needed (a private Redis, a worker) is started and taken down again.
    An image that can't be read is a row with status "error" and the reason; the others are labelled all the same.
    Interrupted? The same command goes on where it stopped.

    Examples:

      sortline label photos/                                  # report.csv

      sortline label photos/ --model waste26:3                # exactly version 3

      sortline label photos/ -o monday/ --format csv,html     # a page as well

      sortline label photos/ -o tue.csv --since mon.csv       # what has changed

      sortline label photos/ --since report.csv --merge       # and keep the rest

      find /mnt -name '*.jpg' | sortline label - -o found.csv # a list

      sortline label photos/ --shadow waste26@candidate       # beside it, 10 %

      sortline label s3://bucket/photos                       # a URL

      sortline label /mnt/photos --broker redis://queue:6379/0 --data-root /mnt
    """
    from producer.run.labelling import Labelling, label_source
    from producer.run.shadow import Shadow

    if duplicates and detach:
        raise UsageError("--duplicates: not with --detach, whose run may be gathered where no image can be read")
    if merge and (since is None or detach or duplicates):
        raise UsageError("--merge: only with --since, and not with --detach or --duplicates")
    for option, is_given in (("--detach", detach), ("--duplicates", duplicates), ("--sort-into", reports.sort_into)):
        if pages == "all" and is_given:
            raise UsageError(f"{option}: not with --pages all, of which a file has several rows")
    for option, is_given in (("--detach", detach), ("--pages all", pages == "all"), ("--merge", merge)):
        if shadow is not None and is_given:
            raise UsageError(f"--shadow: not with {option}")
    if not 0 < shadow_share <= 1:
        raise UsageError(f"--shadow-share {shadow_share:g}: a part of the images is above 0 and at most 1, as 0.1")
    labelling = Labelling(
        source=source,
        model=how.model,
        reports=reports.request(output, ranks=top_k),
        max_failures=max_failures,
        max_review=max_review,
        on_existing=how.on_existing,
        detach=detach,
        quiet=how.quiet,
        sort_into=reports.sort_into,
        by=reports.by,
        since=since,
        duplicates=duplicates,
        file_info=file_info,
        pages=pages == "all",
        merged=merge,
        exif=exif,
        retry_failed=how.retry_failed,
        shadow=Shadow(shadow, shadow_share) if shadow is not None else None,
    )
    raise typer.Exit(label_source(place.settings(how.config, priority=how.priority), labelling))
