"""A labelled folder is audited: wrong labels, duplicates, data leakage, as a table that can be mended, and a page."""

from __future__ import annotations

import csv
import io
import os
import struct
from array import array
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from base.files import replacing, write_file
from base.paths import text_to_path
from base.text import printable, safe_cell
from configs import Settings
from jobs import Finding
from producer.errors import UsageError
from producer.local.session import open_session
from producer.reports.output import refuse_unwritable
from producer.reports.parquet import check_pyarrow
from producer.training.audit_page import audit_page
from producer.training.events import follow
from producer.training.jobs import Training, TrainingFailed, enqueue_training, new_job, plan_training

SHOWN = 10  # findings on the screen
COLUMNS = (
    "path", "label", "suggested", "label_probability", "suggested_probability", "suspicious", "same_as", "similar_to",
    "leak", "outlier", "blur", "dark", "overexposed", "tiny", "odd_shape",
)  # fmt: skip
PATHS = ("path", "same_as", "similar_to", "leak")


def audit(settings: Settings, training: Training, output: Path, embeddings: Path | None = None) -> None:
    """Queue an audit, follow it, write its table and page and show the first findings.

    Args:
        embeddings: where the features of each image go, as a Parquet file.

    Raises:
        ProducerError: the job failed or was cancelled, or a file can't be written.
    """
    output, page = output.with_suffix(".csv") if output.suffix == ".html" else output, output.with_suffix(".html")
    for path in filter(None, (output, page, embeddings)):
        refuse_unwritable(path)
    if embeddings is not None:
        check_pyarrow("--embeddings")
        if not settings.training.backbones:
            raise UsageError("--embeddings needs a recipe with a backbone: a network without one has no features")
    console = Console(stderr=True, quiet=training.quiet, highlight=False, soft_wrap=True)
    if settings.broker is None:
        plan_training(settings.model_copy(update={"data_root": Path("/")}), training)  # fail early
    with open_session(settings, ["train"]) as session:
        job = plan_training(session.settings, training, purpose="audit", job=new_job(training.name))
        job = job.model_copy(update={"embeddings": embeddings is not None})
        enqueue_training(session, job)
        console.print(f"job {job.job}", markup=False)
        findings: list[Finding] = []
        vectors: list[str] = []
        sentence = ""
        for event in follow(session, [job.job], [job]):
            if event is None:
                continue
            if event.state in ("failed", "cancelled"):
                raise TrainingFailed(f"job {job.job} {event.state}: {event.text}")
            findings += getattr(event, "findings", ())
            vectors += getattr(event, "embeddings", ())
            sentence = event.text
            console.print(event.text, markup=False)
    root = str(session.settings.data_root)
    write_file(output, table_of(findings, root).encode())
    write_file(page, audit_page(findings, sentence, output, root, settings.max_image_pixels).encode())
    if embeddings is not None:
        write_embeddings(findings, vectors, root, embeddings)
    if any(finding.suspicious for finding in findings):
        console.print(_shown(findings), soft_wrap=False)
    duplicates, lookalikes, leaks = (
        sum(bool(getattr(finding, name)) for finding in findings) for name in ("same_as", "similar_to", "leak")
    )
    print(
        f"{sentence}; {duplicates} images have the same bytes as another, {lookalikes} look like another of their "
        f"class, {leaks} are alike across train and val"
    )
    print(f"{output}: the most suspicious first, and {page} with pictures")
    print(f"to correct labels in a browser: sortline review {output}")
    print(f"or mend its column label, then: sortline train {output}")


def table_of(findings: Sequence[Finding], data_root: str) -> str:
    """Return the findings as CSV; paths absolute, so that it is a dataset wherever it lies."""

    def absolute(path: str) -> str:
        return os.path.join(data_root, path) if path else ""  # noqa: PTH118

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for finding in findings:
        values = finding._asdict()
        values |= {name: absolute(values[name]) for name in PATHS}
        writer.writerow([safe_cell(value) if isinstance(value, str) else value for value in values.values()])
    return text.getvalue()


def _shown(findings: Sequence[Finding]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("most suspicious", "label", "suggested", "sure"):
        table.add_column(column, overflow="fold")
    for finding in [finding for finding in findings if finding.suspicious][:SHOWN]:
        name = printable(text_to_path(finding.path))
        table.add_row(name, finding.label, finding.suggested, f"{finding.suggested_probability:.0%}")
    return table


def write_embeddings(findings: Sequence[Finding], vectors: Sequence[str], root: str, path: Path) -> None:
    """Write path, label and vector of each image, in the order of the table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = array("f")
    for vector in vectors:
        values.extend(struct.unpack(f"<{len(data) // 2}e", data) if (data := b64decode(vector)) else ())
    columns = {
        "path": [os.path.join(root, finding.path) for finding in findings],  # noqa: PTH118
        "label": [finding.label for finding in findings],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values, pa.float32()), len(values) // len(findings)),
    }
    with replacing(path) as beside:
        pq.write_table(pa.table(columns), beside, compression="zstd")
