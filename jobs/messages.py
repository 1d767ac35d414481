"""The contract between producer and worker: frozen records that travel as JSON.

Every message carries the version of its form; who doesn't know it refuses, and says which side to update. Messages
carry paths below the data root and pinned model versions, never pixels, weights or anything executable.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from base.names import MODEL_NAME
from jobs.errors import MessageError, OtherForm

FORM = 1  # raised when a field comes or changes its meaning; ``Message.form`` goes with it
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MAX_CHUNK_IMAGES = 4096

RunId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
ModelName = Annotated[str, StringConstraints(pattern=f"^{MODEL_NAME}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# A path below the data root, written by base.paths.path_to_text. The worker checks that it stays below.
PathText = Annotated[str, StringConstraints(min_length=1, max_length=3 * 4096)]
Index = Annotated[int, Field(ge=0, lt=2**53)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Message(BaseModel):
    """Base of all messages: strict, frozen, no unknown field, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    form: Literal[1] = 1


class ModelPin(BaseModel):
    """One version of a model, and the sha256 of its manifest: what all rows of a run come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ModelName
    version: Annotated[int, Field(ge=1, lt=10**9)]
    digest: Digest

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


class LabelChunk(Message):
    """Label these images. Chunks of a run are known by the index of their first image."""

    run: RunId
    first: Index
    paths: Annotated[tuple[PathText, ...], Field(min_length=1, max_length=MAX_CHUNK_IMAGES)]
    model: ModelPin
    top_k: Annotated[int, Field(ge=1, le=1000)]


class Row(BaseModel):
    """What became of one image.

    ``top`` holds (class index, probability) pairs, the most probable first; empty for an error. ``error`` is a short
    reason code, ``detail`` a sentence. Sizes are those of the image as a person sees it, in pixels; 0 when unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    top: tuple[tuple[Index, Probability], ...] = ()
    error: Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,40}$")] | None = None
    detail: Annotated[str, StringConstraints(max_length=1000)] = ""
    width: Annotated[int, Field(ge=0, le=2**31)] = 0
    height: Annotated[int, Field(ge=0, le=2**31)] = 0


class ChunkResult(Message):
    """The rows of one chunk, in the order of its paths; or, in ``refused``, why no worker will ever label it."""

    run: RunId
    first: Index
    rows: Annotated[tuple[Row, ...], Field(max_length=MAX_CHUNK_IMAGES)] = ()
    refused: str | None = None
    worker: str = ""
    engine: Annotated[str, StringConstraints(max_length=100)] = ""  # "name/device/precision"
    seconds: dict[str, float] = Field(default_factory=dict)  # by stage


class TrainModel(Message):
    """Train a network on a labelled folder and publish it as a new version of ``name``.

    ``purpose`` "score" publishes nothing and answers with the scores; so does "folds", with those of a cross-validation
    over ``folds`` parts of all images.
    """

    job: RunId
    dataset: PathText
    name: ModelName
    recipe: dict[str, Any]  # configs.recipe.Recipe, validated by the worker
    backbone: ModelPin | None = None
    promote: Literal["gate", "always", "never"] = "gate"
    purpose: Literal["publish", "score", "folds"] = "publish"
    folds: Annotated[int, Field(ge=0, le=100)] = 0
    fail_on_leak: bool = False


class JobEvent(Message):
    """One step in the life of a training job, on the job's stream."""

    job: RunId
    state: Literal["started", "progress", "done", "failed", "cancelled"]
    text: str
    epoch: dict[str, float] | None = None
    model: ModelPin | None = None
    scores: dict[str, float] | None = None


AnyMessage = TypeVar("AnyMessage", bound=Message)


def to_json(message: Message) -> str:
    """Return ``message`` as JSON text."""
    return message.model_dump_json(exclude_defaults=False)


def from_json(kind: type[AnyMessage], text: object) -> AnyMessage:
    """Return the ``kind`` of message in ``text``; anything else raises MessageError with the first few faults.

    A message of another version's form raises OtherForm.
    """
    if not isinstance(text, str | bytes):
        raise MessageError(f"a {kind.__name__} message is JSON text, not {type(text).__name__}")
    if len(text) > MAX_MESSAGE_BYTES:
        raise MessageError(f"a {kind.__name__} message of {len(text)} bytes; the limit is {MAX_MESSAGE_BYTES}")
    try:
        return kind.model_validate_json(text, strict=True)
    except ValidationError as error:
        _check_form(kind, text)
        faults = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()[:3]
        )
        raise MessageError(f"not a valid {kind.__name__} message: {faults}") from error


class _Letterhead(BaseModel):
    """What a message of any form has."""

    model_config = ConfigDict(strict=True, extra="ignore")

    form: Annotated[int, Field(ge=0, lt=2**31)]
    run: RunId | None = None  # of chunks and their results
    job: RunId = ""  # of training
    first: Index = 0
    worker: Annotated[str, StringConstraints(max_length=200)] = ""


def _check_form(kind: type[Message], text: str | bytes) -> None:
    """Raise OtherForm when ``text`` is a message of another form."""
    try:
        head = _Letterhead.model_validate_json(text)
    except ValidationError:
        return
    if head.form == FORM:
        return
    to_worker = kind in (LabelChunk, TrainModel)
    here, there = ("worker", "producer") if to_worker else ("producer", f"worker {head.worker}".strip())
    older = here if head.form > FORM else there
    raise OtherForm(
        f"the {there} sent a message of form {head.form}, and this {here} knows form {FORM}: update Sortline on the "
        f"side of the {older}, then give the same command again; nothing is lost",
        head.run or head.job,
        head.first,
    )
