"""Plan and queue a training job."""

from __future__ import annotations

import os
import re
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from base.image_files import has_image_suffix
from base.names import MODEL_NAME
from base.paths import path_to_text
from configs import Settings
from jobs import LOW, NEXT, ModelPin, TrainModel, to_json
from model_store import ModelNotFound, ModelStore, StoreUnavailable
from producer.errors import ProducerError, UsageError
from producer.local.session import Session
from producer.models import bring_pretrained, pin_of
from producer.training import Promote

MOST_FOLDERS = 12  # in a warning

Purpose = Literal["publish", "score", "folds", "audit"]


class TrainingFailed(ProducerError):
    """The job ended without a new version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What one command trains, and how it is followed.

    Attributes:
        later_sources: further images, and other labels for those of ``dataset``.
        typed: the words of the command that name images and recipe, as they were typed.
        name: of the model in the store.
        folds: parts of a cross-validation; 0 for none.
        sweep: what to try for keys of the recipe; ``trials`` random draws of it when given, else all combinations.
        sweep_report: where the table of the trials goes.
        overwrite: start over where the same training was interrupted.
    """

    dataset: Path
    name: str
    typed: list[str] = field(default_factory=list)
    promote: Promote = "gate"
    folds: int = 0
    fail_on_leak: bool = False
    sweep: list[str] = field(default_factory=list)
    trials: int | None = None
    sweep_report: Path | None = None
    detach: bool = False
    overwrite: bool = False
    quiet: bool = False
    later_sources: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse options that contradict each other."""
        if self.sweep and self.folds:
            raise UsageError(
                "--folds measures one recipe and --sweep looks for one: first --sweep, then --folds on its best"
            )
        if self.sweep and self.detach:
            raise UsageError("--sweep can't be detached: this command compares the trials and then publishes the best")
        if not self.sweep and (self.trials is not None or self.sweep_report is not None):
            flag = "--trials" if self.trials is not None else "--sweep-report"
            raise UsageError(f"{flag} needs a search: say what to try, as in --sweep lr_max=0.001,0.003")
        if self.sweep_report is not None and self.sweep_report.suffix.lower() not in ("", ".csv", ".txt"):
            raise UsageError(f"--sweep-report {self.sweep_report}: the table is a CSV; give it a name with .csv")


AGAIN = re.compile(r"-[0-9a-f]{4}$")  # ends the name of a job that was queued anew
TABLES = (".csv", ".tsv")  # labelled images as a table, which workers read as such


def new_job(name: str) -> str:
    """Return an unused name for a job that trains model ``name``."""
    return f"train-{name}-{time.strftime('%Y%m%d')}-{secrets.token_hex(3)}"


def loose_images(dataset: Path) -> str | None:
    """Return a warning about images that lie in the dataset itself, in the folder of no class."""
    entries = sorted(entry.name for entry in dataset.iterdir()) if dataset.is_dir() else []
    loose = sum(has_image_suffix(name) and not (dataset / name).is_dir() for name in entries)
    if not loose:
        return None
    folders = [name for name in entries if not name.startswith(".") and (dataset / name).is_dir()]
    shown = ", ".join(folders[:MOST_FOLDERS]) + (", ..." if len(folders) > MOST_FOLDERS else "")
    return (
        f"warning: {loose:,} images lie in {dataset} itself, in the folder of no class, and are left out; "
        f"its folders ({shown or 'none'}) are taken for classes"
    )


def plan_training(settings: Settings, training: Training, *, purpose: Purpose = "publish", job: str = "") -> TrainModel:
    """Return the message of a training job; what can be seen to be wrong is refused here, before anything is queued."""
    name = training.name
    folders = [_dataset(source) for source in (training.dataset, *training.later_sources)]
    if not re.fullmatch(MODEL_NAME, name):
        raise UsageError(f"--name {name!r}: a model's name is lower-case letters, digits, '.', '_' and '-'")
    if settings.data_root is None:
        raise UsageError(
            "with a broker of your own, pass --data-root: the folder that this machine and the workers share"
        )
    dataset, *later_sources = [_below(folder, settings.data_root) for folder in folders]
    return TrainModel(
        job=job or new_job(name),
        dataset=dataset,
        later_sources=tuple(later_sources),
        name=name,
        recipe=settings.training.model_dump(),
        backbones=tuple(_pin(settings, backbone.name) for backbone in settings.training.backbones),
        promote="never" if purpose == "score" else training.promote,
        purpose=purpose,
        folds=training.folds if purpose in ("folds", "audit") else 0,
        fail_on_leak=training.fail_on_leak,
    )


def _dataset(source: Path) -> Path:
    """Return an absolute path; UsageError if nothing that can be trained on is there."""
    folder = Path(os.path.abspath(source))  # noqa: PTH100 - links stay links
    if not folder.is_dir() and not (folder.is_file() and folder.suffix.lower() in TABLES):
        raise UsageError(
            f"no such folder: {source}. DATASET holds one folder a class, or train/ and val/ with such folders; or it "
            "is a CSV with the columns path and label"
        )
    return folder


def _below(folder: Path, data_root: Path | str) -> str:
    below = os.path.relpath(folder, data_root)
    if below.startswith(".."):
        raise UsageError(f"{folder} is not below the data root {data_root}, so no worker could read it")
    return path_to_text(below)


def _pin(settings: Settings, reference: str) -> ModelPin:
    try:
        bring_pretrained(settings, reference)
        return pin_of(ModelStore(settings.store_root).resolve(reference))
    except (ModelNotFound, StoreUnavailable) as error:
        raise UsageError(
            f"the recipe trains on the backbone {reference}: {error}. "
            f"Import it: sortline models import FILE --name {reference.split(':')[0].split('@')[0]}"
        ) from error


def queue_once(session: Session, job: TrainModel, note: str = "") -> TrainModel:
    """Queue a job unless it waits, is at work or has its answer; return it, renamed where it ended without one."""
    if (known := session.board.get(job.job)) is not None:
        is_answered = known.state == "done" and bool(session.client.exists(session.keys.results(job.job)))
        if is_answered or not (known.ended or session.board.is_cancelled(job.job)):
            return job
        fresh = AGAIN.sub("", job.job) + f"-{secrets.token_hex(2)}"
        job = job.model_copy(update={"job": fresh})
    enqueue_training(session, job, note)
    return job


def enqueue_training(session: Session, job: TrainModel, note: str = "") -> None:
    """Put the job on the board and on the queue, by the priority of the settings; ``note`` ends its title there."""
    what = {"publish": "train", "score": "score", "folds": f"{job.folds} folds of", "audit": "audit"}[job.purpose]
    title = f"{what} {job.name} on {Path(job.dataset).name}{note and ': '}{note}"
    session.board.add(job.job, kind="train", title=title)
    priority = session.settings.priority
    session.app.send_task(
        job.task,
        args=[to_json(job)],
        queue=job.queue,
        argsrepr=title,
        kwargsrepr=job.job,
        priority=LOW if priority == "low" else 0,
        headers={NEXT: True} if priority == "high" else None,
    )
