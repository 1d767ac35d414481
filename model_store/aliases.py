"""The aliases of one model and the log of their moves, as files in the model's folder.

A move is logged first, then made by writing beside and renaming, both under one lock. So a reader never sees half a
file, no move is without its log line, and a crash in between leaves a logged move that did not happen: the next line's
``previous`` tells.
"""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from base import files
from model_store.errors import StoreError
from model_store.files import sync_folder

ALIASES, LOG, LOCK = "aliases.json", "aliases.log", "aliases.lock"

_ALIASES = TypeAdapter(dict[str, Annotated[int, Field(ge=1, strict=True)]])


class AliasMove(BaseModel):
    """One line of the log; ``when`` is UTC, ``previous`` is None for an alias that did not exist."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    when: str
    who: str
    why: str
    action: Literal["set", "rollback"]
    alias: str
    previous: int | None
    new: int


def locked(folder: Path) -> AbstractContextManager[None]:
    """Keep other processes and threads from moving aliases of this model."""
    return files.locked(folder / LOCK)


def read_aliases(folder: Path) -> dict[str, int]:
    """Return the aliases and the versions they mean, none without a file.

    Raises:
        StoreError: the file is damaged.
    """
    path = folder / ALIASES
    try:
        return _ALIASES.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        raise StoreError(
            f"{path} is damaged ({error}); {folder / LOG} has the last versions, write them anew"
        ) from error


def read_log(folder: Path) -> list[AliasMove]:
    """Return all moves, the oldest first. A last line cut off by a crash belongs to a move that did not happen.

    Raises:
        StoreError: a line is damaged.
    """
    path = folder / LOG
    try:
        whole, _, _ = path.read_bytes().rpartition(b"\n")
    except FileNotFoundError:
        return []
    try:
        return [AliasMove.model_validate_json(line) for line in whole.split(b"\n") if line]
    except ValidationError as error:
        raise StoreError(f"{path} is damaged: {error}; remove the damaged line") from error


def previous_version(folder: Path, alias: str) -> int | None:
    """Return what a rollback leads to: moves are undone from the last to the first, each once."""
    steps = [step for step in read_log(folder) if step.alias == alias]
    outcomes = [*(step.previous for step in steps[1:]), read_aliases(folder).get(alias)]
    undoable: list[int] = []
    for step, outcome in zip(steps, outcomes, strict=True):
        if step.new != outcome or step.previous in (None, step.new):
            continue  # logged by a process that died before it moved the alias; or no move
        if step.action == "rollback" and undoable:
            undoable.pop()
        elif step.previous is not None:
            undoable.append(step.previous)
    return undoable[-1] if undoable else None


def move(
    folder: Path, alias: str, version: int, *, action: Literal["set", "rollback"], who: str, why: str
) -> int | None:
    """Log and make one move, and return the version the alias meant before. Only inside `locked`."""
    aliases = read_aliases(folder)
    previous = aliases.get(alias)
    when = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    step = AliasMove(when=when, who=who, why=why, action=action, alias=alias, previous=previous, new=version)
    _append(folder / LOG, step.model_dump_json().encode() + b"\n")
    aliases[alias] = version
    # Under the lock there is one writer, so one name of the draft is enough: what a killed one left is written over.
    files.write_file(folder / ALIASES, json.dumps(aliases, sort_keys=True).encode() + b"\n", mark="locked")
    sync_folder(folder)
    return previous


def _append(path: Path, line: bytes) -> None:
    with path.open("a+b") as file:
        file.seek(0)
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)  # what a crash cut off
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
