"""What the terminal shows while work goes on: a bar for a person, plain lines for a pipe, nothing when quiet."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from producer.gather import Progress as RunProgress

PLAIN_EVERY_S = 5.0
RATE_WINDOW_S = 10.0


class RunView:
    """Shows done/total, failed, images a second and the time left of a run on standard error."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._started = self._said = time.monotonic()
        self._seen: list[tuple[float, int]] = []
        self._first_done = -1

    def __enter__(self) -> RunView:
        if self._console.is_terminal and not self._console.quiet:
            self._bar = Progress(
                TextColumn("[bold]labelling"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                console=self._console,
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
        (self._bar.console if self._bar else self._console).print(text, markup=False, soft_wrap=True)

    def show(self, progress: RunProgress, hint: str = "") -> None:
        """Bring the display up to date; call as often as you like."""
        now = time.monotonic()
        if self._first_done < 0:
            self._first_done = progress.done
        self._seen = [(at, done) for at, done in self._seen if now - at < RATE_WINDOW_S] + [(now, progress.done)]
        text = self._describe(progress, hint)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=progress.total, completed=progress.done, description=text)
        elif now - self._said >= PLAIN_EVERY_S:
            self._said = now
            self._console.print(f"{progress.done}/{progress.total} images, {text}", markup=False, soft_wrap=True)

    def rate(self, progress: RunProgress) -> float:
        """Images a second since the start of this display."""
        return (progress.done - max(self._first_done, 0)) / max(time.monotonic() - self._started, 1e-9)

    def _describe(self, progress: RunProgress, hint: str) -> str:
        parts = [f"{progress.failed} failed"]
        (since, before), (until, done) = self._seen[0], self._seen[-1]
        rate = (done - before) / (until - since) if until > since else 0.0
        if rate > 0:
            parts += [f"{rate:.0f} img/s", f"eta {duration(round((progress.total - done) / rate))}"]
        if progress.waiting or hint:
            parts.append(progress.waiting or hint)
        return ", ".join(parts)


def duration(seconds: int) -> str:
    """Return ``seconds`` as a person says them: 42 s, 3 min 10 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
