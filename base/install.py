"""What a message tells people to run when a package is missing."""

from __future__ import annotations

import shlex
import sys


def pip_install(requirement: str) -> str:
    """Return the command that installs into this environment. Its own pip knows Sortline; no index has `sortline`."""
    return f'{shlex.quote(sys.executable)} -m pip install "{requirement}"'
