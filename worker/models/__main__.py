"""``python -m worker.models import|graph|export``: what ``sortline models`` leaves to a process with large libraries.

Exit codes: 0 done, 1 failed, 2 the command line asks for what can't be.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TextIO

from base.networks import PRETRAINED
from base.process import shut_out_strangers
from base.text import printable
from base.text_files import TextError
from configs import SettingsError, load_settings
from model_store import ModelStore, StoreError
from vision import VisionError
from worker.models.exporting import FORMATS, ExportRefused, export_version
from worker.models.graphs import add_arguments, import_bounded
from worker.models.importing import import_file, pretrained_file


def main(arguments: list[str] | None = None) -> int:
    """Import or export a version; print what was made; return the exit code."""
    parser = argparse.ArgumentParser(prog="sortline models")
    commands = parser.add_subparsers(dest="command", required=True)
    importing = commands.add_parser("import")
    importing.add_argument("file")
    importing.add_argument("--name", required=True)
    importing.add_argument("--convention", choices=["auto", "tf", "torch"], default="auto")
    importing.add_argument("--labels")
    add_arguments(commands.add_parser("graph"))
    exporting = commands.add_parser("export")
    exporting.add_argument("reference")
    exporting.add_argument("--format", choices=list(FORMATS), required=True)
    exporting.add_argument("--output", type=Path, required=True)
    exporting.add_argument("--force", action="store_true")
    given = parser.parse_args(arguments)
    try:
        store = ModelStore(load_settings().store_root)
        if given.command == "import":
            shut_out_strangers()
            convention = None if given.convention == "auto" else given.convention
            file = pretrained_file(given.file) if given.file in PRETRAINED else Path(given.file)
            _say(import_file(store, file, given.name, convention, given.labels))
        elif given.command == "graph":
            shut_out_strangers()
            _say(import_bounded(store, given))
        else:
            _say(export_version(store, given.reference, given.format, given.output, force=given.force))
    except (ExportRefused, TextError, VisionError, StoreError, SettingsError, OSError) as error:
        _say(f"sortline: {error}", sys.stderr)
        return 2 if isinstance(error, ExportRefused | TextError) else 1
    return 0


def _say(text: str, to: TextIO | None = None) -> None:
    for line in text.splitlines():
        print(printable(line), file=to)  # names may be those of a stranger's file


if __name__ == "__main__":
    sys.exit(main())
