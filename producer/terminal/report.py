"""What the terminal says when a run is done: counts, a bar for each class, how right it was, where the reports lie."""

from __future__ import annotations

from pathlib import Path

from rich.cells import cell_len, set_cell_size

from base.text import printable
from producer.reports.request import Request
from producer.reports.tally import Tally, ranked
from producer.reports.truth import Evaluation, Score

MOST_BARS = 12
NAME_CELLS = 24
BAR_CELLS = 32


def shortened(text: str, cells: int) -> str:
    """Return ``text`` in at most this many columns of a terminal."""
    return text if cell_len(text) <= cells else set_cell_size(text, cells - 1) + "…"


def class_bars(tally: Tally, *, unicode: bool) -> list[str]:
    """Return a line for each of the most frequent labels, at most 80 columns wide."""
    counts = ranked(tally.labels)
    shown = counts[:MOST_BARS] if len(counts) > MOST_BARS + 1 else counts
    if not shown:
        return []
    names = [shortened(printable(name), NAME_CELLS) for name, _ in shown]
    width = max(cell_len(name) for name in names)
    digits = len(f"{shown[0][1]:,}")
    lines = []
    for name, (_, count) in zip(names, shown, strict=True):
        filled = max(1, round(BAR_CELLS * count / shown[0][1]))
        bar = ("█" if unicode else "#") * filled + " " * (BAR_CELLS - filled)
        lines.append(f"  {set_cell_size(name, width)}  {bar}  {count:>{digits},}  {100 * count / tally.ok:5.1f} %")
    if len(counts) > len(shown):
        rest = counts[len(shown) :]
        lines.append(f"  and {len(rest)} more labels: {sum(count for _, count in rest):,} images")
    return lines


def accuracy(evaluation: Evaluation) -> list[str]:
    """Return how right the answers are against the folders' names."""
    if not evaluation.images:
        return ["no image lies in a folder that is named after a label; there is nothing to compare with"]
    truth = printable(evaluation.table) or "the folders' names"
    lines = [f"accuracy against {truth}: {_score(evaluation.top1)}"]
    if len({name for _, name in evaluation.pairs}) > 5:
        lines.append(f"among the first 5 labels: {_score(evaluation.top5)}")
    if evaluation.groups:
        lines.append(f"right group: {_score(evaluation.groups)}")
    if evaluation.accepted:
        lines.append(f"accuracy of the accepted: {_score(evaluation.accepted)}")
    worst = [f"{printable(t)} taken for {printable(n)} ({count})" for t, n, count in evaluation.confusions()[:3]]
    if worst:
        lines.append(f"most often confused: {', '.join(worst)}")
    if evaluation.unreadable:
        lines.append(f"not counted, could not be labelled: {evaluation.unreadable}")
    if evaluation.other_folders:
        names = ranked(evaluation.other_folders)
        listed = ", ".join(f"{printable(name) or '(no folder)'} {count}" for name, count in names[:5])
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        where = "with other labels" if evaluation.table else "in folders that are no label"
        lines.append(f"not counted, {where}: {evaluation.other_folders.total()} ({listed}{more})")
    return lines


def report_line(request: Request) -> str:
    """Return where the reports lie, as short as the working folder allows."""
    first, *others = (Path(file) for file in request.outputs.values())
    beside = ", ".join(path.name for path in others)
    return printable(f"report: {_relative(first)}" + (f", beside it {beside}" if beside else ""))


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _score(score: Score) -> str:
    low, high = score.interval
    return (
        f"{100 * score.share:.1f} % ({score.right:,} of {score.images:,}; "
        f"95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
    )
