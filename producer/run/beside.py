"""A second run of one command: another version labels images of the first run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from base.paths import text_to_path
from configs import Settings
from model_store import ModelStore, ModelVersion
from producer.errors import UsageError
from producer.models import find_model, pin_of
from producer.reports.request import Request
from producer.run import OnExisting
from producer.run.connection import Connection, label_rest, opened
from producer.run.opening import RunRequest
from producer.runfile import RunFile, StoredRow
from producer.runfile.inputs import digest_of
from producer.sources.images import Chosen
from producer.sources.since import InputFilter


@dataclass(frozen=True, slots=True)
class Beside:
    """Another version, as it was typed too, and which part of the images it labels.

    Attributes:
        why: what tells its run file from others.
    """

    version: ModelVersion
    reference: str
    why: str
    share: float = 1.0

    def chosen(self, rows: Iterable[StoredRow]) -> Iterator[StoredRow]:
        """Yield this part of the rows, the first among them, at even distances."""
        for number, row in enumerate(rows):
            if math.ceil((number + 1) * self.share) > math.ceil(number * self.share):
                yield row


def other_version(settings: Settings, request: RunRequest, other: str) -> ModelVersion:
    """Return the version that is to label beside that of ``request``; UsageError when it is the same one."""
    version = find_model(ModelStore(settings.store_root), other)
    if version.manifest.digest == request.version.manifest.digest:
        raise UsageError(f"{other} is {pin_of(version)}, the version that it would be compared with")
    if version.manifest.kind != "classifier":
        raise UsageError(f"{version.manifest.name} is a backbone, not a classifier, so it labels nothing")
    return version


@contextmanager
def second_run(
    connection: Connection,
    request: RunRequest,
    first: RunFile,
    beside: Beside,
    reports: Request,
    on_existing: OnExisting,
) -> Iterator[RunFile]:
    """Give the run of another version with all its rows: of images of ``first``, in the order of its reports.

    An unfinished one goes on, or is begun anew where it is of other images.
    """
    source = Chosen(request.source, lambda: (text_to_path(row.path) for row in beside.chosen(first.rows())))
    own = replace(
        request, source=source, version=beside.version, reference=beside.reference, beside=beside.why, since=None,
        duplicates=False, file_info=False, exif=False,
    )  # fmt: skip
    path = own.path(connection.settings)
    peeked = RunFile.peek(path) if path.exists() and on_existing == "resume" else None
    if peeked is not None and digest_of(source.paths(), InputFilter("")) != (peeked[0].total, peeked[0].inputs_digest):
        on_existing = "overwrite"
    with opened(connection, own, reports, on_existing) as run:
        label_rest(connection, run)
        yield run
