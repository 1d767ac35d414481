"""The ``sortline`` command: puts our packages first on the path, then runs the producer.

A wheel holds the packages below ``sortline/``, a checkout beside it. Their names (``worker``, ``configs``, ...) are
common: where another distribution has the same, pip overwrites one with the other and says nothing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

INTERRUPTED = 130


def main() -> None:
    """Run the command line; the processes that it starts find our packages first, too."""
    here = Path(__file__).resolve().parent
    folder = str(here if (here / "producer").is_dir() else here.parent)
    sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    try:
        from producer import main as run

        run()
    except KeyboardInterrupt:  # before the command could take it and say what remains
        sys.exit(INTERRUPTED)
