"""``sortline tag``: the labels of a run as XMP sidecars, for photo managers."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from producer.commands.options import Home, settings_of
from producer.errors import FAILURE, OK
from producer.reports import Sidecar


def tag(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run file, the name of a run, or a report that was made of it.")
    ],
    min_confidence: Annotated[
        float, typer.Option("--min-confidence", min=0, max=1, help="Tag only images whose label is at least so sure.")
    ] = 0.0,
    sidecar: Annotated[
        Sidecar,
        typer.Option(help="name: photo.jpg.xmp, as digiKam and darktable read it; stem: photo.xmp, as Lightroom does."),
    ] = "name",
    undo: Annotated[bool, typer.Option("--undo", help="Take back what was added, and nothing else.")] = False,
    home: Home = None,
) -> None:
    """Write each image's label as a keyword into an XMP file beside it. The images themselves stay untouched.

    Keywords: dc:subject, lr:hierarchicalSubject and digiKam:TagsList, below the label's group if it has one. What
    others wrote into the file stays. Another run's labels replace those of an earlier one.

    Examples:

      sortline tag report.csv --min-confidence 0.8

      sortline tag report.csv --undo
    """
    from producer.reports.layout import Layout
    from producer.reports.request import requests_of
    from producer.reports.tagging import tag_images
    from producer.run.opening import find_run

    with closing(find_run(settings_of(home=home), run)) as found:
        kept = requests_of(found)
        layout = kept[-1].layout(found) if kept else Layout.of(found.plan)
        done = tag_images(found, layout, sidecar, min_confidence, undo=undo)
    for sentence in done.problems:
        print(sentence)
    left = f", {done.left} left" if done.left else ""
    print(f"{'taken back' if undo else 'tagged'}: {done.written} images, {done.unchanged} had nothing to change{left}")
    if not undo and done.written:
        print(f"to undo it: sortline tag {run} --undo")
    raise typer.Exit(FAILURE if done.left else OK)
