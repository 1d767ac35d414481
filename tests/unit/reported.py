"""A run with known rows, for tests of reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.label import ChunkResult, Row
from jobs.messages import ModelPin
from producer.reports.layout import Layout
from producer.reports.tally import Tally, Truth, counted
from producer.runfile import Plan, RunFile

LABELS = ["glass", "paper", "tin"]
GROUPS: list[str | None] = ["recyclable", "recyclable", None]
FOLDERS = ["00_glass", "00_paper", "01_tin"]


def ok(best: int, confidence: float = 0.9, classes: int = 3, top_k: int = 3) -> Row:
    """A row whose most probable class is ``best``; the others share the rest."""
    rest = (1 - confidence) / (classes - 1)
    others = [(index, rest) for index in range(classes) if index != best]
    return Row(top=((best, confidence), *others[: top_k - 1]), width=640, height=480)


@contextmanager
def run_of(
    folder: Path,
    paths: Sequence[str],
    rows: Sequence[Row],
    *,
    base: str = "/data/inbox",
    labels: list[str] = LABELS,
    groups: list[str | None] = GROUPS,
    folders: list[str] = FOLDERS,
    top_k: int = 3,
    worker: str = "label-1@host",
    engine: str = "openvino/cpu/bf16",
    truth_table: str = "",
    early: int = 0,
    version: int = 7,
    name: str = "inbox-1",
    **more: Any,
) -> Iterator[RunFile]:
    """A run file in ``folder`` that holds ``rows``; closed at the end. ``more`` as its plan has them."""
    plan = Plan(
        run=name,
        source="inbox",
        base=base,
        data_root="/",
        walked=True,
        model=ModelPin(name="waste", version=version, digest="0f" * 32),
        labels=labels,
        groups=groups,
        folders=folders,
        top_k=top_k,
        chunk_images=2,
        truth_table=truth_table,
        **more,
    )
    run = RunFile.create(folder / "inbox.run", plan, paths)
    try:
        run.begin_work()
        for first in range(0, len(rows), 1000):
            part = tuple(rows[first : first + 1000])
            seconds = {"decode_s": 0.5, "chunk_s": 1.0}
            answer = ChunkResult(run=name, first=first, rows=part, worker=worker, engine=engine, seconds=seconds)
            run.record(answer.model_copy(update={"early": early}))
        yield run
    finally:
        run.close()


def tally(run: RunFile, layout: Layout, truth: Truth = "auto") -> Tally:
    """Return the counts of ``run``; ``truth`` is that of ``counted``."""
    found = Tally(images=run.total)
    for _ in counted(run, run.rows(), layout, found, truth):
        pass
    return found
