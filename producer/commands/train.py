"""``sortline train``: a labelled folder becomes a model version."""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from producer.errors import FAILURE, ProducerError
from producer.options import Broker, DataRoot, Home, Store, settings_of

if TYPE_CHECKING:
    from rich.console import Console

    from producer.session import Session

NO_WORKER_AFTER_S = 10.0


class Promote(str, Enum):
    """What becomes of the new version."""

    gate = "gate"
    always = "always"
    never = "never"


def train(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="One folder a class, or train/ and val/ with such folders.")
    ],
    config: Annotated[
        Path,
        typer.Option(
            "--config", metavar="FILE", help="The recipe: a TOML file, or the name of one that ships (digits, waste26)."
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Model name in the store; the default is the recipe's name.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change one value of the recipe, as in --set epochs=5. Repeatable."
        ),
    ] = None,
    promote: Annotated[
        Promote, typer.Option(help="gate: into production if no worse than what is there; or always, or never.")
    ] = Promote.gate,
    detach: Annotated[
        bool, typer.Option("--detach", help="Only enqueue and print the job; `sortline jobs watch JOB` follows it.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the published version and nothing else.")] = False,
    broker: Broker = None,
    data_root: DataRoot = None,
    store: Store = None,
    home: Home = None,
) -> None:
    """Queue a training job and follow it; the result is a new version in the model store.

    With no broker, a private Redis and a training worker are started for the job and taken down again.

    Examples:

      sortline train digits/train --config digits

      sortline train photos/ --config waste26 --name kitchen --set epochs=20

      sortline train photos/ --config waste26 --detach          # prints the job; sortline jobs watch JOB
    """
    from rich.console import Console

    from configs.settings import parse_assignments
    from producer.session import open_session
    from producer.training import enqueue_training, plan_training

    console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
    settings = settings_of(
        config,
        home=home,
        broker=broker,
        data_root=data_root,
        store=store,
        training=parse_assignments(assignments or []),
    )
    model = name or config.stem
    if settings.broker is None:
        plan_training(settings.model_copy(update={"data_root": Path("/")}), dataset, model, promote.value)  # fail early
    with open_session(settings, ["train"], start=not detach) as session:
        job = plan_training(session.settings, dataset, model, promote.value)
        enqueue_training(session, job)
        if detach:
            print(job.job)
            console.print(f"queued; follow it with: sortline jobs watch {job.job}")
            return
        console.print(f"job {job.job}", markup=False)
        try:
            print(watch(session, job.job, console))
        except KeyboardInterrupt:
            if session.stack is None:
                console.print(f"the job goes on; sortline jobs watch {job.job}, or: sortline jobs cancel {job.job}")
            raise


def watch(session: Session, job: str, console: Console) -> str:
    """Show the events of a job until it ends; return the published version's name.

    Raises:
        ProducerError: the job failed or was cancelled.
    """
    from producer.training import board_end, follow

    started, asked = time.monotonic(), False
    for event in follow(session, job):
        if event is None:
            session.watch()
            waited = time.monotonic() - started
            if not asked and session.stack is None and waited > NO_WORKER_AFTER_S:
                asked = True
                if not session.workers("train"):
                    console.print("no training worker answers; start one: sortline worker --queues train")
            if (ended := board_end(session, job)) is not None and waited > 2:
                return ended
            continue
        asked = True
        if event.state == "done":
            console.print(event.text, markup=False)
            return str(event.model)
        if event.state in ("failed", "cancelled"):
            raise TrainingFailed(f"job {job} {event.state}: {event.text}")
        console.print(event.text, markup=False)
    return ""


class TrainingFailed(ProducerError):
    """The job ended without a new version."""

    exit_code = FAILURE
