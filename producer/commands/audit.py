"""``sortline audit``: what is wrong with a labelled folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from producer.commands.options import PlaceOptions, with_options


@with_options
def audit(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET", help="One folder a class, or train/ and val/ with such folders; or a CSV: path,label."
        ),
    ],
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="The recipe to train with: a TOML file, or a shipped name.")
    ] = Path("photos"),
    output: Annotated[Path, typer.Option("--output", "-o", help="The table to write.")] = Path("audit.csv"),
    folds: Annotated[int, typer.Option("--folds", min=2, max=20, help="Networks to train, each on the rest.")] = 5,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe. Repeatable.")
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(
            "--embeddings",
            metavar="FILE",
            help="Write what the backbone sees in each image, too: a Parquet file of 256 numbers each.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the result and nothing else.")] = False,
    *,
    place: PlaceOptions,
) -> None:
    """Find wrong labels, duplicates, data leakage and outliers among labelled images.

    Each image is labelled by a network that has seen neither it nor its near-duplicates. The table lists all images,
    the most suspicious first, with the suggested label, and scores of their quality; beside it lies a page with
    pictures. Nothing is changed: `sortline review` opens the table, or mend its column label and train on it.

    Examples:

      sortline audit photos/ -o audit.csv

      sortline review audit.csv

      sortline audit photos/ --config waste26 --embeddings photos.parquet
    """
    from configs import parse_assignments
    from producer.training.audit import audit as audit_dataset
    from producer.training.jobs import Training

    training = Training(dataset=dataset, name="audit", folds=folds, quiet=quiet)
    audit_dataset(place.settings(config, parse_assignments(assignments or [])), training, output, embeddings)
