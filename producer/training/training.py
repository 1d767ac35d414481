"""A labelled folder becomes a model version: search for the best recipe if asked to, train it, follow the job."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from rich.console import Console

from configs import Settings
from jobs import TrainModel
from model_store import ModelStore, StoreError
from producer.local.session import Session, open_session
from producer.terminal.model_page import report_page
from producer.training.events import follow
from producer.training.jobs import Training, TrainingFailed, loose_images, new_job, plan_training, queue_once
from producer.training.sweep import (
    Trial,
    cancel_trials,
    parse_axes,
    plan_trials,
    ranked,
    refuse_other_splits,
    run_trials,
    shown,
)
from producer.training.sweep_page import write_sweep_page
from producer.training.sweep_view import SweepView, table_of, write_sweep_csv
from producer.training.unfinished import SearchLog, job_of, search_of

NO_WORKER_AFTER_S = 10.0


def train(settings: Settings, training: Training) -> None:
    """Queue a training job and follow it; print what came of it.

    Raises:
        ProducerError: the job failed or was cancelled.
    """
    console = Console(stderr=True, quiet=training.quiet, highlight=False, soft_wrap=True)
    trials = _trials(settings, training)
    if settings.broker is None:
        plan_training(settings.model_copy(update={"data_root": Path("/")}), training)  # fail early
    for source in (training.dataset, *training.later_sources):
        if (loose := loose_images(source)) is not None:
            console.print(loose, markup=False)
    with ExitStack() as open_, open_session(settings, ["train"], start=not training.detach) as session:
        settings, name, is_begun = session.settings, new_job(training.name), False
        if trials:
            log = open_.enter_context(search_of(settings, training, trials))
            best, name = _search(session, training, trials, log, console), log.name
            settings = settings.model_copy(update={"training": best.recipe})
            console.print(
                f"The best of {len(trials)} trials on one validation split is an optimistic score: part of it is luck. "
                f"To confirm it:\n  {confirming(training, best)}\ntraining trial {best.number} again, to publish it",
                markup=False,
            )
        elif session.stack is not None:
            name, is_begun = open_.enter_context(job_of(settings, training))
        job = plan_training(settings, training, purpose="folds" if training.folds else "publish", job=name)
        job = queue_once(session, job)
        if training.detach:
            print(job.job)
            console.print(f"queued; follow it with: sortline jobs watch {job.job}")
            return
        begun = " goes on at its last checkpoint; --overwrite starts over" if is_begun else ""
        console.print(f"job {job.job}{begun}", markup=False)
        try:
            print(watch(session, job.job, console, [job]))
        except KeyboardInterrupt:
            if session.stack is None:
                console.print(f"the job goes on; sortline jobs watch {job.job}, or: sortline jobs cancel {job.job}")
            elif trials:
                console.print("stopping; the search is done, and the same command goes on to publish its best trial")
            else:
                console.print("stopping; the same command goes on at the last checkpoint, --overwrite starts over")
                session.stack.kill()  # whoever stops a training wants no version of it
            raise


def watch(session: Session, job: str, console: Console, messages: Sequence[TrainModel] = ()) -> str:
    """Show the events of a job until it ends; return the published version's name, or what else it found out.

    Raises:
        ProducerError: the job failed or was cancelled.
    """
    waiting = _Waiting(session, console)
    for event in follow(session, [job], messages):
        if event is None:
            waiting.go_on()
            continue
        waiting.end()
        if event.state in ("failed", "cancelled"):
            raise TrainingFailed(f"job {job} {event.state}: {event.text}")
        if event.state == "done" and not event.model:
            return event.text
        console.print(event.text, markup=False)
        if event.state == "done":
            with suppress(StoreError):  # a store that only the workers see
                if (page := report_page(ModelStore(session.settings.store_root).resolve(str(event.model)))) is not None:
                    console.print(f"report: {page}", markup=False)
            return str(event.model)
    return ""


def _trials(settings: Settings, training: Training) -> list[Trial]:
    if not training.sweep:
        return []
    axes = parse_axes(training.sweep, settings.training)
    refuse_other_splits(axes, training.dataset)
    return plan_trials(axes, settings.training, training.trials)


def _search(session: Session, training: Training, trials: list[Trial], log: SearchLog, console: Console) -> Trial:
    """Score the trials that are left, show and write what came of all, however far they come; return the best.

    Raises:
        TrainingFailed: no trial came to its end.
    """
    report = training.sweep_report or Path(f"{log.name}.csv")
    done = sum(trial.ended for trial in trials)
    jobs = []
    for trial in trials:
        settings = session.settings.model_copy(update={"training": trial.recipe})
        job = trial.job or f"{log.name}-t{trial.number:02}"
        jobs.append(plan_training(settings, training, purpose="score", job=job))

    def write() -> None:
        write_sweep_csv(trials, report)
        write_sweep_page(trials, f"Search {log.name}", report.with_suffix(".html"))

    write()  # a file that can't be written is no news for the end of a long search
    begun = f", {done} of them done before" if done else ""
    console.print(f"search {log.name}: {len(trials)} trials{begun}; table: {report}", markup=False)
    waiting = _Waiting(session, console)
    try:
        with SweepView(console, trials) as view:
            for changed in run_trials(session, trials, jobs, log.add):
                if changed is None:
                    waiting.go_on()
                    continue
                waiting.end()
                view.show(changed)
                if changed.ended:
                    write()  # kill -9 leaves what there is so far
    except KeyboardInterrupt:
        console.print("stopping; the same command goes on with the trials that are left, --overwrite starts over")
        raise
    finally:
        cancel_trials(session, trials)
        console.print(table_of(ranked(trials), trials[0].values), soft_wrap=False)
        write()
    best = ranked(trials)[0]
    if not best.scores:
        raise TrainingFailed(f"none of the {len(trials)} trials came to its end; trial {best.number}: {best.text}")
    console.print(f"plots: {report.with_suffix('.html')}", markup=False)
    return best


def confirming(training: Training, best: Trial) -> str:
    """Return the command that measures the recipe of the best trial over all images."""
    changed = [word for key, value in best.values.items() for word in ("--set", f"{key}={shown(value)}")]
    return shlex.join(["sortline", "train", *training.typed, *changed, "--folds", "5"])


class _Waiting:
    """While no job sends an event: keeps our own processes running, and says once if no worker is there."""

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
