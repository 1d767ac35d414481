"""The images that are reviewed: those of a run, finished or not, or of a table: an audit, a foreign report."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from base.decisions import DECISIONS, Decision
from base.paths import path_to_text, text_to_path
from base.text import plain_cell
from base.text_files import TextError, read_table
from base.urls import is_url
from configs import Settings
from producer.errors import UsageError
from producer.reports.comparison_page import version_in
from producer.reports.layout import Layout
from producer.reports.request import Request, requests_of_text
from producer.review.embeddings import read_embeddings
from producer.run.opening import find_run_file
from producer.runfile import RunFile
from producer.sources.table import base_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROBED = 20  # images that are looked for to find out where they lie on this machine
TABLES = (".csv", ".tsv", ".txt")
_AUDITED = (("label", "label_probability"), ("suggested", "suggested_probability"))


class ReviewImage(NamedTuple):
    """One image: its path as reports show it, absolute as text, its labels with the most probable first, its error.

    ``other`` is what another version says, where one has labelled it too; ``outlier`` is larger where it is less like
    the images of the training, None where that isn't known. ``decision`` is what became of the answer, if that was
    decided.
    """

    path: str
    key: str
    ranked: Sequence[tuple[int, float]]
    error: str
    detail: str
    sha256: str = ""
    other: tuple[str, float] | None = None
    outlier: float | None = None
    decision: Decision | None = None

    @property
    def margin(self) -> float:
        """How much surer the first label is than the second."""
        second = self.ranked[1][1] if len(self.ranked) > 1 else 1 - self.ranked[0][1]
        return self.ranked[0][1] - second


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What is reviewed.

    Attributes:
        labels: by class index.
        version: of the model, as ``kitchen:3``; "" where it isn't known.
        root: no file outside it is read, whatever links lie in it.
        corrections: where they belong by default.
        source: SOURCE of the run, to label it again; "" where it isn't known.
        pages: further pictures of files, which are left out: a correction is of a file.
        other: the other version that has labelled some of the images too, "" where there is none.
        embeddings: a vector of length 1 for each image, NaN where there is none; None where none are known.
    """

    title: str
    version: str
    labels: list[str]
    images: list[ReviewImage]
    root: Path
    corrections: Path
    source: str = ""
    pages: int = 0
    other: str = ""
    embeddings: NDArray[np.float32] | None = None

    def label(self, image: ReviewImage) -> str:
        """Return what was predicted, "" where nothing was."""
        return self.labels[image.ranked[0][0]] if image.ranked else ""

    @property
    def has_outliers(self) -> bool:
        """Whether the version, or an audit, has said how unlike the others an image is."""
        return any(image.outlier is not None for image in self.images)

    @property
    def has_decisions(self) -> bool:
        """Whether it is decided which answers are accepted."""
        return any(image.decision is not None for image in self.images)

    def disagreement(self, image: ReviewImage) -> tuple[int, float]:
        """Return how much two versions disagree: more where they are surer of two labels, less where it is one label.

        Of one label, the difference of their confidences counts. An image that one has not labelled comes last.
        """
        if image.other is None or not image.ranked:
            return 0, 0.0
        confidence, (label, other) = image.ranked[0][1], image.other
        return (2, confidence + other) if label != self.label(image) else (1, abs(confidence - other))


def open_collection(
    settings: Settings, text: str, data_root: Path | None = None, embeddings: Path | None = None
) -> Collection:
    """Return the images that ``text`` means: a run, a report of a run of this machine, or any table of labels.

    Args:
        data_root: where the images lie on this machine, if not where they lay when they were labelled.
        embeddings: a Parquet file of what a network sees in them.

    Raises:
        UsageError: there is no such run, the table is none, its images are behind a URL, or the
            ``embeddings`` are of others.
    """
    found = _found(settings, text, data_root)
    if embeddings is None:
        return found
    return replace(found, embeddings=read_embeddings(embeddings, [image.key for image in found.images]))


def _found(settings: Settings, text: str, data_root: Path | None) -> Collection:
    given = Path(os.path.abspath(text))  # noqa: PTH100 - links stay as the user wrote them
    try:
        path = find_run_file(settings, text)
    except UsageError:
        if given.suffix.lower() in TABLES and given.is_file():
            return _of_table(given, data_root)
        raise
    return _of_run(path, given, data_root)


def _of_run(path: Path, given: Path, data_root: Path | None) -> Collection:
    with RunFile.reading(path) as reading:
        plan, rows, others = reading.plan, list(reading.rows), reading.shadow_answers
    if is_url(plan.data_root) and data_root is None:
        raise UsageError(
            f"the images of run {plan.run} lie behind {plan.data_root}: copy them, then say where with --data-root"
        )
    asked = _asked(requests_of_text((RunFile.peek(path) or (plan, []))[1]), given)
    layout = Layout.of(
        plan,
        min_confidence=asked.min_confidence if asked is not None else None,
        target_precision=asked.target_precision if asked is not None else None,
    )
    place = _place(plan.base, [row.path for row in rows[:PROBED]], data_root)
    images = [
        ReviewImage(
            row.path,
            place.key(row.path),
            row.top,
            row.error or "",
            row.detail,
            row.sha256,
            others.get(row.input_index),
            row.outlier,
            layout.decision(row),
        )
        for row in rows
        if row.page <= 1
    ]
    return Collection(
        title=plan.source,
        version=str(plan.model),
        labels=plan.labels,
        images=images,
        root=data_root or Path(plan.base if plan.walked else plan.data_root),
        corrections=_beside(path, asked),
        source=plan.source if plan.walked else "",
        pages=len(rows) - len(images),
        other=version_in(reading.shadow, "second") if reading.shadow is not None else "",
    )


def _of_table(table: Path, data_root: Path | None) -> Collection:
    try:
        header, rows = read_table(table)
    except TextError as error:
        raise UsageError(str(error)) from error
    if "path" not in header or not {"label", "status"} & set(header):
        raise UsageError(f"{table} has the columns {', '.join(header) or 'none'}; review needs path and label")
    base = base_of(table)
    place = _place(base, [text_of(cells, "path") for _, cells in rows[:PROBED]], data_root)
    labels: dict[str, int] = {}
    images = []
    for number, cells in rows:
        if not (path := text_of(cells, "path")):
            raise UsageError(f"{table}, line {number}: it has no path")
        ranked = _ranked(cells, labels, f"{table}, line {number}")
        reason = "" if ranked else text_of(cells, "error") or "missing"
        key = place.key(path)
        detail, digest = text_of(cells, "error_detail"), cells.get("sha256", "")
        other = _number(cells, "other_confidence", f"{table}, line {number}") if cells.get("other_label") else None
        images.append(
            ReviewImage(
                path, key, ranked, reason, detail, digest,
                (text_of(cells, "other_label"), other) if other is not None else None,
                _number(cells, "outlier", f"{table}, line {number}", most=math.inf) if cells.get("outlier") else None,
                said if (said := cells.get("decision")) in DECISIONS else None,
            )
        )  # fmt: skip
    if not images:
        raise UsageError(f"{table} has no rows")
    folders = {os.path.dirname(image.key) for image in images}  # noqa: PTH120
    is_listed = any(text_of(cells, "path").startswith("/") for _, cells in rows)
    return Collection(
        title=table.name,
        version=next((cells["model"] for _, cells in rows if "model" in cells), ""),
        other=next((cells["other_model"] for _, cells in rows if "other_model" in cells), ""),
        labels=list(labels),
        images=images,
        root=data_root or Path(text_to_path(os.path.commonpath(folders)) if is_listed else base),
        corrections=table.with_name(f"{table.stem}.corrections.csv"),
    )


def text_of(cells: dict[str, str], column: str) -> str:
    """Return what a cell of ours says, without the sign that keeps spreadsheets from running it."""
    return plain_cell(cells.get(column, ""))


def _ranked(cells: dict[str, str], labels: dict[str, int], where: str) -> list[tuple[int, float]]:
    """Return the labels of a row with their confidences; those that an audit gives and suggests, where it is one."""
    found: list[tuple[int, float]] = []
    for name, number in _AUDITED if "suggested" in cells else _labelled():
        if not (label := text_of(cells, name)):
            break
        value = _number(cells, number, where, "1" if not found else "0")
        index = labels.setdefault(label, len(labels))
        if index not in [known for known, _ in found]:
            found.append((index, value))
    return found


def _labelled() -> Iterator[tuple[str, str]]:
    """Yield the columns of a report: label and confidence, the most probable first, without end."""
    yield "label", "confidence"
    for rank in count(2):
        yield f"label_{rank}", f"confidence_{rank}"


def _number(cells: dict[str, str], column: str, where: str, default: str = "", most: float = 1) -> float:
    """Return a cell that holds a confidence, or another number from 0 to ``most``."""
    try:
        value = float(cells.get(column, default).replace(",", "."))
    except ValueError as error:
        raise UsageError(f"{where}: {column} is {cells.get(column, default)!r}, not a number") from error
    if not 0 <= value <= most:
        raise UsageError(f"{where}: {column} is {cells[column]}, and not from 0 to {most:g}")
    return value


class _Place(NamedTuple):
    """Where images lie: relative paths below ``base``; it replaces the first ``dropped`` folders of absolute ones."""

    base: str
    dropped: int | None

    def key(self, path: str) -> str:
        if path.startswith("/"):
            if self.dropped is None:
                return os.path.normpath(path)
            path = "/".join(path.split("/")[1 + self.dropped :])
        return os.path.normpath(f"{path_to_text(self.base)}/{path}")


def _place(base: str, paths: Sequence[str], data_root: Path | None) -> _Place:
    """Return where the images lie: as labelled, or below ``data_root`` with as much of their path as is there."""
    if data_root is None:
        return _Place(base, None)
    root = os.path.abspath(data_root)  # noqa: PTH100
    folders = [folder for folder in base.split("/") if folder]
    bases = [os.path.join(root, *folders[place:]) for place in range(len(folders) + 1)]  # noqa: PTH118
    places = [_Place(candidate, None) for candidate in bases]
    most = max((path.count("/") for path in paths), default=0)
    places = [_Place(root, dropped) for dropped in range(most)] if any(map(_is_absolute, paths)) else places
    for place in places:
        if any(os.path.exists(text_to_path(place.key(path))) for path in paths):  # noqa: PTH110
            return place
    raise UsageError(f"--data-root {data_root}: none of the first {len(paths)} images is below it, such as {paths[0]}")


def _is_absolute(path: str) -> bool:
    return path.startswith("/")


def _asked(requests: Sequence[Request], given: Path) -> Request | None:
    """Return what was asked for of the report that was named, or of the one made last."""
    named = [request for request in requests if str(given) in request.outputs.values()] or requests
    return named[-1] if named else None


def _beside(run: Path, asked: Request | None) -> Path:
    """Return where the corrections of a run belong: beside the report; else beside the run."""
    if asked is None:
        return run.with_suffix(".corrections.csv")
    errors = asked.path("errors")
    return errors.with_name(errors.name.removesuffix("errors.csv") + "corrections.csv")
