"""What the terminal shows while work goes on: a bar for a person, plain lines for a pipe, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from base.text import duration
from producer.reports.request import Request
from producer.reports.tally import Tally
from producer.runfile import Progress as RunProgress
from producer.runfile import RunFile

PLAIN_EVERY_S = 5.0
RATE_WINDOW_S = 10.0
WORKERS_EVERY_S = 1.0
MOST_WORKERS = 12  # in the table; the slower ones are counted below it


class RunView:
    """Shows done/total, failed, images a second and the time left of a run on standard error, and who labels it."""

    def __init__(self, *, quiet: bool, bar: bool = True) -> None:
        """Prepare the display; without ``bar`` it only says and concludes."""
        self._wants_bar = bar
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._bar: _Bar | None = None
        self._task: TaskID | None = None
        self._started = self._said = self._looked = time.monotonic()
        self._seen: list[tuple[float, int]] = []

    def __enter__(self) -> RunView:
        if self._wants_bar and self._console.is_terminal and not self._console.quiet:
            self._bar = _Bar(
                TextColumn("[bold]labelling"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(),
                console=self._console,
                expand=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the bar as it is; what is said from now on comes below it."""
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Write a line above the bar."""
        from base.text import printable

        for line in text.splitlines():
            self._to.print(printable(line), markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Write a line above the bar, also when quiet."""
        if self._console.quiet:
            from base.text import printable

            print(printable(text), file=sys.stderr)
        else:
            self.say(text)

    def show(self, progress: RunProgress, hint: str = "", run: RunFile | None = None) -> None:
        """Bring the display up to date; call as often as you like. ``run`` knows which workers answer."""
        now = time.monotonic()
        self._seen = [(at, done) for at, done in self._seen if now - at < RATE_WINDOW_S] + [(now, progress.done)]
        if self._bar is not None and self._task is not None:
            if run is not None and now - self._looked > WORKERS_EVERY_S:
                self._looked = now
                self._bar.workers = worker_rates(run, min(RATE_WINDOW_S, now - self._started))
            self._bar.note = progress.waiting or hint
            self._bar.update(
                self._task, total=progress.total, completed=progress.done, description=self._describe(progress)
            )
        elif now - self._said >= PLAIN_EVERY_S:
            self._said = now
            text = ", ".join(part for part in (self._describe(progress), progress.waiting or hint) if part)
            self._console.print(f"{progress.done}/{progress.total} images, {text}", markup=False, soft_wrap=True)

    def idle(self, images: int, note: str) -> None:
        """Show, to a person alone, that ``images`` are done and nothing is at work."""
        if self._bar is not None and self._task is not None:
            self._seen = []
            self._bar.note = note
            self._bar.update(self._task, total=images, completed=images, description="")

    def conclude(self, counts: Tally, request: Request) -> None:
        """Write a bar for each label, how right the answers are where that is known, and where the reports lie."""
        from producer.terminal.report import accuracy, class_bars, report_line

        for line in class_bars(counts, unicode=self._to.encoding.lower().startswith("utf")):
            # Cropped, not wrapped: half a bar on the next line would be none.
            self._to.print(
                Text(line, no_wrap=True, overflow="ellipsis"),
                crop=self._to.is_terminal,
                soft_wrap=not self._to.is_terminal,
            )
        for line in accuracy(counts.evaluation) if counts.evaluation is not None else ():
            self.say(line)
        if counts.to_review:
            unknown = f", {counts.decisions['unknown']:,} of them unknown" if counts.decisions["unknown"] else ""
            self.say(f"to review: {counts.to_review:,} of {counts.ok:,} images{unknown}")
        self.say(report_line(request))

    @property
    def _to(self) -> Console:
        return self._bar.console if self._bar else self._console

    def _describe(self, progress: RunProgress) -> str:
        parts = [f"{progress.failed} failed"] if progress.failed or self._bar is None else []
        (since, before), (until, done) = self._seen[0], self._seen[-1]
        rate = (done - before) / (until - since) if until > since else 0.0
        if rate > 0:
            parts += [f"{rate:.0f} img/s", f"eta {duration(round((progress.total - done) / rate))}"]
        return ", ".join(parts)


class _Bar(Progress):
    """The bar; below it what it waits for, and with several workers the rate of each."""

    workers: list[tuple[str, str, float]] = []  # noqa: RUF012 - replaced as a whole
    note = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return what is drawn, from top to bottom."""
        yield self.make_tasks_table(self.tasks)
        if self.note:
            yield Text(self.note)
        if len(self.workers) > 1:
            yield workers_table(self.workers)


def worker_rates(run: RunFile, window_s: float) -> list[tuple[str, str, float]]:
    """Return (worker, engine, images a second) over the last seconds, the fastest first."""
    from base.text import printable

    images: Counter[tuple[str, str]] = Counter()
    for chunk in run.chunks(since=time.time() - window_s):
        engine = printable(chunk.engine).replace("/", " ")
        images[printable(chunk.worker) or "unknown", engine] += chunk.images
    return [(name, engine, count / max(window_s, 1e-9)) for (name, engine), count in images.most_common()]


def workers_table(rates: list[tuple[str, str, float]]) -> Table:
    """Return the table of workers, at most 80 columns wide."""
    from producer.terminal.report import shortened

    table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
    table.add_column("worker", no_wrap=True)
    table.add_column("engine", no_wrap=True)
    table.add_column("img/s", justify="right", no_wrap=True)
    for name, engine, rate in rates[:MOST_WORKERS]:
        table.add_row(Text(shortened(name, 40)), Text(shortened(engine, 26)), f"{rate:.0f}")
    if len(rates) > MOST_WORKERS:
        rest = rates[MOST_WORKERS:]
        table.add_row(f"and {len(rest)} more", "", f"{sum(rate for *_, rate in rest):.0f}")
    return table
