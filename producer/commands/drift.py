"""``sortline drift``: whether images still look like those of training, over time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from producer.commands.options import Home, settings_of
from producer.errors import UsageError


def drift(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUNS]...", help="Run files, names of runs, reports, or files summary.json; all runs by default."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write.")] = Path(
        "drift.html"
    ),
    home: Home = None,
) -> None:
    """Plot how far the answers of runs were from those that their models gave to images held out from training.

    A CSV with the same figures comes beside the page. Nothing is labelled.

    Examples:

      sortline drift                          # all runs of this home

      sortline drift reports/*/summary.json -o march.html
    """
    from producer.reports.drift_page import measured_by, measured_in, oldest_first, write_drift
    from producer.run.opening import find_run_file
    from producer.runfile import RunFileError

    settings = settings_of(home=home)
    page = Path(os.path.abspath(output))  # noqa: PTH100 - links stay as the user wrote them
    if page.suffix.lower() != ".html" or page.is_dir():
        raise UsageError(f"-o {output}: the page is a file, such as drift.html")
    found = []
    for text in runs or []:
        path = Path(text)
        is_summary = path.suffix.lower() == ".json" and path.is_file()
        found.append(measured_by(path) if is_summary else measured_in(find_run_file(settings, text)))
    for path in (settings.home / "runs").glob("*.run") if not runs else ():
        try:
            found.append(measured_in(path))
        except RunFileError as error:
            print(f"left out: {error}")
    measured = list(oldest_first(found))
    if not measured:
        raise UsageError("no run to show: each needs labelled images, and a model that was calibrated at its training")
    write_drift(measured, page, page.with_suffix(".csv"))
    for one in measured[-5:]:
        print(f"{one.ended} {one.source}: {one.drift['sentence']}")
    left = f"; {len(found) - len(measured)} left out, without such answers" if len(found) > len(measured) else ""
    print(f"drift: {output}, of {len(measured):,} runs{left}")
