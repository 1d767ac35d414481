"""``python -m worker.models.reading FILE OUTPUT``: weights from elsewhere, read in a process of their own, with limits.

Whatever a file does to what reads it ends that process alone. It leaves a safetensors file of ours.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from pathlib import Path

from vision import WeightsError
from vision.networks import (
    MAX_FILE_BYTES,
    ImportedWeights,
    read_foreign,
    read_safetensors,
    spec_from_json,
    to_safetensors,
)
from worker.models.apart import run_apart, within_limits

LIMITS = {
    resource.RLIMIT_AS: 8 * 2**30,  # addresses: a file of the greatest size is held three times
    resource.RLIMIT_CPU: 120,
    resource.RLIMIT_FSIZE: 2 * MAX_FILE_BYTES,
    resource.RLIMIT_CORE: 0,
}


def read_apart(path: Path, convention: str | None) -> ImportedWeights:
    """Return what ``read_foreign`` does.

    Raises:
        WeightsError: as ``read_foreign``; or the process that read the file was ended by it, or by a limit.
    """
    with tempfile.TemporaryDirectory(prefix="weights-") as folder:
        output = Path(folder) / "weights.safetensors"
        arguments = [str(path.absolute()), str(output), convention or ""]
        run_apart(__name__, arguments, f"{path.name} is not imported", WeightsError)
        arrays, metadata = read_safetensors(output.read_bytes())
    spec = spec_from_json(json.loads(metadata["spec"]))
    return ImportedWeights(spec=spec, arrays=arrays, notes=tuple(json.loads(metadata["notes"])))


def main(arguments: list[str]) -> int:
    """Read a file; return the exit code."""
    path, output, convention = Path(arguments[0]), Path(arguments[1]), arguments[2] or None

    def read() -> None:
        found = read_foreign(path, convention=convention)
        metadata = {"spec": json.dumps(found.spec.to_json()), "notes": json.dumps(found.notes)}
        output.write_bytes(to_safetensors(found.arrays, metadata))

    return within_limits(read, path.name, LIMITS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
