"""Two versions label the same images; what differs becomes a page, a table that review opens, and a summary."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

from base.paths import path_to_text
from configs import Settings
from producer.errors import OK
from producer.local.session import is_alone
from producer.reports.comparison import Comparison, compared, write_table
from producer.reports.comparison_page import write_comparison_page
from producer.reports.output import refuse_other_formats
from producer.reports.report import replacing
from producer.reports.request import Request
from producer.run.beside import Beside, other_version, second_run
from producer.run.connection import Connection, label_rest, opened
from producer.run.labelling import Labelling, prepare
from producer.runfile import RunFile
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
    reports, on_existing = labelling.reports, labelling.on_existing
    with RunView(quiet=labelling.quiet) as view, ExitStack() as opening:
        connection = Connection(opening, settings, view)
        if not request.path(settings).exists() or not is_alone(settings):
            connection.open()
        with opened(connection, request, reports, on_existing) as first:
            label_rest(connection, first)
            view.say(f"the same images by {version.manifest.reference}")
            beside = Beside(version, other, "compared")
            with second_run(connection, request, first, beside, reports, on_existing) as second:
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


def _write_summary(first: RunFile, second: RunFile, found: Comparison, path: Path) -> None:
    plan = first.plan
    record = {"source": plan.source, "base": path_to_text(plan.base), "runs": [plan.run, second.plan.run]}
    with replacing(path, first.path) as draft:
        text = json.dumps(record | found.to_json(), indent=2, ensure_ascii=False)
        draft.write_text(text + "\n", encoding="utf-8")


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
