"""``sortline worker``, ``sortline up``, ``sortline doctor``: the machinery."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from base.process import shut_out_strangers
from producer.commands.options import Config, Home, PlaceOptions, Store, settings_of, with_options
from producer.errors import FAILURE, OK, STANDSTILL, UNREACHABLE, ProducerError, UsageError

if TYPE_CHECKING:
    from configs import Settings

CHECK_LIMIT_S = 5.0


@with_options
def worker(
    queues: Annotated[
        Literal["label", "train"], typer.Option("--queues", help="label: consume images; train: consume training jobs.")
    ],
    name: Annotated[str | None, typer.Option(help="Shown in Flower before @host.")] = None,
    log_format: Annotated[
        Literal["text", "json"] | None,
        typer.Option(help="Lines for people, or JSON for a collector. Also SORTLINE_LOG_FORMAT."),
    ] = None,
    processes: Annotated[
        str | None,
        typer.Option(
            help="Label processes that share the cores and GPUs: a number, or auto, which is one on a CPU, and on a "
            "GPU as many as it takes to fill it. Also SORTLINE_PROCESSES.",
            metavar="auto|N",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Start none: exit with 0 if the worker of this name here answers, or one of its processes."
        ),
    ] = False,
    config: Config = None,
    *,
    place: PlaceOptions,
) -> None:
    """Run a worker in the foreground, which fills this host. SIGTERM or Ctrl-C finishes the work at hand.

    On a GPU a label worker is several processes; one that ends is started again.

    Examples:

      sortline worker --queues label --data-root /mnt/photos --store /mnt/models

      sortline worker --queues train --broker redis://queue:6379/0
    """
    from configs import environment_of

    settings = place.settings(config)
    if settings.broker is None:
        raise UsageError(
            "a worker needs a broker: --broker or SORTLINE_BROKER; `sortline up` runs everything on one machine"
        )
    if check:
        _check_worker(settings, name or queues)
        return
    if processes is not None:
        settings = settings.model_copy(update={"processes": _number_of(processes, queues)})
    if log_format is not None:
        settings = settings.model_copy(update={"log_format": log_format})
    command = [sys.executable, "-m", "worker", "--queues", queues]
    if name is not None:
        command += ["--name", name]
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chdir(settings.home)  # `python -m` imports from the working folder first
    os.execve(sys.executable, command, {**os.environ, **environment_of(settings)})  # noqa: S606 - a fixed program, no shell wanted


def up(
    train: Annotated[bool, typer.Option("--train/--no-train", help="Also run a training worker.")] = True,
    store: Store = None,
    home: Home = None,
) -> None:
    """Keep a local stack running in the foreground: Redis, a label worker, a training worker, and Flower if installed.

    While it runs, `sortline label` and `sortline train` without a broker use it and start at once. What ends by itself
    is started again, after 1, 2, 4 ... 30 seconds. Ctrl-C stops all.

    Example:

      sortline up --no-train
    """
    from rich.console import Console

    from producer.local.leftovers import SHARED
    from producer.local.monitor import start_flower
    from producer.local.session import Session  # noqa: F401 - a missing broker library shows before anything starts
    from producer.local.stack import LocalStack

    shut_out_strangers()  # Redis writes what it keeps
    console = Console(highlight=False, soft_wrap=True)
    settings = settings_of(home=home, store=store)
    signal.signal(signal.SIGTERM, _as_interrupt)
    signal.signal(signal.SIGINT, _as_interrupt)  # a shell's `&` starts us with SIGINT ignored
    with LocalStack(settings, folder=SHARED, persistent=True) as stack:
        stack.say = partial(console.print, markup=False)
        stack.start_worker("label")
        if train:
            stack.start_worker("train")
        flower = start_flower(stack)
        console.print(f"up: Redis at {stack.socket}, logs in {settings.home / 'logs'}", markup=False)
        console.print(flower, markup=False)
        console.print(
            "now, in another terminal: sortline label SOURCE, or sortline train DATASET --config NAME. Ctrl-C stops."
        )
        try:
            while True:
                stack.check()
                time.sleep(0.5)
        except KeyboardInterrupt:
            console.print("stopping: workers finish the work at hand")
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@with_options
def doctor(
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Only look whether labelling stands still, and why: for cron. Exit code 3 if it does."
        ),
    ] = False,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0, help="With --watch: how long chunks may be queued without a row.")
    ] = 10.0,
    *,
    place: PlaceOptions,
) -> None:
    """Check what Sortline needs on this machine: Redis and its settings, workers, devices, engines, store.

    Exit codes: 0 all well (warnings allowed), 1 something is wrong, 69 the broker can't be used. With --watch: 0 all
    well, or nothing is queued; 3 labelling stands still; 69 the broker can't be used.

    Examples:

      sortline doctor --broker redis://queue:6379/0 --data-root /mnt/photos

      sortline doctor --watch --broker redis://queue:6379/0 --minutes 30
    """
    from producer.local.doctor import check_all, check_standstill

    if watch:
        finding = check_standstill(place.settings(), minutes * 60)
        print(f"{finding.mark:4} {finding.text}")
        raise typer.Exit(OK if finding.mark == "ok" else STANDSTILL)
    code = OK
    for finding in check_all(place.settings()):
        print(f"{finding.mark:4} {finding.text}")
        if finding.mark == "bad":
            code = max(code, UNREACHABLE if finding.is_broker else FAILURE)
    raise typer.Exit(code)


def _check_worker(settings: Settings, name: str) -> None:
    from producer.local.session import open_session

    full_name = f"{name}@{socket.gethostname()}"
    names = f"{re.escape(name)}(-[0-9]+)?@{re.escape(socket.gethostname())}$"  # itself, or its processes
    with open_session(settings, start=False) as session:
        if not session.app.control.ping(pattern=names, matcher="pcre", timeout=CHECK_LIMIT_S, limit=1):
            raise ProducerError(f"no worker {full_name} answers within {CHECK_LIMIT_S:.0f} s")


def _number_of(processes: str, queue: str) -> int:
    """Return the setting that ``--processes`` means."""
    from configs import MAX_PROCESSES

    if processes == "auto":
        return 0
    if not processes.isdecimal() or not 1 <= int(processes) <= MAX_PROCESSES:
        raise UsageError(f"--processes {processes}: auto, or a number from 1 to {MAX_PROCESSES}")
    if queue == "train" and int(processes) > 1:
        raise UsageError("--processes: a training worker does one job at a time; start several of them")
    return int(processes)


def _as_interrupt(*_: object) -> None:
    raise KeyboardInterrupt
