"""Labelling: the chunk that a producer queues, and the rows that come back on the stream of the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from base.pages import MOST_PAGES
from configs import MAX_CHUNK_IMAGES
from jobs.messages import Digest, Index, JobMessage, Message, ModelPin, PathText, RunId

LABEL_RUN = "sortline.label_run"  # in Flower only: the chunks of a run, as one task

MAX_SAMPLED_BYTES = 32 * 1024 * 1024  # each worker of a run reads it

Page = Annotated[int, Field(ge=1, le=MOST_PAGES + 1)]  # the last one stands for all beyond the limit
Probability = Annotated[float, Field(ge=0, le=1)]


class SampledInput(BaseModel):
    """An input of the run as the producer sees it: a worker that sees the same has the same data root."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: PathText
    size: Annotated[int, Field(ge=1, le=MAX_SAMPLED_BYTES)]
    sha256: Digest


class LabelChunk(JobMessage):
    """Label these images. Chunks of a run are known by the index of their first image."""

    queue: ClassVar[str] = "label"
    task: ClassVar[str] = "sortline.label_chunk"

    run: RunId
    first: Index
    paths: Annotated[tuple[PathText, ...], Field(min_length=1, max_length=MAX_CHUNK_IMAGES)]
    pages: Annotated[tuple[Page, ...], Field(max_length=MAX_CHUNK_IMAGES)] = ()  # of each path, if all are wanted
    model: ModelPin
    top_k: Annotated[int, Field(ge=1, le=1000)]
    file_info: bool = False  # whether rows say how long each file is, and its sha256
    exif: bool = False  # whether rows say what cameras wrote into each file
    sample: Annotated[tuple[SampledInput, ...], Field(max_length=16)] = ()  # of the run; empty: nothing to compare

    @model_validator(mode="after")
    def _check_pages(self) -> LabelChunk:
        if self.pages and len(self.pages) != len(self.paths):
            raise ValueError("as many pages as paths")
        return self

    @property
    def ids(self) -> dict[str, object]:
        return {"run": self.run, "chunk": self.first}

    def only(self, places: Sequence[int], first: int | None = None) -> LabelChunk:
        """Return the chunk of these of its images alone."""
        paths, pages = (tuple(all_[place] for place in places if all_) for all_ in (self.paths, self.pages))
        return self.model_copy(update={"paths": paths, "pages": pages, "first": self.first if first is None else first})


Name = Annotated[str, StringConstraints(max_length=100)]


class Photo(BaseModel):
    """What a photo's EXIF says: when it was taken (ISO 8601, perhaps with a zone), with what, and where; in degrees."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    taken: Annotated[str, StringConstraints(pattern=r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([+-]\d\d:\d\d)?)?$")] = ""
    make: Name = ""
    model: Name = ""
    serial: Name = ""  # of the camera's body
    latitude: Annotated[float, Field(ge=-90, le=90)] | None = None
    longitude: Annotated[float, Field(ge=-180, le=180)] | None = None


class Row(BaseModel):
    """What became of one image.

    ``top`` holds (class index, probability) pairs, the most probable first; empty for an error. ``error`` is a short
    reason code, ``detail`` a sentence. Sizes are those of the image as a person sees it, in pixels; 0 when unknown.
    ``outlier`` is the outlier score of a network that has one. ``bytes`` and ``sha256`` are of the file, if the chunk
    asks for them and it could be read; so is ``photo``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    top: tuple[tuple[Index, Probability], ...] = ()
    error: Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,40}$")] | None = None
    detail: Annotated[str, StringConstraints(max_length=1000)] = ""
    width: Annotated[int, Field(ge=0, le=2**31)] = 0
    height: Annotated[int, Field(ge=0, le=2**31)] = 0
    outlier: Annotated[float, Field(ge=0)] | None = None
    bytes: Annotated[int, Field(ge=0, lt=2**53)] = 0
    sha256: Digest | None = None
    photo: Photo | None = None


class ChunkResult(Message):
    """The rows of one chunk, in the order of its paths; or, in ``refused``, why this worker can't label the run.

    A refused chunk is queued again, for another worker. ``may_pass``: this one may be able to later. ``early`` counts
    the images that the first stage of a cascade answered.
    """

    run: RunId
    first: Index
    rows: Annotated[tuple[Row, ...], Field(max_length=MAX_CHUNK_IMAGES)] = ()
    refused: str | None = None
    may_pass: bool = False
    worker: str = ""
    engine: Annotated[str, StringConstraints(max_length=100)] = ""  # "name/device/precision"
    early: Annotated[int, Field(ge=0, le=MAX_CHUNK_IMAGES)] = 0
    seconds: dict[str, float] = Field(default_factory=dict)  # by stage
