"""The table of a search: a CSV file for programs, and what a person sees while it goes on and at its end."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from base.files import replacing
from base.text import duration, safe_cell
from producer.terminal.progress import PLAIN_EVERY_S
from producer.training.sweep import Trial, ranked, shown

SCORES = ("val_top1", "val_top5", "val_loss")
BEST_SHOWN = 5  # while it goes on


def write_sweep_csv(trials: Sequence[Trial], path: Path) -> None:
    """Write one row a trial, the best first, beside ``path`` and rename it there. Same form as the report's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", *trials[0].values, "state", *SCORES, "detail", "job"])
        for trial in ranked(trials):
            values = [safe_cell(shown(value)) for value in trial.values.values()]
            scores = [f"{trial.scores[name]:.6g}" if name in trial.scores else "" for name in SCORES]
            writer.writerow([trial.number, *values, trial.state, *scores, safe_cell(trial.text), trial.job])


def table_of(trials: Iterable[Trial], keys: Iterable[str]) -> Table:
    """Return the trials in the order given, one row each."""
    table = Table(box=None, pad_edge=False, title_justify="left", caption_justify="left")
    for column in ("trial", *keys, "val top-1", "val loss"):
        table.add_column(Text(column), justify="right")
    table.add_column("message", overflow="fold")
    for trial in trials:
        scores = trial.scores
        cells = [
            str(trial.number),
            *(shown(value) for value in trial.values.values()),
            f"{scores['val_top1']:.2%}" if scores else "",
            f"{scores['val_loss']:.4f}" if scores else "",
            trial.text if trial.state in ("done", "running") else f"{trial.state}{trial.text and ': '}{trial.text}",
        ]
        table.add_row(*map(Text, cells))  # Text: a list such as [15] is no markup
    return table


class SweepView:
    """Shows how far a search is: a table that changes for a person, plain lines for a pipe."""

    def __init__(self, console: Console, trials: Sequence[Trial]) -> None:
        self._console = console
        self._trials = trials
        self._said = time.monotonic()
        self._since = (time.monotonic(), 0)  # a moment, and how many had ended then
        self._live: Live | None = None

    def __enter__(self) -> SweepView:
        if self._console.is_terminal and not self._console.quiet:
            self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, trial: Trial) -> None:
        """Bring the display up to date after ``trial`` has changed."""
        now = time.monotonic()
        if trial.ended and self._ended == 1:
            self._since = (now, 1)  # the first one may have filled the feature cache: it says nothing of the others
        if self._live is not None or not (trial.ended or now - self._said >= PLAIN_EVERY_S):
            return
        self._said = now
        state = f"{trial.state}: " if trial.state in ("failed", "cancelled") else ""
        text = f"trial {trial.number}/{len(self._trials)}, {trial.name}: {state}{trial.text}; {self._summary()}"
        self._console.print(text, markup=False)

    @property
    def _ended(self) -> int:
        return sum(trial.ended for trial in self._trials)

    def _summary(self) -> str:
        ended, count = self._ended, len(self._trials)
        failed = sum(trial.state == "failed" for trial in self._trials)
        parts = [f"{ended}/{count} trials", *([f"{failed} failed"] if failed else [])]
        since, before = self._since
        if before < ended < count:
            left_s = (time.monotonic() - since) / (ended - before) * (count - ended)
            parts.append(f"eta {duration(round(left_s))}")
        return ", ".join(parts)

    def _table(self) -> Table:
        running = [trial for trial in self._trials if trial.state == "running"]
        best = [trial for trial in ranked(self._trials) if trial.scores][:BEST_SHOWN]
        table = table_of([*best, *running], self._trials[0].values)
        table.title = Text(self._summary())
        return table
