"""Trainings that a command has begun on a stack of its own and that were interrupted: the same command goes on."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256

from base.files import locked, private
from configs import Settings
from producer.training.jobs import Training, TrainingFailed, new_job, plan_training


@contextmanager
def job_of(settings: Settings, training: Training) -> Iterator[tuple[str, bool]]:
    """Give the job's name, and whether it has been begun before; it is forgotten once the job has ended.

    The checkpoints of a job lie below its name. A second command for the same training beside this one gets a new job.
    """
    message = plan_training(settings, training, job="train-of-these-options").model_dump_json()
    note = settings.home / "trainings" / sha256(message.encode()).hexdigest()[:16]
    note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as held:
        try:
            held.enter_context(locked(note.with_suffix(".lock"), fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError:
            yield new_job(training.name), False
            return
        name = note.read_text(encoding="utf-8") if note.exists() else ""
        checkpoints = settings.home / "checkpoints" / name
        if training.overwrite and name:
            shutil.rmtree(checkpoints, ignore_errors=True)
        is_begun = bool(name) and checkpoints.is_dir()
        if not is_begun:
            name = new_job(training.name)
            with open(note, "w", encoding="utf-8", opener=private) as file:
                file.write(name)
        try:
            yield name, is_begun
        except TrainingFailed:
            note.unlink()
            raise
        note.unlink()
