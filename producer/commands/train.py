"""``sortline train``: a labelled folder becomes a model version."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from producer.commands.options import Broker, DataRoot, Home, Store, settings_of
from producer.errors import FAILURE, ProducerError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from jobs.train import TrainModel
    from producer.local.session import Session
    from producer.training.sweep import Trial

NO_WORKER_AFTER_S = 10.0
SEARCH = "Search and cross-validation"


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
    fail_on_leak: Annotated[
        bool,
        typer.Option("--fail-on-leak", help="Refuse a val/ that holds near copies of training images."),
    ] = False,
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds",
            min=2,
            max=20,
            help="Cross-validate over so many parts of all images, print the rate and publish nothing.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            metavar="KEY=V1,V2,...",
            help="Try these values of a key, one job a trial, and publish the best by validation top-1. Repeatable: "
            "all combinations. With --trials also KEY=LOW..HIGH.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, help="Try so many random draws instead.", rich_help_panel=SEARCH),
    ] = None,
    sweep_report: Annotated[
        Path | None,
        typer.Option(
            "--sweep-report",
            metavar="FILE",
            help="Where the table of the trials goes, as CSV; the default is JOB.csv, here.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Only enqueue and print the job; `sortline jobs watch JOB` follows it.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the result and nothing else.")] = False,
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

      sortline train photos/ --config waste26 --detach    # prints the job's name

      sortline train photos/ --config waste26 --folds 5   # how good is it?

      sortline train photos/ --config waste26 --sweep lr_max=0.001,0.003

      sortline train photos/ --config waste26 --sweep dropout=0..0.5 --trials 20
    """
    from rich.console import Console

    from configs import parse_assignments
    from producer.local.session import open_session
    from producer.training.jobs import enqueue_training, new_job, plan_training
    from producer.training.sweep import parse_axes, plan_trials, refuse_other_splits

    _refuse_contradictions(folds=folds, sweep=sweep, trials=trials, sweep_report=sweep_report, detach=detach)
    console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
    settings = settings_of(
        config,
        home=home,
        broker=broker,
        data_root=data_root,
        store=store,
        training=parse_assignments(assignments or []),
    )
    plan = partial(plan_training, dataset=dataset, name=name or config.stem, fail_on_leak=fail_on_leak)
    planned: list[Trial] = []
    if sweep:
        axes = parse_axes(sweep, settings.training)
        refuse_other_splits(axes, dataset)
        planned = plan_trials(axes, settings.training, trials)
    if settings.broker is None:
        plan(settings.model_copy(update={"data_root": Path("/")}), promote=promote.value)  # fail early
    with open_session(settings, ["train"], start=not detach) as session:
        settings, search_job = session.settings, ""
        if planned:
            search_job = new_job(name or config.stem)
            best = _search(session, plan, planned, search_job, console, sweep_report or Path(f"{search_job}.csv"))
            settings = settings.model_copy(update={"training": best.recipe})
            _say_how_to_confirm(console, best, len(planned), dataset, config, assignments or [])
        purpose: Literal["publish", "folds"] = "folds" if folds else "publish"
        job = plan(settings, promote=promote.value, job=search_job, purpose=purpose, folds=folds or 0)
        enqueue_training(session, job)
        if detach:
            print(job.job)
            console.print(f"queued; follow it with: sortline jobs watch {job.job}")
            return
        console.print(f"job {job.job}", markup=False)
        try:
            print(watch(session, job.job, console, [job]))
        except KeyboardInterrupt:
            if session.stack is None:
                console.print(f"the job goes on; sortline jobs watch {job.job}, or: sortline jobs cancel {job.job}")
            raise


def watch(session: Session, job: str, console: Console, messages: Sequence[TrainModel] = ()) -> str:
    """Show the events of a job until it ends; return the published version's name, or what else it found out.

    Raises:
        ProducerError: the job failed or was cancelled.
    """
    from producer.training.jobs import follow

    silence = _Silence(session, console)
    for event in follow(session, [job], messages):
        if event is None:
            silence.go_on()
            continue
        silence.end()
        if event.state in ("failed", "cancelled"):
            raise TrainingFailed(f"job {job} {event.state}: {event.text}")
        if event.state == "done" and not event.model:
            return event.text
        console.print(event.text, markup=False)
        if event.state == "done":
            return str(event.model)
    return ""


def _search(
    session: Session,
    plan: Callable[..., TrainModel],
    trials: list[Trial],
    search_job: str,
    console: Console,
    report: Path,
) -> Trial:
    """Score the trials, show and write their table, however far they come; return the best.

    Raises:
        TrainingFailed: no trial came to its end.
    """
    from producer.training.sweep import cancel_trials, ranked, run_trials
    from producer.training.sweep_view import SweepView, table_of, write_sweep_csv

    jobs = [
        plan(
            session.settings.model_copy(update={"training": trial.recipe}),
            promote="never",
            purpose="score",
            job=f"{search_job}-t{trial.number:02}",
        )
        for trial in trials
    ]
    write_sweep_csv(trials, report)  # a file that can't be written is no news for the end of a long search
    console.print(f"search {search_job}: {len(trials)} trials; table: {report}", markup=False)
    silence = _Silence(session, console)
    try:
        with SweepView(console, trials) as view:
            for trial in run_trials(session, trials, jobs):
                if trial is None:
                    silence.go_on()
                    continue
                silence.end()
                view.show(trial)
                if trial.ended:
                    write_sweep_csv(trials, report)  # kill -9 leaves the table so far
    finally:
        cancel_trials(session, trials)
        console.print(table_of(ranked(trials), trials[0].values), soft_wrap=False)
        write_sweep_csv(trials, report)
    best = ranked(trials)[0]
    if not best.scores:
        raise TrainingFailed(f"none of the {len(trials)} trials came to its end; trial {best.number}: {best.text}")
    return best


def _say_how_to_confirm(
    console: Console, best: Trial, count: int, dataset: Path, config: Path, assignments: list[str]
) -> None:
    from producer.training.sweep import shown

    assignments = [*assignments, *(f"{key}={shown(value)}" for key, value in best.values.items())]
    words = ["sortline", "train", str(dataset), "--config", str(config)]
    words += [word for assignment in assignments for word in ("--set", assignment)]
    console.print(
        f"The best of {count} trials on one validation split is an optimistic score: part of it is luck. To confirm it:"
        f"\n  {shlex.join([*words, '--folds', '5'])}\ntraining trial {best.number} again, to publish it",
        markup=False,
    )


def _refuse_contradictions(
    *, folds: int | None, sweep: list[str] | None, trials: int | None, sweep_report: Path | None, detach: bool
) -> None:
    if sweep and folds:
        raise UsageError(
            "--folds measures one recipe and --sweep looks for one: first --sweep, then --folds on its best"
        )
    if sweep and detach:
        raise UsageError("--sweep can't be detached: this command compares the trials and then publishes the best")
    if not sweep and (trials is not None or sweep_report is not None):
        flag = "--trials" if trials is not None else "--sweep-report"
        raise UsageError(f"{flag} needs a search: say what to try, as in --sweep lr_max=0.001,0.003")


class _Silence:
    """What to do while no job says anything: look after our own processes, and once for a worker that isn't there."""

    def __init__(self, session: Session, console: Console) -> None:
        self._session = session
        self._console = console
        self._since: float | None = time.monotonic()

    def go_on(self) -> None:
        self._session.watch()
        if self._since is None or self._session.stack is not None:
            return
        if time.monotonic() - self._since > NO_WORKER_AFTER_S:
            self._since = None
            if not self._session.workers("train"):
                self._console.print("no training worker answers; start one: sortline worker --queues train")

    def end(self) -> None:
        self._since = None


class TrainingFailed(ProducerError):
    """The job ended without a new version."""

    exit_code = FAILURE
