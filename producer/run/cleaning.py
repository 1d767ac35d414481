"""What may go from this machine's disk: what is old, and no unfinished run or training needs."""

from __future__ import annotations

import fcntl
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from base.files import locked
from base.temporary import abandoned_folders
from configs import Settings
from jobs import JobBoard
from model_store import ModelStore
from producer.local.disk import size_of
from producer.local.leftovers import leftover_logs, leftover_stacks, remove_leftovers
from producer.runfile import RunFile, RunFileError

SPACE = re.compile(r"[0-9a-f]{64}")  # a folder of the feature cache
TRIAL = re.compile(r"(-t\d+)?(-[0-9a-f]{4})?$")  # behind the name of a search


@dataclass(frozen=True, slots=True)
class Unneeded:
    """Something that may go, or, with ``kept``, that stays though it is old."""

    path: Path
    what: str
    kept: str = ""

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return size_of(self.path)


def unneeded(settings: Settings, older_s: float, board: JobBoard | None = None) -> Iterator[Unneeded]:
    """Yield what has not changed for ``older_s`` seconds, and what those have left that are gone.

    Args:
        board: of the broker, which knows the trainings that have not ended (without one, age alone decides), and which
            runs another host has gathered.
    """
    home, oldest = settings.home, time.time() - older_s
    for path in sorted((home / "runs").glob("*.run")):
        if _written(path) < oldest:
            yield Unneeded(path, "a finished run", _why_kept(path, board))
    for folder in leftover_stacks(home):
        yield Unneeded(folder, "a stack whose command is gone")
    for path in leftover_logs(home, older_s):
        yield Unneeded(path, "a log")
    noted = _noted(home)
    for kind in ("checkpoints", "scratch"):
        for folder in _folders(home / kind):
            if _newest(folder) < oldest:
                yield Unneeded(folder, f"{kind} of a training", _why_training_kept(folder.name, noted, board))
    for folder in _folders(settings.feature_cache_root):
        if SPACE.fullmatch(folder.name) and folder.stat().st_mtime < oldest:
            yield Unneeded(folder, "features of training images")
    if (path := home / "thumbnails.db").exists() and _written(path) < oldest:
        yield Unneeded(path, "thumbnails")
    for folder in ModelStore(settings.store_root).abandoned(older_than_s=max(older_s, 24 * 3600)):
        yield Unneeded(folder, "a version whose publisher has died")
    for folder in abandoned_folders():
        yield Unneeded(folder, "temporary files of a killed process")


def remove(settings: Settings, found: Unneeded) -> bool:
    """Remove what `unneeded` found; return whether it is gone. What is in use by now stays."""
    path = found.path
    with suppress(OSError, RunFileError, BlockingIOError):
        if path.suffix == ".run":
            RunFile.remove(path)
        elif path.parent == settings.feature_cache_root:
            with locked(path.with_name(f"{path.name}.used"), fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(path)
        elif path.parent == settings.home / "run":
            remove_leftovers(settings.home)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                path.with_name(name).unlink(missing_ok=True)
    return not path.exists()


def seconds_of(text: str) -> float:
    """Return the seconds of "30d", "12h" or "2w"; ValueError for anything else."""
    found = re.fullmatch(r"(\d{1,6}) ?(h|d|w)", text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no age: write 12h, 30d or 8w")
    return float(found[1]) * {"h": 3600, "d": 86_400, "w": 7 * 86_400}[found[2]]


def unfinished_models(settings: Settings) -> dict[str, str]:
    """Return the versions, as "name:7", that a run of this home needs which is not finished, and which run that is."""
    needed = {}
    for path in sorted((settings.home / "runs").glob("*.run")):
        with suppress(RunFileError):
            if (found := RunFile.peek(path)) is not None and _why_kept(path):
                needed[str(found[0].model)] = found[0].run
    return needed


def _why_kept(path: Path, board: JobBoard | None = None) -> str:
    """Return why a run file stays; empty when it may go."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'batches'").fetchone():
                return "`sortline watch` goes on with it"
            ((left,),) = database.execute(
                "SELECT (SELECT count(*) FROM inputs) - (SELECT count(*) FROM rows) - count(first) FROM places"
            )
            return "" if left <= 0 or _is_done(path, board) else f"not finished: {left} images have no row"
    except (sqlite3.Error, ValueError, TypeError) as error:
        return f"it can't be read ({error})"


def _is_done(path: Path, board: JobBoard | None) -> bool:
    """Whether the board says so: another host has gathered this run."""
    with suppress(RunFileError):
        if board is not None and (found := RunFile.peek(path)) is not None:
            state = board.get(found[0].run)
            return state is not None and state.state == "done"
    return False


def _noted(home: Path) -> set[str]:
    """Return the trainings and searches that the same command goes on with."""
    names = set()
    with suppress(OSError):
        for note in (home / "trainings").iterdir():
            if note.suffix != ".lock":
                names.add(note.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip())
    return names


def _why_training_kept(name: str, noted: set[str], board: JobBoard | None) -> str:
    if name in noted or TRIAL.sub("", name) in noted:
        return "the same `sortline train` goes on with it"
    state = board.get(name) if board is not None else None
    return f"its job is {state.state}" if state is not None and not state.ended else ""


def _folders(folder: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    return []


def _newest(folder: Path) -> float:
    return max(_changed(folder), *(_changed(path) for path in folder.rglob("*")), 0.0)


def _written(database: Path) -> float:
    """Return when something was written into an SQLite file. Whoever reads one makes a -wal beside it that is empty."""
    log = database.with_name(f"{database.name}-wal")
    return _changed(database, *([log] if size_of(log) else []))


def _changed(*paths: Path) -> float:
    newest = 0.0
    for path in paths:
        with suppress(OSError):
            newest = max(newest, path.lstat().st_mtime)
    return newest
