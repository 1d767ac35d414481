"""``sortline watch``: what arrives in a folder becomes rows of one growing report."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from producer.commands.options import Config, Exif, FileInfo, PlaceOptions, Quiet, ReportOptions, with_options
from producer.errors import OK, UsageError
from producer.run import OnExisting


@with_options
def watch(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="The folder to watch, with all below it.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The report that grows; or a folder for all of them.")
    ] = Path("report.csv"),
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME[@ALIAS|:VERSION]", help="The default is the one model in production."),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, max=1000, help="Labels in each row.")] = 5,
    file_info: FileInfo = False,
    exif: Exif = False,
    then: Annotated[
        str | None,
        typer.Option(
            "--then",
            metavar="COMMAND",
            help="Shell command to run after each batch. It gets the report and the counts as JSON on standard input, "
            "and as variables WATCH_REPORT, WATCH_IMAGES, WATCH_FAILED and others. Tried five times.",
        ),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Send the same JSON there after each batch, by POST. A URL that holds a secret belongs into "
            "SORTLINE_WEBHOOK. Tried five times.",
        ),
    ] = None,
    settle: Annotated[
        float,
        typer.Option(
            min=0,
            max=3600,
            metavar="SECONDS",
            help="How long size and time of a file must stand still before it is labelled; one that can't be read "
            "then is tried again after 20 times as long, before its error is a row.",
        ),
    ] = 3.0,
    poll: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=86400,
            metavar="SECONDS",
            help="Read the folder this often, instead of listening to the system. Every 5 s by default on network "
            "shares, where no system tells what others write.",
        ),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="End when all that is there has its row: for cron, and to try it out.")
    ] = False,
    on_existing: Annotated[
        OnExisting, typer.Option(help="When this command has run before: go on, start over, or stop.")
    ] = "resume",
    quiet: Quiet = False,
    config: Config = None,
    *,
    reports: ReportOptions,
    place: PlaceOptions,
) -> None:
    """Label what is in a folder and what arrives there, until Ctrl-C; one report grows with it.

    Files that are still being written are waited for. A file that is replaced later is labelled anew, in its row; one
    that is deleted keeps its row. After a restart, or a crash, the same command goes on where it stopped.
    While Redis, all workers or the folder are away, it waits for them.

    Examples:

      sortline watch inbox/                                   # report.csv

      sortline watch inbox/ --then 'cp "$WATCH_REPORT" /srv/www/'

      sortline watch /mnt/share/inbox --once --quiet          # from cron
    """
    from producer.run.hook import Hook
    from producer.run.watching import Watching, watch_folder

    signals: list[int] = []

    def end(number: int, _: object) -> NoReturn:
        signals.append(number)
        raise KeyboardInterrupt

    if reports.sort_into is not None:
        raise UsageError("--sort-into: not while a folder is watched; let --then call sortline report --sort-into")
    settings = place.settings(config)
    if isinstance(settings.data_root, str):
        raise UsageError("sortline watch: only folders of this machine, and the data root is a URL")
    if webhook is not None and "@" in webhook:
        # Every user of this machine can read command lines.
        raise UsageError(
            "a password on the command line can be read by everybody here; put the URL into SORTLINE_WEBHOOK"
        )
    watching = Watching(
        folder=folder,
        model=model,
        reports=reports.request(output, ranks=top_k),
        file_info=file_info,
        exif=exif,
        on_existing=on_existing,
        quiet=quiet,
        settle_s=settle,
        poll_s=poll,
        hook=Hook(then, webhook or settings.webhook),
        once=once,
    )
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)  # a shell's `&` starts us with SIGINT ignored
    code = watch_folder(settings, watching)
    raise typer.Exit(OK if signal.SIGTERM in signals else code)
