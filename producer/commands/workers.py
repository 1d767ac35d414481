"""``sortline workers``: which workers there are, and how to take a host out of service."""

from __future__ import annotations

from typing import Annotated

import typer

from producer.commands.options import Broker, Home, settings_of
from producer.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="List the workers of a broker, and drain a host.")


@app.command("list")
def list_workers(broker: Broker = None, home: Home = None) -> None:
    """Show each worker that answers: its host, engine, model versions, jobs at hand, images a second.

    Example:

      sortline workers list --broker redis://queue:6379/0
    """
    from producer.local.fleet import SHOWN, workers_of
    from producer.local.session import open_session
    from producer.terminal.job_list import aligned

    with open_session(settings_of(home=home, broker=broker), start=False) as session:
        found = workers_of(session)
    if not found:
        print("no worker answers; start one: sortline worker --queues label")
        return
    rows = [("worker", "jobs", *SHOWN), *((each.name, str(each.jobs), *each.shown.values()) for each in found)]
    for line in aligned(rows):
        print(line)


@app.command()
def drain(
    host: Annotated[
        str, typer.Argument(metavar="HOST", help="The part of a worker's name after the @, or a whole name.")
    ],
    broker: Broker = None,
    home: Home = None,
) -> None:
    """Let the workers of a host finish what they have at hand, take no more, and end with code 3.

    `sortline up`, a worker of several processes and our systemd unit don't start them again.

    Example:

      sortline workers drain gpu-3 --broker redis://queue:6379/0
    """
    from producer.local.fleet import drain as drain_host
    from producer.local.session import open_session

    with open_session(settings_of(home=home, broker=broker), start=False) as session:
        names = drain_host(session, host)
    if not names:
        raise UsageError(f"no worker on {host} answers; `sortline workers list` shows those that do")
    for name in names:
        print(f"{name} finishes what it has at hand, and ends")
