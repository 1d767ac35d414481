"""What a run was asked for; never changes once its run file exists."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from jobs import ModelPin


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Source, model and columns of one run."""

    run: str
    source: str  # as people know it
    base: str  # absolute folder that relative input paths start from
    data_root: str
    walked: bool  # inputs were found in a folder; else they stand as somebody wrote them
    model: ModelPin
    labels: list[str]
    groups: list[str | None]
    top_k: int
    chunk_images: int  # of each chunk; 0: as `producer/run/chunk_size.py` decides
    total: int = 0
    inputs_digest: str = ""  # sha256 over the input paths: tells whether a folder's list has changed
    duplicates: bool = False  # byte-identical images are labelled once, and reports have the column duplicate_of
    skipped: dict[str, int] = field(default_factory=dict)  # files of the folder that are no images, by suffix
    folders: list[str] = field(default_factory=list)  # of each label's training images: what truth may be named after

    def to_json(self) -> str:
        """Return the plan as JSON text."""
        return json.dumps({**asdict(self), "model": self.model.model_dump()})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Return the plan in ``text``; ValueError or TypeError when it is none."""
        values: dict[str, Any] = json.loads(text)
        cls(**values)  # refuses unknown fields, which pydantic would pass over
        plan: Plan = TypeAdapter(cls).validate_python(values)
        if plan.total < 0 or plan.top_k < 1 or len(plan.groups) < len(plan.labels):
            raise ValueError("a plan of impossible numbers")
        return plan
