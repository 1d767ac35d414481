"""``python -m worker.models.reading FILE OUTPUT``: weights from elsewhere, read in a process of their own, with limits.

Whatever a file does to what reads it ends that process alone. It leaves a safetensors file of ours.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from base.process import how_it_ended
from vision import VisionError, WeightsError
from vision.networks import (
    MAX_FILE_BYTES,
    ImportedWeights,
    read_foreign,
    read_safetensors,
    spec_from_json,
    to_safetensors,
)

MEMORY_BYTES = 8 * 2**30  # of addresses: a file of the greatest size is held three times
CPU_S = 120
WAIT_S = 600  # a slow disk is no fault of the file
FAULT = 3  # exit code: the sentence is on stderr


def read_apart(path: Path, convention: str | None) -> ImportedWeights:
    """Return what ``read_foreign`` does.

    Raises:
        WeightsError: as ``read_foreign``; or the process that read the file was ended by it, or by a limit.
    """
    with tempfile.TemporaryDirectory(prefix="weights-") as folder:
        output = Path(folder) / "weights.safetensors"
        command = [sys.executable, "-m", __name__, str(path.absolute()), str(output), convention or ""]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=WAIT_S,
                check=False,
                cwd="/",  # `python -m` imports from where it stands first
            )
        except subprocess.TimeoutExpired as error:
            raise WeightsError(f"{path.name}: not read within {WAIT_S} s, so it is not imported") from error
        if done.returncode == FAULT:
            raise WeightsError(done.stderr.strip())
        if done.returncode:
            end = [how_it_ended(done.returncode), *done.stderr.strip().splitlines()[-1:]]
            raise WeightsError(f"{path.name} is not imported: the process that read it ended with {': '.join(end)}")
        arrays, metadata = read_safetensors(output.read_bytes())
    spec = spec_from_json(json.loads(metadata["spec"]))
    return ImportedWeights(spec=spec, arrays=arrays, notes=tuple(json.loads(metadata["notes"])))


def main(arguments: list[str]) -> int:
    """Read a file; return the exit code."""
    path, output, convention = Path(arguments[0]), Path(arguments[1]), arguments[2] or None
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_FSIZE, 2 * MAX_FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        most = resource.getrlimit(limit)[1]
        with suppress(ValueError, OSError):  # macOS knows no limit of addresses
            resource.setrlimit(limit, (value, most) if most == resource.RLIM_INFINITY else (min(value, most), most))
    try:
        found = read_foreign(path, convention=convention)
        metadata = {"spec": json.dumps(found.spec.to_json()), "notes": json.dumps(found.notes)}
        output.write_bytes(to_safetensors(found.arrays, metadata))
    except VisionError as error:
        print(error, file=sys.stderr)
        return FAULT
    except MemoryError:
        print(f"{path.name}: reading it takes more than {MEMORY_BYTES >> 30} GB of memory", file=sys.stderr)
        return FAULT
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
