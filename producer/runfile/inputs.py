"""The inputs of a run: counted, hashed, and frozen into a new run file before anything is sent."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from pathlib import Path

from base.files import private
from base.paths import path_to_text
from producer.runfile.duplicates import order_duplicates
from producer.runfile.merged import take_over
from producer.runfile.plan import Plan
from producer.runfile.schema import TABLES
from producer.sources.since import Input, InputFilter

INPUTS_A_BATCH = 1000


def freeze_inputs(
    path: Path,
    plan: Plan,
    paths: Iterable[str],
    input_filter: InputFilter | None,
    earlier_runs: Sequence[tuple[Path, str]] = (),
) -> None:
    """Write a new run file to ``path`` with the inputs in it, and ``plan`` with their number and digest.

    Args:
        input_filter: learns the files' states; without it none are known, and a later run labels all again.
        earlier_runs: those whose rows are taken over into a merged run, see `take_over`.

    Raises:
        sqlite3.Error: the file can't be written.
    """
    os.close(private(path, os.O_CREAT | os.O_WRONLY))  # SQLite gives what it makes beside it the same mode
    with closing(sqlite3.connect(path, isolation_level=None)) as database, database:
        database.executescript(TABLES)
        database.execute("BEGIN")
        earlier = input_filter.earlier if input_filter is not None else None
        counted = _Counted(input_filter.inputs(paths) if input_filter else _plain(paths), earlier is not None)
        numbered = enumerate(counted)
        while batch := list(islice(numbered, INPUTS_A_BATCH)):
            database.executemany(
                "INSERT INTO inputs VALUES (?, ?, ?)", ((at, found.text, found.page) for at, found in batch)
            )
            states = ((at, *found.state) for at, found in batch if found.state is not None)
            database.executemany("INSERT INTO files VALUES (?, ?, ?)", states)
        if earlier is not None and not plan.merged:
            database.executemany("INSERT INTO unchanged VALUES (?, ?, ?)", earlier.unchanged())
        if plan.duplicates:
            order_duplicates(database, plan.base)
        filled = replace(plan, total=counted.total, inputs_digest=counted.digest())
        database.execute("INSERT INTO plan VALUES (?)", (filled.to_json(),))
        if plan.merged:
            database.execute("COMMIT")  # SQLite attaches nothing within a transaction
            take_over(database, plan.base, earlier_runs)


def digest_of(paths: Iterable[str], input_filter: InputFilter) -> tuple[int, str]:
    """Return how many inputs there are, and the digest that a run file of them would have."""
    counted = _Counted(input_filter.inputs(paths), input_filter.earlier is not None)
    for _ in counted:
        pass
    return counted.total, counted.digest()


def _plain(paths: Iterable[str]) -> Iterator[Input]:
    return (Input(path_to_text(path)) for path in paths)


class _Counted:
    """Inputs, counted and hashed while they pass; with their states when those made the list what it is."""

    def __init__(self, inputs: Iterable[Input], with_states: bool) -> None:
        self._inputs = inputs
        self._with_states = with_states
        self._hash = sha256()
        self.total = 0

    def __iter__(self) -> Iterator[Input]:
        for found in self._inputs:
            self.total += 1
            more = [str(value) for value in found.state or ()] if self._with_states else []
            more += [f"page {found.page}"] if found.page else []
            self._hash.update("\t".join([found.text, *more]).encode() + b"\n")
            yield found

    def digest(self) -> str:
        return self._hash.hexdigest()
