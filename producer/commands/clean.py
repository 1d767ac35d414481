"""``sortline clean``: what is old and no longer needed goes from this machine's disk."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from producer.commands.options import PlaceOptions, with_options
from producer.errors import UsageError

if TYPE_CHECKING:
    from configs import Settings
    from jobs import JobBoard


@with_options
def clean(
    older: Annotated[
        str, typer.Option("--older", metavar="AGE", help="What has not changed for so long: 12h, 30d, 8w.")
    ] = "30d",
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would go.")] = False,
    *,
    place: PlaceOptions,
) -> None:
    """Remove old run files, logs, checkpoints, features, thumbnails, and what killed processes have left.

    What an unfinished run or training needs stays, whatever its age. Model versions: see `sortline models prune`.

    Examples:

      sortline clean --dry-run

      sortline clean --older 90d
    """
    from producer.run.cleaning import remove, seconds_of, unneeded

    settings = place.settings()
    try:
        older_s = seconds_of(older)
    except ValueError as error:
        raise UsageError(f"--older: {error}") from None
    freed = count = 0
    with ExitStack() as opened:
        for found in unneeded(settings, older_s, _board(settings, opened)):
            size = found.size
            if found.kept:
                print(f"kept {_size(size):>10}  {found.path}: {found.kept}")
            elif dry_run or remove(settings, found):
                print(f"{'would remove' if dry_run else 'removed'} {_size(size):>10}  {found.path}: {found.what}")
                freed, count = freed + size, count + 1
            else:
                print(f"in use {_size(size):>10}  {found.path}: {found.what}")
    print(f"{count} {'would be removed' if dry_run else 'removed'}, {_size(freed)}")


def _board(settings: Settings, opened: ExitStack) -> JobBoard | None:
    """Return the board of the broker that is configured, or of `sortline up`; None where there is none."""
    from producer.local.session import is_alone, open_session

    return None if is_alone(settings) else opened.enter_context(open_session(settings, start=False)).board


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
