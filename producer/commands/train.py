"""``sortline train``: a labelled folder becomes a model version."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from base.names import Priority
from producer.commands.options import PlaceOptions, with_options
from producer.errors import UsageError
from producer.training import Promote

_search = partial(typer.Option, rich_help_panel="Search and cross-validation")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """How good a recipe is, or which is the best."""

    folds: Annotated[
        int | None,
        _search(
            "--folds",
            min=2,
            max=20,
            help="Cross-validate over so many parts of all images, print the rate and publish nothing.",
        ),
    ] = None
    sweep: Annotated[
        list[str] | None,
        _search(
            "--sweep",
            metavar="KEY=V1,V2,...",
            help="Try these values of a key, one job a trial, and publish the best by validation top-1. Repeatable: "
            "all combinations. With --trials also KEY=LOW..HIGH.",
        ),
    ] = None
    trials: Annotated[int | None, _search("--trials", min=1, help="Try so many random draws instead.")] = None
    sweep_report: Annotated[
        Path | None,
        _search(
            "--sweep-report",
            metavar="FILE",
            help="Where the table of the trials goes, as CSV; the default is JOB.csv, here.",
        ),
    ] = None


class TrainCommand(TyperCommand):
    """Says how to change a value of the recipe, where somebody takes its key for an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = " ".join(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            option = str(getattr(error, "option_name", ""))  # of Typer's own error, whose class is private
            key = option.lstrip("-").replace("-", "_")
            from configs import Recipe

            found = re.search(rf"{re.escape(option)}[ =]([^-\s]\S*)", given)
            value = found[1] if found else "..."
            if key.partition(".")[0] in Recipe.model_fields:
                raise UsageError(f"No such option: {option}. It is a key of the recipe: --set {key}={value}") from error
            raise


@with_options
def train(
    datasets: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DATASET...",
            help="One folder a class, or train/ and val/ with such folders; or a CSV: path,label. Of several, the last "
            "one's label of an image counts.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="The recipe: a TOML file, or the name of one that ships; the default is photos, or that of --from.",
        ),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="NAME[@ALIAS|:VERSION]",
            help="Train this version once more: its images, its recipe, its name.",
        ),
    ] = None,
    corrections: Annotated[
        list[Path] | None,
        typer.Option("--corrections", metavar="FILE", help="Labels that count more: of `sortline review`. Repeatable."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Model name in the store; the default is the recipe's name.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change one value of the recipe, as in --set epochs=5. Repeatable."
        ),
    ] = None,
    features_at: Annotated[
        list[str] | None,
        typer.Option(
            "--features-at",
            metavar="[NAME=]NODE",
            help="Of a backbone that was imported as a graph: the node whose output are the features, instead of what "
            "goes into the last linear layer. With NAME= for one of several backbones. Repeatable.",
        ),
    ] = None,
    promote: Annotated[
        Promote, typer.Option(help="gate: into production if no worse than what is there; or always, or never.")
    ] = "gate",
    fail_on_leak: Annotated[
        bool, typer.Option("--fail-on-leak", help="Refuse a val/ that holds near-duplicates of training images.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Only enqueue and print the job; `sortline jobs watch JOB` follows it.")
    ] = False,
    priority: Annotated[
        Priority | None,
        typer.Option("--priority", help="Of trainings that wait: high is the next one, low comes after all others."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start over, where the same command was interrupted before.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the result and nothing else.")] = False,
    *,
    search: SearchOptions,
    place: PlaceOptions,
) -> None:
    """Queue a training job and follow it; the result is a new version in the model store.

    With no broker, a private Redis and a training worker are started for the job and taken down again. Interrupted? The
    same command goes on at the last checkpoint.

    Examples:

      sortline train photos/ --name kitchen

      sortline train digits/train --config digits

      sortline train --from kitchen --corrections corrections.csv

      sortline train photos/ --config waste26 --name kitchen --set ridge=0.3

      sortline train photos/ --set backbone=birds --features-at /pool/Flatten

      sortline train photos/ --config waste26 --detach    # prints the job's name

      sortline train photos/ --config waste26 --folds 5   # how good is it?

      sortline train photos/ --config waste26 --sweep ridge=0.03,0.1,0.3

      sortline train photos/ --config waste26 --sweep ridge=0.01..1 --trials 20
    """
    from configs import merge, parse_assignments
    from producer.training.again import origin_of
    from producer.training.jobs import Training
    from producer.training.training import train as train_model

    changes = parse_assignments(assignments or [])
    sources = [*(datasets or [])]
    recipe = config or Path("photos")
    begun = None  # the version itself: what --from means changes with the search's own
    if from_ is not None:
        origin = origin_of(place.settings(config), from_)
        begun = origin.reference
        sources, name = [*origin.datasets, *sources], name or origin.name
        if config is None:
            merge(origin.recipe, changes)
            changes = origin.recipe
    settings = place.settings(None if from_ is not None and config is None else recipe, changes, priority=priority)
    if features_at:
        if any(text.partition("=")[0].strip() == "backbone" for text in search.sweep or ()):
            raise UsageError(
                "--features-at can't be had with --sweep backbone=...; write it into what is tried, as in "
                """--sweep 'backbone={ name = "birds", features_at = "NODE" },efficientnet-lite1'"""
            )
        settings = settings.model_copy(update={"training": settings.training.with_features_at(features_at)})
    sources += corrections or []
    if not sources:
        raise UsageError("say what to train on: DATASET, or --from MODEL")
    training = Training(
        dataset=sources[0],
        later_sources=sources[1:],
        name=name or recipe.stem,
        typed=_typed(datasets, corrections, {"--from": begun, "--config": config}, assignments, features_at),
        promote=promote,
        folds=search.folds or 0,
        fail_on_leak=fail_on_leak,
        sweep=search.sweep or [],
        trials=search.trials,
        sweep_report=search.sweep_report,
        detach=detach,
        overwrite=overwrite,
        quiet=quiet,
    )
    train_model(settings, training)


def _typed(
    datasets: Sequence[Path] | None,
    corrections: Sequence[Path] | None,
    once: Mapping[str, object],
    assignments: Sequence[str] | None,
    features_at: Sequence[str] | None,
) -> list[str]:
    """Return the words that name images and recipe: a command may repeat them."""
    words = list(map(str, datasets or ()))
    words += [word for option, value in once.items() if value is not None for word in (option, str(value))]
    for option, values in (("--corrections", corrections), ("--set", assignments), ("--features-at", features_at)):
        words += [word for value in values or () for word in (option, str(value))]
    return words
