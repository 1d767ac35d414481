"""``python -m worker.devices``: which engines and devices this machine has, as JSON for ``sortline doctor``."""

from __future__ import annotations

import json

from vision import EngineError
from vision.serving import ENGINES


def look() -> dict[str, dict[str, object]]:
    """Return, for each engine, whether it can be used here and a line for people."""
    found: dict[str, dict[str, object]] = {}
    for name, kinds in ENGINES.items():
        try:
            found[name] = {"usable": True, "text": next(iter(kinds.values())).found_here()}
        except EngineError as error:
            found[name] = {"usable": False, "text": str(error)}
    return found


if __name__ == "__main__":
    print(json.dumps(look()))
