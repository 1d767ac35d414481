"""What may have changed in a folder: as the system says it, or by reading the folder again and again.

No system tells what another host writes to a network share. What the system tells is not all either (its queue may
overflow), so the folder is read now and then in any case.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchfiles import Change

POLL_S = 5.0
SCAN_S = 60.0  # between two scans where the system tells what changes
SCANS_SHARE = 0.05  # of the time at most: a million files take seconds, on a share minutes
TICK_S = 0.5
SHARES = frozenset(
    kind
    for kinds in (
        "nfs nfs4 cifs smb smb3 smbfs ncpfs afs 9p ceph glusterfs lustre beegfs gpfs",
        "vboxsf vmhgfs prl_fs drvfs virtiofs orangefs ocfs2 gfs2",
    )
    for kind in kinds.split()
)


class FolderNews:
    """Waits for changes below ``folder``.

    Args:
        poll_s: seconds between two scans; None listens to the system, or polls every five seconds on a share.
        say: takes a line for a person.
    """

    def __init__(self, folder: str, poll_s: float | None, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._say = say
        share = share_type(folder) if poll_s is None else ""
        self.polls = poll_s is not None or bool(share)
        self._scan_s = (poll_s or POLL_S) if self.polls else SCAN_S
        self._scan_from = 0.0  # monotonic seconds
        self._changes: Generator[set[tuple[Change, str]], None, None] | None = None
        self._told: set[str] = set()
        if share:
            say(f"{folder} is, or holds, a network share ({share}): it is read every {self._scan_s:g} s, or less often")

    @property
    def wants_scan(self) -> bool:
        """Whether it is time to look at the whole folder."""
        return time.monotonic() >= self._scan_from

    def scanned(self, seconds: float) -> None:
        """Note how long the last scan took."""
        self._scan_from = time.monotonic() + max(self._scan_s, seconds / SCANS_SHARE)

    def listen(self) -> None:
        """Begin to listen, before the scan that finds what is there."""
        if self.polls:
            return
        self.close()
        from watchfiles import watch

        self._changes = watch(
            self._folder,
            watch_filter=None,
            debounce=400,
            rust_timeout=int(TICK_S * 1000),
            yield_on_timeout=True,
            force_polling=False,
            ignore_permission_denied=True,
        )
        self._told = self.wait()  # only now the library begins

    def wait(self, limit_s: float = TICK_S) -> set[str]:
        """Return the absolute paths that have changed, within half a second; KeyboardInterrupt as ever."""
        told, self._told = self._told, set()
        if told:
            return told
        if self.polls:
            time.sleep(min(limit_s, TICK_S))
            return set()
        if self._changes is None:
            self.listen()
            return set()
        try:
            return {path for _, path in next(self._changes)}
        except (OSError, RuntimeError, StopIteration) as error:
            self._listen_anew(error)
        return set()

    def _listen_anew(self, error: Exception) -> None:
        """Scan soon, and listen again; or poll from now on where the system has no room for another listener."""
        self._scan_from = 0.0
        self.close()
        # The library ends at a folder that goes away, and at a name that is not UTF-8.
        if isinstance(error, FileNotFoundError | StopIteration) or "decode path" in str(error):
            return
        self.polls, self._scan_s = True, POLL_S
        self._say(f"the system does not tell what changes in {self._folder} ({error}): it is read every {POLL_S:g} s")

    def close(self) -> None:
        """Stop listening."""
        if self._changes is not None:
            with suppress(Exception):
                self._changes.close()
        self._changes = None


def share_type(folder: str, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Return the type of the network share that ``folder`` lies on, or that is mounted below it; empty for none."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""  # no Linux: `--poll` is there
    whole = os.path.realpath(folder)
    here = ("", "")
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), point)
        below = point.rstrip("/") + "/"
        if f"{whole}/".startswith(below) and len(below) >= len(here[0]):
            here = (below, kind)
        elif below.startswith(f"{whole}/") and _is_share(kind):
            return kind
    return here[1] if _is_share(here[1]) else ""


def _is_share(kind: str) -> bool:
    return kind in SHARES or kind.startswith("fuse.")
