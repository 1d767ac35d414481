"""``sortline eval``: how right a model is on folders that are named after what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from producer.commands.label import Labelling, OnExisting, label_source
from producer.commands.options import (
    EMBED_MB,
    Broker,
    ClassMapFile,
    Config,
    DataRoot,
    EmbedMb,
    Formats,
    Home,
    Model,
    Quiet,
    Store,
    settings_of,
)

SHOWN_LABELS = 5


def evaluate(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A folder with one folder a class, named after its label or its images."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page to write, or a folder for all reports.")
    ] = Path("evaluation.html"),
    formats: Formats = None,
    model: Model = None,
    on_existing: Annotated[
        OnExisting, typer.Option(help="When this command has run before: finish what is missing, start over, or stop.")
    ] = OnExisting.resume,
    quiet: Quiet = False,
    class_map: ClassMapFile = None,
    embed_mb: EmbedMb = EMBED_MB,
    config: Config = None,
    broker: Broker = None,
    data_root: DataRoot = None,
    store: Store = None,
    home: Home = None,
) -> None:
    """Label folders whose names are the truth, through the queue, and say how right the model is.

    The folder that an image lies in names its class: by its label, or by the folder that the model was trained on.
    Images in other folders are labelled and listed, and count neither as right nor as wrong.

    Use images that the model was not trained on: `sortline train` says which it held back.

    Examples:

      sortline eval photos/test                      # evaluation.html and counts

      sortline eval photos/test -o march/            # a folder with all reports
    """
    from producer.reports.request import request_of

    request = request_of(
        output,
        formats,
        in_folder=("html", "csv"),
        ranks=SHOWN_LABELS,
        class_map=class_map,
        truth="folders",
        embed_mb=embed_mb,
    )
    settings = settings_of(config, home=home, broker=broker, data_root=data_root, store=store)
    raise typer.Exit(label_source(settings, Labelling(source, model, request, on_existing=on_existing, quiet=quiet)))
