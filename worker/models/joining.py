"""``python -m worker.models.joining FOLDER``: graphs are joined in a process of their own, with limits.

MindSpore 2.8 and the onnx package can't share a process. The folder holds the graphs and ``plan.json``; the process
leaves ``made.onnx`` and ``made.json`` there.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vision.imported import Joined, Part, join, with_head
from worker.models.apart import run_apart, within_limits

LIMITS = {resource.RLIMIT_AS: 12 << 30, resource.RLIMIT_CPU: 1200, resource.RLIMIT_CORE: 0}


def join_apart(parts: Sequence[Part], height_px: int, width_px: int) -> Joined:
    """Return what `join` does.

    Raises:
        VisionError: as `join`; or the process was ended by a graph, or by a limit.
    """
    plan = {
        "parts": [asdict(replace(part, onnx=b"")) | {"onnx": ""} for part in parts],
        "size": [height_px, width_px],
    }
    graphs = {f"{number}.onnx": part.onnx for number, part in enumerate(parts)}
    onnx, facts = _made(plan, graphs, "the backbones are not joined")
    return Joined(
        onnx=onnx,
        widths=tuple(facts["widths"]),
        max_batch=facts["max_batch"],
        remarks=tuple(facts["remarks"]),
    )


def add_head_apart(body: bytes, head: bytes) -> bytes:
    """Return what `with_head` does; see `join_apart`."""
    return _made({}, {"body.onnx": body, "head.onnx": head}, "the head is not joined to its backbone")[0]


def _made(plan: Mapping[str, Any], graphs: Mapping[str, bytes], undone: str) -> tuple[bytes, dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="joining-") as name:
        folder = Path(name)
        for file, data in graphs.items():
            (folder / file).write_bytes(data)
        (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        run_apart(__name__, [name], undone)
        return (folder / "made.onnx").read_bytes(), json.loads((folder / "made.json").read_text(encoding="utf-8"))


def main(arguments: list[str]) -> int:
    """Join what the folder says; return the exit code."""
    folder = Path(arguments[0])

    def work() -> None:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        if not plan:
            made = with_head((folder / "body.onnx").read_bytes(), (folder / "head.onnx").read_bytes())
            joined = Joined(onnx=made, widths=(), max_batch=0, remarks=())
        else:
            given = [
                Part(**{**part, "scales": tuple(part["scales"]), "onnx": (folder / f"{number}.onnx").read_bytes()})
                for number, part in enumerate(plan["parts"])
            ]
            joined = join(given, *plan["size"])
        (folder / "made.onnx").write_bytes(joined.onnx)
        facts = {"widths": joined.widths, "max_batch": joined.max_batch, "remarks": joined.remarks}
        (folder / "made.json").write_text(json.dumps(facts), encoding="utf-8")

    return within_limits(work, "joining the backbones", LIMITS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
