"""The manifest of a model version: all that is known of it, and the checksum of every file beside it.

On disk it is canonical JSON (UTF-8, keys sorted, indented by two), so that equal manifests are equal bytes and
`Manifest.digest` names one version's content for good.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    field_validator,
    model_validator,
)

from base.drift import Expected
from base.names import MODEL_NAME
from model_store.errors import ManifestError

SCHEMA_VERSION: Final = 7
MAX_BYTES = 1_000_000  # of a manifest; a thousand classes need about 150,000
SUFFIXES = (".safetensors", ".onnx", ".npz", ".csv", ".png", ".html", ".json", ".xml", ".bin")
FILE_NAME_PATTERN = (
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(" + "|".join(suffix.replace(".", r"\.") for suffix in SUFFIXES) + ")"
)

Name = Annotated[str, StringConstraints(pattern=rf"^{MODEL_NAME}\z")]
FileName = Annotated[str, StringConstraints(pattern=rf"^{FILE_NAME_PATTERN}\z")]
Reference = Annotated[str, StringConstraints(pattern=rf"^{MODEL_NAME}:[1-9][0-9]{{0,8}}\z")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\z")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Part = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Record(BaseModel):
    # strict: "7" is no version and 1 is no truth value; a manifest is written by us, so nothing needs guessing
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ClassEntry(_Record):
    """One class: label of reports, names by language, group it counts to, folder of its training images."""

    label: Text
    names: dict[str, Text] = {}
    group: Text | None = None
    folder: Text


class FileEntry(_Record):
    """What the bytes of a file must be."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class Golden(_Record):
    """How far engines may differ from the reference, such as MindSpore, on the golden inputs, and how far they did.

    ``agreement`` holds the largest absolute difference of a probability for each "engine/precision".
    """

    inputs_sha256: Sha256
    tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    agreement: dict[str, Number]


class PrecisionProof(_Record):
    """How a lower precision labelled the validation images beside f32 where the version was published.

    ``equal`` is the part of them with f32's answer; ``accuracy`` and ``f32_accuracy`` are the parts that are right.
    """

    images: Annotated[int, Field(ge=1)]
    equal: Part
    accuracy: Part
    f32_accuracy: Part
    passed: bool


class Cascade(_Record):
    """A first stage, a graph of its own, that answers the images that it is sure of; the version's graph the rest.

    Attributes:
        graph: opaque here, as that of the version.
        threshold: an answer of this probability or more stands.
        images: by whose answers the threshold was found, each given by stages that had not been trained on it.
        early: part of them that the first stage answered.
        equal: part of them with the answer that the version's graph gives alone.
        accuracy, alone_accuracy: parts that are right, by the cascade and by the version's graph alone.
        agreement: the largest difference of a probability on the golden inputs, for each "engine/precision".
    """

    graph: dict[str, JsonValue]
    threshold: Part
    images: Annotated[int, Field(ge=1)]
    early: Part
    equal: Part
    accuracy: Part
    alone_accuracy: Part
    agreement: dict[str, Number]


class HeldOut(_Record):
    """How a classifier answered images that it was not trained on, which later answers are compared with.

    Attributes:
        confidences: images by confidence, in steps of a hundredth.
        labels: images by the class index that they were given.
    """

    confidences: Annotated[list[Count], Field(min_length=100, max_length=100)]
    labels: list[Count]


class Decisions(_Record):
    """Which answers are accepted, found by answers about images of training, each by networks without its family.

    Of an imported graph: by answers about the photos that it was calibrated with.

    Attributes:
        images: that were answered so.
        thresholds: by target precision, such as "0.95": the lowest confidence of each class that is accepted, or None
            where none is. None at all where the classes of the photos are not known.
        accepted: by target precision, the part of the images that are accepted.
        outliers: 101 quantiles of their outlier scores, from the lowest to the highest; above 1 an image is unknown.
            All 0 where the graph gives none.
    """

    images: Annotated[int, Field(ge=1)]
    thresholds: dict[str, list[Part | None]]
    accepted: dict[str, Part]
    outliers: Annotated[list[Annotated[Number, Field(ge=0)]], Field(min_length=101, max_length=101)]


class ManifestDraft(_Record):
    """What whoever trained the model knows; the store adds name, version, time and checksums.

    ``graph``, ``network`` and ``preprocessing`` are opaque here: what serving, training and reading images must know. A
    version that came as a graph has no network. ``training`` holds configuration, data fingerprint, counts and
    seconds a phase. ``precisions`` has a proof for each "engine/precision" below f32 that could be tried. ``cascade``
    is there where a first stage passed its gate, ``held_out`` where a training or an import was calibrated,
    ``decisions`` where that was by networks without the images' families, or by photos of an import. ``parents`` are
    the "name:version" of the backbones that the model grew on.
    """

    kind: Literal["classifier", "backbone"]
    graph: dict[str, JsonValue]
    network: dict[str, JsonValue] | None = None
    preprocessing: dict[str, JsonValue]
    classes: list[ClassEntry] = []
    training: dict[str, JsonValue] = {}
    scores: dict[str, Number] = {}
    golden: Golden | None = None
    precisions: dict[str, PrecisionProof] = {}
    cascade: Cascade | None = None
    held_out: HeldOut | None = None
    decisions: Decisions | None = None
    parents: list[Reference] = []

    @field_validator("classes")
    @classmethod
    def _labels_differ(cls, classes: list[ClassEntry]) -> list[ClassEntry]:
        twice = [label for label, count in Counter(entry.label for entry in classes).items() if count > 1]
        if twice:
            raise ValueError(f"several classes are called {', '.join(twice)}")
        return classes

    @model_validator(mode="after")
    def _a_classifier_has_classes(self) -> ManifestDraft:
        if self.kind == "classifier" and len(self.classes) < 2:
            raise ValueError("a classifier needs at least two classes")
        if self.held_out is not None and len(self.held_out.labels) != len(self.classes):
            raise ValueError("the images held out are counted by class")
        thresholds = self.decisions.thresholds if self.decisions is not None else {}
        if any(len(of_target) != len(self.classes) for of_target in thresholds.values()):
            raise ValueError("a target precision has as many thresholds as there are classes")
        return self


class Manifest(ManifestDraft):
    """A published model version. ``created`` is UTC, such as "2026-03-01T12:30:00Z"."""

    schema_version: Literal[7] = SCHEMA_VERSION
    name: Name
    version: Annotated[int, Field(ge=1)]
    created: str
    files: dict[FileName, FileEntry]

    @field_validator("created")
    @classmethod
    def _is_utc(cls, created: str) -> str:
        moment = datetime.fromisoformat(created.replace("Z", "+00:00"))  # Python 3.10 does not know the Z
        if moment.utcoffset() != timedelta(0):
            raise ValueError("must be a time in UTC, such as 2026-03-01T12:30:00Z")
        return created

    @property
    def reference(self) -> str:
        """ "name:version", which means this content for good."""
        return f"{self.name}:{self.version}"

    @property
    def expected(self) -> Expected | None:
        """How it answered images that it was not trained on; None where that is not known."""
        if self.held_out is None:
            return None
        outliers = self.decisions.outliers if self.decisions is not None else []
        return Expected(self.held_out.confidences, self.held_out.labels, outliers if any(outliers) else [])

    @property
    def digest(self) -> str:
        """The sha256 of the manifest's bytes on disk, and through its checksums of every file of the version."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Return the canonical bytes, as they lie on disk."""
        record = self.model_dump(mode="json")
        text = json.dumps(record, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Return the manifest these bytes hold; ``where`` names them in messages.

        Raises:
            ManifestError: they are too many, no JSON, no manifest, of another schema version, or not canonical: edited
                by hand.
        """
        if len(data) > MAX_BYTES:
            raise ManifestError(f"{where} has {len(data):,} bytes; a manifest has at most {MAX_BYTES:,}")
        try:
            found = json.loads(data)
            if isinstance(found, dict) and (version := found.get("schema_version")) != SCHEMA_VERSION:
                raise ManifestError(
                    f"{where} has schema version {version!r} and this Sortline reads {SCHEMA_VERSION}: another release "
                    "published it; train or import the model again"
                )
            manifest = cls.model_validate_json(data)
            canonical = manifest.to_bytes()
        except (ValueError, RecursionError) as error:  # pydantic's ValidationError is a ValueError
            raise ManifestError(f"{where} is not a manifest: {error}; publish the model again") from error
        if canonical != data:
            raise ManifestError(f"{where} was changed after it was published; restore it or publish the model again")
        return manifest
