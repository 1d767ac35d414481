"""A labelled folder is audited: wrong labels, duplicates, lookalikes, as a table that can be mended and trained on."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from base.files import write_file
from base.paths import text_to_path
from base.text import printable, safe_cell
from configs import Settings
from jobs import Finding
from producer.local.session import open_session
from producer.reports.output import refuse_unwritable
from producer.training.events import follow
from producer.training.jobs import Training, TrainingFailed, enqueue_training, new_job, plan_training

SHOWN = 10  # findings on the screen
COLUMNS = (
    "path", "label", "suggested", "label_probability", "suggested_probability", "suspicious", "same_as", "similar_to",
)  # fmt: skip


def audit(settings: Settings, training: Training, output: Path) -> None:
    """Queue an audit, follow it, write its table and show the first findings.

    Raises:
        ProducerError: the job failed or was cancelled, or ``output`` can't be written.
    """
    refuse_unwritable(output)
    console = Console(stderr=True, quiet=training.quiet, highlight=False, soft_wrap=True)
    if settings.broker is None:
        plan_training(settings.model_copy(update={"data_root": Path("/")}), training)  # fail early
    with open_session(settings, ["train"]) as session:
        job = plan_training(session.settings, training, purpose="audit", job=new_job(training.name))
        enqueue_training(session, job)
        console.print(f"job {job.job}", markup=False)
        findings: list[Finding] = []
        sentence = ""
        for event in follow(session, [job.job], [job]):
            if event is None:
                continue
            if event.state in ("failed", "cancelled"):
                raise TrainingFailed(f"job {job.job} {event.state}: {event.text}")
            findings += getattr(event, "findings", ())
            sentence = event.text
            console.print(event.text, markup=False)
    write_file(output, table_of(findings, str(session.settings.data_root)).encode())
    console.print(_shown(findings), soft_wrap=False)
    duplicates = sum(bool(finding.same_as) for finding in findings)
    lookalikes = sum(bool(finding.similar_to) for finding in findings)
    print(
        f"{sentence}; {duplicates} images have the same bytes as another, {lookalikes} look like another of their class"
    )
    print(f"{output}: the most suspicious first; mend its column label, then: sortline train {output}")


def table_of(findings: Sequence[Finding], data_root: str) -> str:
    """Return the findings as CSV; paths absolute, so that it is a dataset wherever it lies."""

    def absolute(path: str) -> str:
        return os.path.join(data_root, path) if path else ""  # noqa: PTH118

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for finding in findings:
        values = finding._asdict()
        values |= {name: absolute(values[name]) for name in ("path", "same_as", "similar_to")}
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
