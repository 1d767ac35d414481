"""What a run was asked for; never changes once its run file exists."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from base.drift import CONFIDENCE_BINS, Expected
from configs import MAX_CHUNK_IMAGES
from jobs import ModelPin, RunId, faults_of


def _check_name(text: str) -> str:
    os.fsencode(text)  # names on disk may be any bytes, but not any text
    return text


Name = Annotated[str, AfterValidator(_check_name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Source, model and columns of one run."""

    run: RunId
    source: Name  # as people know it
    base: Name  # absolute folder that relative input paths start from
    data_root: Name
    walked: bool  # inputs were found in a folder; else they stand as somebody wrote them
    model: ModelPin
    labels: list[str]
    groups: list[str | None]
    top_k: Annotated[int, Field(ge=1, le=1000)]
    chunk_images: Annotated[
        int, Field(ge=0, le=MAX_CHUNK_IMAGES)
    ]  # of each chunk; 0: as `producer/run/chunk_size.py` decides
    total: Annotated[int, Field(ge=0)] = 0
    inputs_digest: str = ""  # sha256 over the input paths: tells whether a folder's list has changed
    truth_table: Name = ""  # of labelled images, that the answers are compared with
    duplicates: bool = False  # byte-identical images are labelled once, and reports have the column duplicate_of
    file_info: bool = False  # reports have the columns bytes, modified and sha256
    pages: bool = False  # each picture of a file is an input, and reports have the column page
    exif: bool = False  # ... taken, camera_make, camera_model, latitude and longitude
    since: Name = ""  # the run file of the run that this one was labelled since
    merged: bool = False  # it has the rows of that one, too, as far as they still stand
    skipped: dict[str, int] = field(default_factory=dict)  # files of the folder that are no images, by suffix
    expected: Expected | None = None  # how the model answered images that it was not trained on, where that is known
    folders: list[str] = field(default_factory=list)  # of each label's training images: what truth may be named after
    thresholds: dict[str, list[float | None]] = field(default_factory=dict)  # as `base.decisions` has them
    outliers: bool = False  # the network gives outlier scores

    def to_json(self) -> str:
        """Return the plan as JSON text."""
        return json.dumps({**asdict(self), "model": self.model.model_dump()})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Return the plan in ``text``; ValueError or TypeError when it is none."""
        try:
            values: dict[str, Any] = json.loads(text)
        except RecursionError as error:
            raise ValueError("JSON of too many levels") from error
        if not isinstance(values, dict):
            raise TypeError("no JSON object")
        cls(**values)  # refuses unknown fields, which pydantic would pass over
        try:
            plan: Plan = TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            raise ValueError(faults_of(error)) from error
        if len(plan.groups) < len(plan.labels):
            raise ValueError("fewer groups than labels")
        if plan.expected is not None:
            counts = len(plan.expected.confidences), len(plan.expected.labels)
            if counts != (CONFIDENCE_BINS, len(plan.labels)):
                raise ValueError("answers that are counted by other confidences or labels")
        if any(len(of_target) != len(plan.labels) for of_target in plan.thresholds.values()):
            raise ValueError("a target precision has as many thresholds as there are labels")
        return plan
