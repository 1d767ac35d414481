"""``sortline monitor``: Flower in the foreground."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from base.broker_url import unix_url
from producer.commands.options import Broker, Home, settings_of
from producer.errors import ProducerError, UsageError


def monitor(
    context: typer.Context,
    address: Annotated[str, typer.Option(help="Where Flower listens; the default is 127.0.0.1.")] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The default is the first free one from 5555 on.")] = 0,
    read_only: Annotated[
        bool, typer.Option("--read-only/--allow-changes", help="Whether Flower may revoke tasks and stop workers.")
    ] = True,
    auth: Annotated[
        bool, typer.Option("--auth/--no-auth", help="Ask for a password. Without one: on this machine only.")
    ] = True,
    broker: Broker = None,
    home: Home = None,
) -> None:
    """Run Flower: workers, runs, chunks and training jobs in a browser. Options of Flower itself pass through.

    Only this machine can reach it, with a password that is made once, and it changes nothing unless asked to.

    Examples:

      sortline monitor

      sortline monitor --allow-changes --port 8080 --max_tasks=20000

      FLOWER_BASIC_AUTH=me:secret sortline monitor --address 0.0.0.0
    """
    from importlib.util import find_spec

    from jobs import BrokerAway, check_broker, connect
    from producer.local.monitor import COMMAND, NOT_INSTALLED, plan_flower
    from producer.local.stack import is_answering, shared_stack_socket

    settings = settings_of(home=home, broker=broker)
    if find_spec("flower") is None:
        raise ProducerError(NOT_INSTALLED)
    if settings.broker is None:
        socket = shared_stack_socket(settings)
        if not is_answering(socket):
            raise UsageError(
                "no broker to look at: pass --broker or set SORTLINE_BROKER; `sortline up` has a Flower of its own"
            )
        settings = settings.model_copy(update={"broker": unix_url(socket)})
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    flower = plan_flower(
        settings.home, address=address, port=port, read_only=read_only, auth=auth, options=context.args
    )
    with connect(settings) as client:
        try:
            check_broker(client, settings)  # Celery would repeat a wrong password for ever
        except BrokerAway as error:
            print(f"sortline: {error}; waiting for it", file=sys.stderr)
    print(flower.message, flush=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLOWER_")}
    environment = {**kept, **flower.environment, "SORTLINE_BROKER": str(settings.broker)}
    os.chdir(settings.home)  # Python and Flower read files of the working folder as programs
    os.execve(COMMAND[0], COMMAND, environment)  # noqa: S606 - a fixed program, no shell wanted
