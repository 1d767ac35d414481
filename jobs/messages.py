"""The contract between producer and worker: frozen records that travel as JSON.

Every message carries the version of the schema; who doesn't know it refuses, and says which side to update. Messages
carry paths below the data root and pinned model versions, never pixels, weights or anything executable. The messages of
each kind of job are in a module of its own.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from base.names import MODEL_NAME
from jobs.errors import MessageError, SchemaMismatch

SCHEMA_VERSION = 9  # raised when a field comes or changes its meaning; ``Message.schema_version`` goes with it
FIRST = "first"  # header of a queued chunk: index of its first image, for who may not unpack it
QUEUED_AT = "queued_at"  # header of a queued message: seconds since 1970
MAX_MESSAGE_BYTES = 64 * 1024 * 1024


RUN_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"  # of the whole name
RunId = Annotated[str, StringConstraints(pattern=f"^{RUN_ID}$")]
ModelName = Annotated[str, StringConstraints(pattern=f"^{MODEL_NAME}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# A path below the data root, written by base.paths.path_to_text. The worker checks that it stays below.
PathText = Annotated[str, StringConstraints(min_length=1, max_length=3 * 4096)]
Index = Annotated[int, Field(ge=0, lt=2**53)]


class Message(BaseModel):
    """Base of all messages: strict, frozen, no unknown field, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[9] = 9


class JobMessage(Message):
    """Base of what producers queue, one class a kind of job: on which queue, and as which task of Celery."""

    queue: ClassVar[str]
    task: ClassVar[str]

    @property
    def ids(self) -> dict[str, object]:
        """What log lines about this job name it by."""
        return {}


class ModelPin(BaseModel):
    """One version of a model, and the sha256 of its manifest: what all rows of a run come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ModelName
    version: Annotated[int, Field(ge=1, lt=10**9)]
    digest: Digest

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


AnyMessage = TypeVar("AnyMessage", bound=Message)


def to_json(message: Message) -> str:
    return message.model_dump_json(exclude_defaults=False)


def from_json(kind: type[AnyMessage], text: object) -> AnyMessage:
    """Return the ``kind`` of message in ``text``; anything else raises MessageError with the first few faults.

    A message of another version of the schema raises SchemaMismatch.
    """
    if not isinstance(text, str | bytes):
        raise MessageError(f"a {kind.__name__} message is JSON text, not {type(text).__name__}")
    if len(text) > MAX_MESSAGE_BYTES:
        raise MessageError(f"a {kind.__name__} message of {len(text)} bytes; the limit is {MAX_MESSAGE_BYTES}")
    try:
        return kind.model_validate_json(text, strict=True)
    except ValidationError as error:
        _check_schema(kind, text)
        raise MessageError(f"not a valid {kind.__name__} message: {faults_of(error)}") from error


def faults_of(error: ValidationError) -> str:
    """Return the first few faults that pydantic found, in one line."""
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3])


class _Envelope(BaseModel):
    """What a message of any version has."""

    model_config = ConfigDict(strict=True, extra="ignore")

    schema_version: Annotated[int, Field(ge=0, lt=2**31)]
    run: RunId | None = None  # of chunks and their results
    job: RunId = ""  # of training
    first: Index = 0
    worker: Annotated[str, StringConstraints(max_length=200)] = ""


def _check_schema(kind: type[Message], text: str | bytes) -> None:
    """Raise SchemaMismatch when ``text`` is a message of another version."""
    try:
        envelope = _Envelope.model_validate_json(text)
    except ValidationError:
        return
    if envelope.schema_version == SCHEMA_VERSION:
        return
    to_worker = issubclass(kind, JobMessage)
    here, there = ("worker", "producer") if to_worker else ("producer", f"worker {envelope.worker}".strip())
    older = here if envelope.schema_version > SCHEMA_VERSION else there
    raise SchemaMismatch(
        f"the {there} sent a message of schema version {envelope.schema_version}, and this {here} knows version "
        f"{SCHEMA_VERSION}: update Sortline on the side of the {older}, then give the same command again; nothing is "
        "lost",
        envelope.run or envelope.job,
        envelope.first,
        envelope.worker,
    )
