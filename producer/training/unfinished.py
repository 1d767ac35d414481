"""Trainings and searches that a command has begun and that were interrupted or killed: the same command goes on."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from base.files import locked, private
from configs import Settings
from producer.training.jobs import Training, TrainingFailed, new_job, plan_training
from producer.training.sweep import Trial


@contextmanager
def job_of(settings: Settings, training: Training) -> Iterator[tuple[str, bool]]:
    """Give the job's name, and whether it has been begun before; it is forgotten once the job has ended.

    The checkpoints of a job lie below its name. A second command for the same training beside this one gets a new job.
    """
    with _note_of(settings, training, "") as note:
        if note is None:
            yield new_job(training.name), False
            return
        name = note.read_text(encoding="utf-8") if note.exists() else ""
        checkpoints = settings.home / "checkpoints" / name
        if training.overwrite and name:
            shutil.rmtree(checkpoints, ignore_errors=True)
            name = ""
        is_begun = bool(name) and checkpoints.is_dir()
        if not name:
            name = new_job(training.name)
            _write(note, name, "w")
        try:
            yield name, is_begun
        except TrainingFailed:
            note.unlink()
            raise
        note.unlink()


class SearchLog:
    """What came of a search until now: its name, and on disk a line for each trial that was queued or has ended."""

    def __init__(self, name: str, note: Path | None) -> None:
        self.name = name
        self._note = note

    def add(self, trial: Trial) -> None:
        """Keep the job and the state of a trial."""
        if self._note is not None:
            kept = {"trial": trial.number, "job": trial.job, "state": trial.state, "text": trial.text}
            _write(self._note, json.dumps({**kept, "scores": trial.scores}) + "\n", "a")


@contextmanager
def search_of(settings: Settings, training: Training, trials: Sequence[Trial]) -> Iterator[SearchLog]:
    """Give the log of a search; what an earlier command for the same search has done stands in the ``trials``.

    A search with other trials, other options or other files in the dataset is another one. It is forgotten once its
    best trial is published. A second command beside this one does a search of its own.
    """
    images = [_files_of(source) for source in (training.dataset, *training.later_sources)]
    recipes = [trial.recipe.model_dump_json() for trial in trials]
    with _note_of(settings, training, json.dumps([recipes, images])) as note:
        if note is None:
            yield SearchLog(new_job(training.name), None)
            return
        name, *lines = note.read_text(encoding="utf-8").split("\n") if note.exists() else [""]
        if training.overwrite and name:
            for folder in (settings.home / "checkpoints").glob(f"{name}*"):
                shutil.rmtree(folder, ignore_errors=True)
            name = ""
        if name:
            _restore(trials, lines)
            _write(note, "\n", "a")  # a line that was cut off stays alone
        else:
            name = new_job(training.name)
            _write(note, f"{name}\n", "w")
        yield SearchLog(name, note)
        note.unlink()


def _restore(trials: Sequence[Trial], lines: Sequence[str]) -> None:
    """Bring each trial to its last line: all keep their jobs, and those that are done their scores."""
    for line in filter(None, lines):
        with suppress(ValueError):  # cut off by a kill
            kept = json.loads(line)
            trial = trials[kept["trial"] - 1]
            trial.job = kept["job"]
            if kept["state"] == "done":
                trial.state, trial.text, trial.scores = "done", kept["text"], kept["scores"]


@contextmanager
def _note_of(settings: Settings, training: Training, more: str) -> Iterator[Path | None]:
    """Give the file in which a training of these options is noted; None while another command has it."""
    message = plan_training(settings, training, job="train-of-these-options").model_dump_json()
    note = settings.home / "trainings" / sha256((message + more).encode()).hexdigest()[:16]
    note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as held:
        try:
            held.enter_context(locked(note.with_suffix(".lock"), fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
            return
        yield note


def _write(note: Path, text: str, mode: str) -> None:
    with open(note, mode, encoding="utf-8", opener=private) as file:
        file.write(text)


def _files_of(source: Path) -> str:
    """Return a digest of the names, sizes and times of change of all files of a dataset; of a table, its own."""
    found, entered = [source], set()
    for above, folders, names in os.walk(source, followlinks=True):  # a class may be a link
        status = Path(above).stat()
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        found += [Path(above, name) for name in names]
    described = sha256()
    for path in sorted(found):
        with suppress(OSError):  # a link to nowhere
            status = path.stat()
            described.update(os.fsencode(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0"))
    return described.hexdigest()
