"""Two versions label the same images; what differs becomes a page, a table that review opens, and a summary."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from base.paths import path_to_text, text_to_path
from configs import Settings
from model_store import ModelStore, ModelVersion
from producer.errors import OK, UsageError
from producer.local.session import is_alone
from producer.models import find_model, pin_of
from producer.reports.comparison import Comparison, compared, write_table
from producer.reports.comparison_page import write_comparison_page
from producer.reports.output import refuse_other_formats
from producer.reports.report import replacing
from producer.reports.request import Request
from producer.run.labelling import Connection, Labelling, announce, execute_run, opened, prepare
from producer.run.opening import RunRequest
from producer.runfile import RunFile, StoredRow
from producer.runfile.inputs import digest_of
from producer.sources.images import Chosen
from producer.sources.since import InputFilter
from producer.terminal.progress import RunView

KEPT_LABELS = 5  # of each image
SUFFIXES = ("html", "csv")


def comparison_request(output: Path) -> Request:
    """Return where page, table and summary of a comparison go: beside each other, or into a folder."""
    path = Path(os.path.abspath(output))  # noqa: PTH100 - links stay as the user wrote them
    if path.is_dir() or path.suffix.lower().removeprefix(".") not in SUFFIXES:
        refuse_other_formats(path, SUFFIXES)
        page, summary = path / "comparison.html", path / "summary.json"
    else:
        page, summary = path.with_suffix(".html"), path.with_suffix(".summary.json")
    outputs = {"page": str(page), "table": str(page.with_suffix(".csv")), "summary": str(summary)}
    return Request(outputs=outputs, ranks=KEPT_LABELS)


def compare_versions(settings: Settings, labelling: Labelling, other: str) -> int:
    """Label a source by two versions through the queue and write what differs; return the exit code.

    Args:
        labelling: its model is the first version; its reports are those of `comparison_request`.
        other: the second version.
    """
    settings, request = prepare(settings, labelling)
    version = other_version(settings, request, other)
    reports = labelling.reports
    with RunView(quiet=labelling.quiet) as view, ExitStack() as opening:
        connection = Connection(opening, settings, view)
        if not request.path(settings).exists() or not is_alone(settings):
            connection.open()
        with opened(connection, labelling, request) as first:
            label_rest(connection, first)
            second_request = beside(request, first, version, other, "compared")
            view.say(f"the same images by {version.manifest.reference}")
            with opened(connection, _for_inputs(connection, labelling, second_request), second_request) as second:
                label_rest(connection, second)
                view.stop()
                found = Comparison(first.plan.model, second.plan.model)
                models = found.first, found.second
                write_table(first, compared(first, second, found), reports.path("table"), models)
                write_comparison_page(
                    first,
                    found,
                    reports.main,
                    reports.path("table"),
                    max_pixels=settings.max_image_pixels,
                    say=view.say,
                )
                _write_summary(first, second, found, reports.path("summary"))
        view.say(found.sentence())
        for before, after, images in found.moved()[:3]:
            view.say(f"  {images:,} go from {before} to {after}")
        files = [_relative(path) for path in (reports.main, reports.path("table"), reports.path("summary"))]
        view.say(f"comparison: {files[0]}, beside it {files[1].name} and {files[2].name}")
        if found.images > found.agreed.right:
            view.say(f"to look at what differs: sortline review {files[1]} --order disagreement")
    return OK


def other_version(settings: Settings, request: RunRequest, other: str) -> ModelVersion:
    """Return the version that is to label beside that of ``request``; UsageError when it is the same one."""
    version = find_model(ModelStore(settings.store_root), other)
    if version.manifest.digest == request.version.manifest.digest:
        raise UsageError(f"{other} is {pin_of(version)}, the version that it would be compared with")
    if version.manifest.kind != "classifier":
        raise UsageError(f"{version.manifest.name} is a backbone, not a classifier, so it labels nothing")
    return version


def beside(
    request: RunRequest,
    first: RunFile,
    version: ModelVersion,
    reference: str,
    why: str,
    chosen: Callable[[Iterator[StoredRow]], Iterator[StoredRow]] = lambda rows: rows,
) -> RunRequest:
    """Return what another version is to label: images of the run ``first``, as they stand in its reports.

    Args:
        why: what tells its run file from others.
    """
    source = Chosen(request.source, lambda: (text_to_path(row.path) for row in chosen(first.rows())))
    return replace(
        request, source=source, version=version, reference=reference, beside=why, since=None, duplicates=False,
        file_info=False, exif=False,
    )  # fmt: skip


def label_rest(connection: Connection, run: RunFile) -> None:
    """Label what has no row yet."""
    if run.done == run.total:
        return
    session = connection.open()
    announce(session, run)
    execute_run(session, run, connection.view)
    session.board.update(run.plan.run, state="done", text=f"{run.total} rows, {run.failed} failed")


def _for_inputs(connection: Connection, labelling: Labelling, request: RunRequest) -> Labelling:
    """Return how the second run is opened: begun anew where an unfinished one is of other images."""
    peeked = RunFile.peek(path) if (path := request.path(connection.settings)).exists() else None
    if peeked is None or labelling.on_existing != "resume":
        return labelling
    wanted = digest_of(request.source.paths(), InputFilter(""))
    plan = peeked[0]
    return labelling if wanted == (plan.total, plan.inputs_digest) else replace(labelling, on_existing="overwrite")


def _write_summary(first: RunFile, second: RunFile, found: Comparison, path: Path) -> None:
    plan = first.plan
    record = {"source": plan.source, "base": path_to_text(plan.base), "runs": [plan.run, second.plan.run]}
    with replacing(path, first.path) as draft:
        text = json.dumps(record | found.to_json(), indent=2, ensure_ascii=False)
        draft.write_text(text + "\n", encoding="utf-8")


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
